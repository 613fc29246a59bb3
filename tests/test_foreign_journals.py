"""Journals with an unknown or damaged line cause no unexpected error in any verb."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.cli import Cli
from support.journals import write_run

RUNS = Path("outputs/runs")

FOREIGN = {
    b"3": "not an event: '3'",
    b"[]": "not an event: '[]'",
    b"{}": "not an event: '{}'",
    b'{"kind": "confetti", "time": 1}': "unknown event: ",
    b'{"kind": "end", "time": 1}': "end.status is missing or invalid: ",
    b'{"kind": "end", "time": 1, "st': "damaged: ",
    b"[" * 100_000: "damaged: ",
}


@pytest.fixture(params=FOREIGN, ids=lambda line: line[:40].decode())
def line(request: pytest.FixtureRequest) -> bytes:
    return bytes(request.param)


def append(run: Path, line: bytes) -> bytes:
    """Append a line to a run's journal, and return the whole journal."""
    file = run / "journal.jsonl"
    file.write_bytes(file.read_bytes() + line + b"\n")
    return file.read_bytes()


def test_runs_lists_them(cli: Cli, line: bytes):
    """A dead run is listed as killed, and its journal is not changed."""
    run = write_run(RUNS / "a", enabled=False, end=False)
    whole = append(run, line)
    assert "killed" in cli("runs").out
    assert (run / "journal.jsonl").read_bytes() == whole


def test_sync_reports_them(cli: Cli, line: bytes):
    """The message has the line, whether or not the run was named."""
    run = write_run(RUNS / "a")
    number = append(run, line).count(b"\n")
    for words in (("sync",), ("sync", "run=a")):
        out = cli(*words, status=1).out
        assert f"outputs/runs/a: not delivered: outputs/runs/a/journal.jsonl:{number}: {FOREIGN[line]}" in out


def test_a_journal_without_its_first_line_is_not_delivered(cli: Cli):
    """The first event identifies the run; `sync` reports that it is missing."""
    run = write_run(RUNS / "a")
    file = run / "journal.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[1:]))
    out = cli("sync", "run=a", "tracking.uri=sqlite:///other.db", status=1).out
    assert (
        "outputs/runs/a: not delivered: outputs/runs/a/journal.jsonl:1: must be a run event, found params" in out
    )
    assert "tracking.uri=…" in cli("sync", "run=a", status=2).err


@pytest.mark.parametrize("content", [b"", b'{"kind": "ru'])
def test_a_run_that_died_before_its_first_event_is_marked(cli: Cli, content: bytes):
    """It died between creating the journal and writing to it."""
    run = write_run(RUNS / "a", end=False)
    (run / "journal.jsonl").write_bytes(content)
    assert "killed" in cli("runs").out
    assert json.loads((run / "result.json").read_text())["status"] == "killed"
