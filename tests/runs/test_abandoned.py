"""Runs whose process is gone are marked as killed once, by any process and without waiting."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer

import pytest
from support.journals import of_type, write_run

from mnist_exp.errors import RequestError
from mnist_exp.runs import abandoned, directory
from mnist_exp.runs.abandoned import mark_abandoned
from mnist_exp.runs.directory import RunDirectory, list_runs, summarize
from mnist_exp.runs.events import EndEvent
from mnist_exp.runs.journal import read
from mnist_exp.runs.locks import lock
from mnist_exp.runs.lookup import find_run


def status(folder: Path) -> str:
    return str(json.loads((folder / "result.json").read_text())["status"])


def ends(folder: Path) -> list[str]:
    return [event.status for event in of_type(EndEvent, read(folder))]


@pytest.mark.parametrize(
    "look", [lambda path, outputs: list_runs(outputs), lambda path, _: find_run(str(path), path)]
)
def test_looking_marks(tmp_path: Path, look):
    """The result and the journal are marked once; the dead process's lock file does not prevent it."""
    folder = write_run(tmp_path / "runs" / "x", enabled=False, end=False)
    (folder / ".lock").touch()
    os.utime(folder / "journal.jsonl", (1.6e9, 1.6e9))
    for _ in range(2):
        look(folder, tmp_path)
        assert status(folder) == "killed"
        assert ends(folder) == ["KILLED"]
    assert json.loads((folder / "result.json").read_text())["ended"] == 1.6e9


def test_a_marked_run_delivers_its_final_files(tmp_path: Path):
    """Its result, which then says that it was killed, and its log, before its end."""
    folder = write_run(tmp_path / "runs" / "x", enabled=False, end=False)
    (folder / "run.log").touch()
    assert mark_abandoned(folder)
    assert [event.model_dump(include={"kind", "file"}) for event in read(folder)[-3:]] == [
        {"kind": "artifact", "file": "result.json"}, {"kind": "artifact", "file": "run.log"}, {"kind": "end"},
    ]  # fmt: skip


def test_the_living_are_left_alone(tmp_path: Path):
    """A run whose lock is held is not marked."""
    folder = write_run(tmp_path / "runs" / "x", enabled=False, end=False)
    held = lock(folder)
    assert [run.status for run in list_runs(tmp_path)] == ["running"]
    assert not mark_abandoned(folder)
    os.close(held)
    assert [run.status for run in list_runs(tmp_path)] == ["killed"]


def test_the_marking_process_is_not_taken_for_the_runs_process(tmp_path: Path):
    """It holds the lock only briefly, and the process in `result.json` is gone."""
    folder = write_run(tmp_path / "runs" / "x", enabled=False, end=False)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for pid, expected in ((os.getpid(), "running"), (gone.pid, "killed")):
        about = {**json.loads((folder / "result.json").read_text()), "pid": pid, "host": socket.gethostname()}
        (folder / "result.json").write_text(json.dumps(about))
        held = lock(folder)
        Timer(0.1, os.close, [held]).start()
        assert [run.status for run in list_runs(tmp_path)] == [expected]
        time.sleep(0.2)


def test_a_run_that_ends_during_the_check_is_not_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It may end between reading its status and finding its lock free."""
    folder = write_run(tmp_path / "runs" / "x", enabled=False, end=False)

    def ends_now(path: Path) -> bool:
        result = json.loads((path / "result.json").read_text())
        (path / "result.json").write_text(json.dumps({**result, "status": "finished"}))
        return False

    monkeypatch.setattr(directory, "is_locked", ends_now)
    assert [run.status for run in list_runs(tmp_path)] == ["finished"]
    assert status(folder) == "finished"


def test_a_run_that_died_before_its_journal_recorded_the_end(tmp_path: Path):
    """The journal gets the end that the result has, once."""
    folder = write_run(tmp_path / "runs" / "x", enabled=False, end=False)
    (folder / "result.json").write_text(json.dumps({"status": "finished", "started": 1, "data": {}}))
    for _ in range(2):
        mark_abandoned(folder)
        assert ends(folder) == ["FINISHED"]


def test_a_run_that_died_while_recording_its_end(tmp_path: Path):
    """Its result lacks the final fields, so it is marked as killed in the journal as well."""
    folder = write_run(tmp_path / "runs" / "x", enabled=False)
    (folder / "result.json").write_text(json.dumps({"status": "running", "started": 1, "data": {}}))
    for _ in range(2):
        mark_abandoned(folder)
        assert ends(folder) == ["FINISHED", "KILLED"]
        assert status(folder) == "killed"


def test_a_sweep_that_died_is_marked(tmp_path: Path):
    """A sweep has only a journal."""
    sweep = write_run(tmp_path / "sweeps" / "s", enabled=False, end=False)
    (sweep / "result.json").unlink()
    (sweep / ".lock").touch()
    list_runs(tmp_path)
    assert ends(sweep) == ["KILLED"]


def test_a_directory_that_cannot_be_written_is_shown_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is listed as killed, and nothing is raised."""
    folder = write_run(tmp_path / "runs" / "x", enabled=True, end=False)

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(abandoned, "lock", refuse)
    assert [run.status for run in list_runs(tmp_path)] == ["killed"]
    assert find_run(str(folder), tmp_path).status == "killed"
    assert status(folder) == "running"


def test_a_lock_that_was_removed_is_no_lock(tmp_path: Path):
    """A process that locks a file while its owner removes it does not hold the lock."""
    run = RunDirectory.create(tmp_path, "x")
    waiting = os.open(run.path / ".lock", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        lock(run.path)
    run.release()
    first = lock(run.path)
    assert os.fstat(first).st_ino != os.fstat(waiting).st_ino
    with pytest.raises(BlockingIOError):
        lock(run.path)
    os.close(first)
    os.close(waiting)


def test_many_processes_check_at_once(tmp_path: Path):
    """The run is marked once."""
    folder = write_run(tmp_path / "runs" / "x", enabled=False, end=False)
    code = (
        "import sys, time; from pathlib import Path; from mnist_exp.runs.abandoned import mark_abandoned\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time())); mark_abandoned(Path(sys.argv[1]))"
    )
    start = str(time.time() + 2)
    lookers = [subprocess.Popen([sys.executable, "-c", code, str(folder), start]) for _ in range(8)]
    assert [looker.wait(60) for looker in lookers] == [0] * 8
    assert ends(folder) == ["KILLED"]
    assert status(folder) == "killed"


def test_looking_at_a_dead_run_contacts_no_store(tmp_path: Path):
    """Only its directory is marked; `sync` delivers the end."""
    folder = write_run(tmp_path / "runs" / "x", end=False)
    assert [run.status for run in list_runs(tmp_path)] == ["killed"]
    time.sleep(2)
    assert ends(folder) == ["KILLED"]
    assert not (tmp_path / "mlflow.db").exists()
    assert not (folder / "delivery.json").exists()


def test_a_run_without_a_journal_is_marked_too(tmp_path: Path):
    """Its result is marked."""
    folder = tmp_path / "runs" / "x"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text('{"status": "running", "started": 1, "data": {}}')
    list_runs(tmp_path)
    assert status(folder) == "killed"
    assert not (folder / "journal.jsonl").exists()
    assert summarize(folder) is not None
    with pytest.raises(RequestError):
        find_run("latest", tmp_path)
