"""Run directories: names, locks, whole files, and finding a run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.cli import PATIENCE

from mnist_exp.errors import RequestError
from mnist_exp.runs.atomic import replace_file, write_text
from mnist_exp.runs.directory import RunDirectory, columns, list_runs, safe_name, summarize
from mnist_exp.runs.lookup import find_run, read_config


def make_run(outputs: Path, name: str, started: float = 0, **result: object) -> Path:
    path = outputs / "runs" / name
    path.mkdir(parents=True)
    document = {
        "status": "finished", "started": started, "data": {"name": "digits", "sha256": "d"},
        "best": {"epoch": 1, "val/accuracy": 0.5}, **result,
    }  # fmt: skip
    (path / "result.json").write_text(json.dumps(document))
    return path


def test_processes_that_start_at_once_do_not_share_a_directory(tmp_path: Path):
    """Twelve processes with the same run name get twelve directories."""
    code = (
        "import sys, time; from pathlib import Path; from mnist_exp.runs.directory import RunDirectory\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "print(RunDirectory.create(Path(sys.argv[1]), 'same').name)"
    )
    start = str(time.time() + 1.5)
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), start], stdout=subprocess.PIPE, text=True)
        for _ in range(12)
    ]
    names = {process.communicate(timeout=60 * PATIENCE)[0].strip() for process in processes}
    assert names == {"same"} | {f"same-{number}" for number in range(2, 13)}


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("lenet5x5-none", "lenet5x5-none"),
        ("a=b,c d/e", "a-b-c-d-e"),
        ("../..", "run"),
        ("", "run"),
        ("ümlaut", "ümlaut"),
    ],
)
def test_names_are_safe(name: str, safe: str):
    """They contain no `=` or `,`, and no path."""
    assert safe_name(name) == safe


def test_a_directory_that_cannot_be_created_is_reported(tmp_path: Path):
    """The message has the path and the reason."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="outputs: .*file.* cannot be written: Not a directory"):
        RunDirectory.create(tmp_path / "file" / "runs", "x")


def test_a_run_whose_process_is_gone_was_killed(tmp_path: Path):
    """It is running while its process lives, and killed as soon as the process is gone."""
    code = (
        "import os, sys; from pathlib import Path; from mnist_exp.runs.directory import RunDirectory\n"
        "from mnist_exp.runs.result import DataRecord, RunResult\n"
        "run = RunDirectory.create(Path(sys.argv[1]), 'x'); run.write_result(RunResult(started=1, status='running', data=DataRecord(), pid=os.getpid()))\n"
        "print('there', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    found = summarize(tmp_path / "x")
    assert found is not None
    assert found.status == "running"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    found = summarize(tmp_path / "x")
    assert found is not None
    assert found.status == "killed"


def test_a_damaged_result_is_shown_as_such(tmp_path: Path):
    """It does not hide the other runs."""
    make_run(tmp_path, "good", 1)
    (make_run(tmp_path, "bad", 2) / "result.json").write_text('{"status"')
    (tmp_path / "runs" / "not-a-run").mkdir()
    assert {run.name: run.status for run in list_runs(tmp_path)} == {"good": "finished", "bad": "damaged"}


def test_a_file_is_whole_or_as_before(tmp_path: Path):
    """A failed write changes nothing and leaves nothing behind."""
    file = tmp_path / "run" / "file.txt"
    file.parent.mkdir()
    write_text(file, "before")
    with pytest.raises(ZeroDivisionError), replace_file(file) as temporary:
        temporary.write_text(f"half {1 / 0}")
    assert file.read_text() == "before"
    assert [path.name for path in file.parent.iterdir()] == ["file.txt"]


def test_history_has_the_columns_of_the_contract():
    """They are in a fixed order, followed or separated by further metrics."""
    assert ",".join(columns([{"epoch": 1, "val/loss": 1, "train/f1": 0}])) == (
        "epoch,train/loss,train/accuracy,val/loss,val/accuracy,learning_rate,seconds,train/f1"
    )


def test_a_run_is_found_by_path_or_name(tmp_path: Path):
    """It may be given as a path, latest, best, a name, or the beginning of a name."""
    old = make_run(tmp_path, "pyramid-1", 1, best={"epoch": 1, "val/accuracy": 0.9})
    new = make_run(tmp_path, "linear-2", 2)
    make_run(tmp_path, "linear-3", 3, status="failed")
    make_run(
        tmp_path, "other-0", 0, data={"name": "mnist", "sha256": "m"}, best={"epoch": 1, "val/accuracy": 0.99}
    )
    assert find_run(str(old), tmp_path).path == old
    assert find_run("latest", tmp_path).path == new
    assert find_run("best", tmp_path).path == old  # the best on the data of the latest
    assert find_run("linear-2", tmp_path).path == new
    assert find_run("pyramid", tmp_path).path == old
    with pytest.raises(
        RequestError, match=r"linear: 2 runs match; give the whole name of one:\n  linear-3\n  linear-2"
    ):
        find_run("linear", tmp_path)
    with pytest.raises(RequestError, match=r"pyramyd-1: there is no such run .*\(did you mean 'pyramid-1'\?\)"):
        find_run("pyramyd-1", tmp_path)
    with pytest.raises(RequestError, match="no finished run"):
        find_run("latest", tmp_path / "empty")


def test_a_damaged_config_is_reported(tmp_path: Path):
    """The message names the file."""
    run = make_run(tmp_path, "x")
    with pytest.raises(RequestError, match=r"config\.yaml: cannot be read: No such file"):
        read_config(find_run("x", tmp_path).path)
    for text in ("a: [", "- 1"):
        (run / "config.yaml").write_text(text)
        with pytest.raises(RequestError, match=r"config\.yaml(:\d+)?: damaged"):
            read_config(find_run("x", tmp_path).path)
