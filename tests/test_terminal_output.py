"""Terminal output: no control characters from files, and every damaged run is listed."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import Cli
from support.journals import write_run

from mnist_exp.text import escape_controls, printable

RUNS = Path("outputs/runs")
EVIL = "m\x1b]0;owned\x07\x1b[2Jist\nFAKE LINE\r\x9b31m\u202e"


def change_result(run: Path, **values: object) -> None:
    """Write values that an attacker could have chosen into a `result.json`."""
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | values))


def refuse_controls(text: str) -> None:
    assert not {character for character in text if not character.isprintable()} - {"\n"}


@pytest.mark.parametrize("verb", [["runs"], ["compare", "run=outputs/runs/*"], ["sync"], ["evaluate", "run=a"]])
def test_names_and_statuses_are_escaped(cli: Cli, verb: list[str]):
    """This holds in tables and messages; a line feed in a name starts no new line."""
    run = write_run(RUNS / "a\x1b[31m\x07")
    change_result(run, status="fini\x1b[31mshed", data={"name": EVIL, "class_names": [EVIL]}, reason=EVIL)
    write_run(RUNS / "b\x1b[31m")
    (RUNS / "b\x1b[31m" / "journal.jsonl").write_text("\x1b[31m\n")
    done = cli(*verb, status=None)
    refuse_controls(done.out + done.err)
    assert "\\x1b" in done.out + done.err
    assert not any(line.startswith("FAKE LINE") for line in done.out.splitlines())


def test_predictions_on_a_terminal_are_escaped():
    """A program that reads them gets the unchanged names."""
    code = (
        "from types import SimpleNamespace as N; from mnist_exp.report.predictions import write_predictions; "
        "from mnist_exp.report.predictions import Prediction as P; "
        "write_predictions([P('a\\x1b[31m', 0, '0', .5, '1', .5)], N(written_format='csv', output=None, predict=N(many=False)), print)"
    )
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stdout=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 10_000)
    os.close(ours)
    assert b"\x1b" not in shown
    assert b"a\\x1b[31m" in shown
    piped = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout
    assert b"a\x1b[31m" in piped


def test_escapes_keep_what_people_write():
    """Letters of any language are kept, as are tabs and line feeds in messages, but not in cells."""
    assert printable("größe  日本\tx\ny") == "größe  日本\tx\ny"
    assert escape_controls("a\tb\n", one_line=True) == "a\\tb\\n"
    assert printable("\x1b\x7f\x9b\u202e\u2028") == "\\x1b\\x7f\\x9b\\u202e\\u2028"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "journal.jsonl: empty"),
        ("\0\0\n", "journal.jsonl:1: damaged"),
        ("5\n", "journal.jsonl:1: not an event"),
        ("[]\n", "journal.jsonl:1: not an event"),
        ('{"time": 1}\n', "journal.jsonl:1: unknown event"),
        ('{"kind": 5}\n', "journal.jsonl:1: not an event"),
    ],
)
def test_a_dead_run_with_a_damaged_journal_is_listed_with_its_fault(cli: Cli, content: str, fault: str):
    """All other runs are listed, and the dead one is marked as killed."""
    write_run(RUNS / "a")
    dead = write_run(RUNS / "dead", end=False)
    (dead / "journal.jsonl").write_text(content)
    done = cli("runs")
    assert f"outputs/runs/dead/{fault}" in done.out
    assert "outputs/runs/a" not in done.out
    rows = [line.split() for line in done.out.splitlines()]
    lines = {row[0]: row[1] for row in rows if row and row[0] in ("a", "dead")}
    assert lines == {"a": "finished", "dead": "killed"}
    assert json.loads((dead / "result.json").read_text())["status"] == "killed"
    assert "unexpected" not in cli("sync", status=None).err


def test_a_dead_run_with_a_damaged_result_is_listed_with_its_fault(cli: Cli):
    """The fault replaces its figures."""
    write_run(RUNS / "a")
    (write_run(RUNS / "b") / "result.json").write_text("{")
    done = cli("runs")
    assert "outputs/runs/b/result.json: damaged" in done.out


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_backend_of_keras_is_refused(cli: Cli, monkeypatch: pytest.MonkeyPatch, backend: str):
    """The message is one sentence, and nothing is created."""
    monkeypatch.setenv("KERAS_BACKEND", backend)
    done = cli("model=linear", "data=digits", status=2)
    assert (
        done.err == f"mnist-exp: KERAS_BACKEND={backend}: mnist-exp trains with TensorFlow; unset KERAS_BACKEND\n"
    )
    assert not Path("outputs").exists()
    assert cli("runs").status == 0
