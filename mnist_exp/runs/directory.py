"""A run's directory: its name, its files, and the lock of the process that works in it.

outputs/runs/<model>-<aug>-<stamp>/          a run
outputs/sweeps/<sweep>/<job>/                a job of a sweep
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mnist_exp.errors import RequestError
from mnist_exp.runs.abandoned import mark_killed
from mnist_exp.runs.atomic import write_text
from mnist_exp.runs.journal import FILE as JOURNAL
from mnist_exp.runs.journal import read as read_journal
from mnist_exp.runs.locks import LOCK as _LOCK
from mnist_exp.runs.locks import is_locked, lock
from mnist_exp.runs.regular_files import read_text
from mnist_exp.runs.result import DAMAGED, RESULT, RunResult, limit_metric, read_result, write_result
from mnist_exp.runs.system_calls import has_ended
from mnist_exp.text import display_path

RUNS, SWEEPS = "runs", "sweeps"
PLOTS = "plots"
"""The folder of a run's pictures."""
MODEL = "model.keras"
"""The file of a run's model."""
ENSEMBLE = "ensemble.json"
"""The file by which a folder that `ensemble` wrote is recognized."""
_HISTORY = "history.csv"
CLOCK_DRIFT = 60.0  # maximum clock difference, in seconds, between machines that share a folder
_ATTEMPTS = 6  # attempts to acquire a lock, within 0.3 s


@dataclass
class RunDirectory:
    """A run's directory, locked by this process until `release` or the end of the process."""

    path: Path
    _lock: int

    @classmethod
    def create(cls, parent: Path, name: str) -> RunDirectory:
        """Create a directory, adding a number if the name is taken. Raises `RequestError`."""
        return cls.open(make_directory(parent, name))

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Lock an existing directory.

        Raises `RequestError` if another process works in it or it cannot be written.
        """
        for attempt in range(_ATTEMPTS):
            try:
                return cls(path.resolve(), lock(path))
            except BlockingIOError:  # another process may only be checking the lock (`is_locked`)
                time.sleep(0.02 * attempt)
            except OSError as error:
                raise RequestError(f"{path}: cannot be written: {error.strerror}") from error
        raise RequestError(f"{path}: in use by another process")

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Release the lock. Further calls have no effect."""
        if self._lock >= 0:
            with contextlib.suppress(OSError):  # the directory was removed or has become read-only
                (self.path / _LOCK).unlink()  # before unlocking: afterwards it may belong to another process
            os.close(self._lock)
            self._lock = -1

    def read_result(self) -> RunResult:
        """Read the run's result. Raises `RequestError`."""
        summary = summarize(self.path)
        if summary is None or summary.status == "damaged":
            raise RequestError(f"{self.path / RESULT}: {'missing' if summary is None else 'damaged'}")
        return summary.result

    def remove_leftovers(self) -> None:
        """Remove the temporary files that a killed process left behind."""
        for path in self.path.rglob(".[0-9]*.*"):
            path.unlink(missing_ok=True)

    def write_result(self, result: RunResult) -> None:
        """Write `result.json` atomically."""
        write_result(self.path, result)

    def write_history(self, history: Sequence[Mapping[str, float]]) -> None:
        """Write `history.csv` atomically, with a row per epoch."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=columns(history), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_text(self.path / _HISTORY, text.getvalue())


def read_history(run: Path) -> list[dict[str, float]]:
    """Read the rows of a run's `history.csv`, without empty cells. Raises `RequestError`."""
    file = run / _HISTORY
    try:
        lines = read_text(file).splitlines()
        rows = csv.DictReader(lines)
        return [{name: limit_metric(float(value)) for name, value in row.items() if value} for row in rows]
    except OSError as error:
        raise RequestError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, csv.Error) as error:
        raise RequestError(f"{file}: damaged: {error}") from error


def make_directory(parent: Path, name: str) -> Path:
    """Create a directory, adding a number if the name is taken. Raises `RequestError`.

    Returns its absolute path.
    """
    name = safe_name(name)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for path in _numbered(parent, name):
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                break
    except OSError as error:
        raise RequestError(f"outputs: {error.filename or parent} cannot be written: {error.strerror}") from error
    return path.resolve()


def free_path(parent: Path, name: str) -> Path:
    """Return a path that does not exist yet, adding a number if the name is taken."""
    return next(path for path in _numbered(parent, safe_name(name)) if not path.exists())


def _numbered(parent: Path, name: str) -> Iterator[Path]:
    yield parent / name
    yield from (parent / f"{name}-{number}" for number in itertools.count(2))


def find_outputs(run: Path) -> Path | None:
    """Return the output folder that contains a run's directory; None if it is in no output folder."""
    if run.parent.name == RUNS:
        return run.parents[1]
    return run.parents[2] if run.parent.parent.name == SWEEPS else None


def columns(history: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the columns of `history.csv`: the usual ones in a fixed order, followed by any other metrics."""
    first = ["epoch", "train/loss", "train/accuracy", "val/loss", "val/accuracy"]
    last = ["learning_rate", "seconds"]
    more = [name for name in (history[0] if history else {}) if name not in first + last]
    return first + last + more


def safe_name(name: str) -> str:
    """Return a name without the characters that shells, MLflow or Hydra would interpret."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "run"


def add_timestamp(name: str) -> str:
    """Return a name with the current time appended."""
    return f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


@dataclass(frozen=True)
class RunSummary:
    """A run, as described by its directory."""

    path: Path
    result: RunResult
    status: str

    @property
    def name(self) -> str:
        """The run's name; for a job of a sweep, `<sweep>/<job>`."""
        return (
            f"{self.path.parent.name}/{self.path.name}"
            if self.path.parent.parent.name == SWEEPS
            else self.path.name
        )


def list_runs(outputs: Path) -> list[RunSummary]:
    """List all runs in an output folder, newest first. Runs whose process is gone are marked as killed."""
    sweeps = [file.parent for file in (outputs / SWEEPS).glob(f"*/{JOURNAL}")]
    mark_killed([path for path in sweeps if (path / _LOCK).exists() and not is_locked(path)])
    summaries = summarize_runs([*(outputs / RUNS).glob("*"), *(outputs / SWEEPS).glob("*/*")])
    return sorted(summaries, key=lambda run: run.result.started, reverse=True)


def summarize_runs(paths: Sequence[Path]) -> list[RunSummary]:
    """Summarize the directories that are runs. Runs whose process is gone are marked as killed."""
    runs = summaries(paths)
    dead = [run.path for run in runs if run.status == "killed" != run.result.status]
    mark_killed(dead)
    # Read again: a run that ended in the meantime was not killed.
    return [(summarize(run.path) or run) if run.path in dead else run for run in runs]


def summaries(paths: Iterable[Path]) -> list[RunSummary]:
    """Summarize the directories that are runs, without changing anything."""
    return [summary for path in paths if path.is_dir() and (summary := summarize(path)) is not None]


def summarize(path: Path) -> RunSummary | None:
    """Summarize a run's directory; None if it is not one."""
    try:
        result = read_result(path)
    except (OSError, ValueError):
        return RunSummary(path, DAMAGED, DAMAGED.status)
    if result is None:
        return None
    status = result.status
    if status == "running" and _is_abandoned(path, result):
        status = "killed"
    return RunSummary(path, result, status)


def explain_missing_model(run: RunSummary) -> str:
    """Return why a run has no `model.keras`."""
    if run.status == "finished":
        how = "train again with 'save=[keras]' and, in a sweep, sweep.keep_models=all"
        return f"this run kept no {MODEL}; to keep it, {how}"
    return f"this run is {run.status}, and has no {MODEL} yet"


def find_fault(run: RunSummary) -> str | None:
    """Return the fault that keeps a verb from reading or completing a run's files; None if there is none."""
    if run.status == DAMAGED.status:
        return f"{display_path(run.path / RESULT)}: damaged"
    file = run.path / JOURNAL
    if run.status != "killed" or not file.exists():
        return None
    try:
        empty = not read_journal(run.path)
    except OSError as error:
        return f"{display_path(file)}: cannot be read: {error.strerror}"
    except ValueError as error:
        return str(error)
    return f"{display_path(file)}: empty, so this run cannot be delivered to MLflow" if empty else None


def _is_abandoned(path: Path, result: RunResult) -> bool:
    """Return whether no process works on a run. A process that marks a run as killed locks it only briefly."""
    for attempt in range(_ATTEMPTS):
        if not is_locked(path):
            return True
        if not _is_gone(result):
            break
        time.sleep(0.02 * attempt)
    return False


def _is_gone(result: RunResult) -> bool:
    """Return whether the process that `result.json` names ran on this machine and has ended."""
    pid = result.pid
    if result.host != socket.gethostname() or pid is None or pid <= 0:
        return False
    return has_ended(pid)
