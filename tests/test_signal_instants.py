"""Signals at many instants of runs and sweeps: exit status, statuses on disk and in MLflow, and no process left."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from support.cli import PATIENCE, SMALL, Cli, soak, start

from mnist_exp.runs.directory import summarize_runs

pytestmark = pytest.mark.slow

INSTANTS = 60
JOBS = 2
MARK = "SIGNAL_INSTANTS"  # an environment variable by which the processes of a command are found
_RUN = (*SMALL, "data=digits", "device.threads=1", "tracking=local", "plots=all")
_SWEEP = ("-m", *_RUN, "seed=range(2)")
REQUESTS: dict[str, Sequence[str]] = {
    "run": _RUN,
    "basic": _SWEEP,
    "joblib": (*_SWEEP, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "submitit_local": (*_SWEEP, "hydra/launcher=submitit_local"),
    "ray_local": (*_SWEEP, "hydra/launcher=ray_local"),
}
_EVERY = 6  # CI tries every sixth instant
_FIRST = 0.3  # seconds until Python runs our code
_seconds: dict[str, float] = {}


def marked(value: str) -> set[int]:
    """Return the living processes that were started with this value of the variable, directly or not."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            alive = (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            if alive and f"{MARK}={value}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.add(int(folder.name))
        except OSError:
            continue
    return found


def wait_for_all(value: str) -> set[int]:
    """Wait for all processes that a command started, and return those that do not end."""
    deadline = time.monotonic() + 30 * PATIENCE
    while (left := marked(value)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def seconds_of(name: str) -> float:
    """Return how long a request takes undisturbed; measured once."""
    if name not in _seconds:
        begun = time.monotonic()
        process = start(*REQUESTS[name], "outputs=undisturbed")
        out, err = process.communicate(timeout=400 * PATIENCE)
        assert process.returncode == 0, (out, err)
        _seconds[name] = time.monotonic() - begun
    return _seconds[name]


def statuses_in_mlflow() -> set[str]:
    """Return the statuses of all runs in the output folder's store."""
    with closing(sqlite3.connect("outputs/mlflow.db")) as store:
        return {status for (status,) in store.execute("select status from runs")}


@pytest.mark.parametrize(
    ("name", "instant"),
    [
        (name, number) if number % _EVERY == 3 else soak(name, number)
        for name in REQUESTS
        for number in range(INSTANTS)
    ],
)
def test_a_signal_at_any_instant(cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str, instant: int):
    """No run is left running, on disk, in MLflow, or in fact; the exit status is the signal's."""
    number = signal.SIGINT if instant % 4 < 2 else signal.SIGTERM
    seconds = seconds_of(name)
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    process = start(*REQUESTS[name])
    monkeypatch.delenv(MARK)
    time.sleep(_FIRST + (instant + 0.5) / INSTANTS * seconds)
    process.send_signal(number)
    out, err = process.communicate(timeout=200 * PATIENCE)
    left = wait_for_all(mark)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, (out, err)
    assert "Traceback" not in err
    assert process.returncode in (0, 128 + number, -number), (out, err)
    folders = [file.parent for room in ("runs", "sweeps") for file in Path("outputs", room).rglob("result.json")]
    statuses = [run.status for run in summarize_runs(folders)]
    assert set(statuses) <= {"finished", "interrupted", "killed"}, (out, err)
    if process.returncode == 0:
        assert statuses == ["finished"] * (1 if name == "run" else JOBS)
    if folders:
        cli("sync", status=None)
        assert statuses_in_mlflow() <= {"FINISHED", "KILLED"}, (out, err)
