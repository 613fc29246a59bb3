"""Clean up after dead processes: mark their runs and sweeps as killed, and upload what they left behind.

A process that works in a directory holds its lock; so does this module, for an instant. Nothing here waits, and a
directory that cannot be written is left unchanged.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mnist_exp.runs import journal
from mnist_exp.runs.events import END_STATUS, EndEvent
from mnist_exp.runs.locks import lock
from mnist_exp.runs.result import RESULT, read_result, write_result


def settle(path: Path) -> bool:
    """Mark a run or sweep as killed if its process is gone without recording an end.

    The mark goes into `result.json`, if there is one, and into the journal as an `end` event with the time of the
    last write. Returns whether anything was marked.
    """
    with suppress(OSError, ValueError), _locked(path):
        result = read_result(path)  # None for a sweep
        died = result is not None and result.status == "running"
        last = journal.read(path)[-1:] if (path / journal.FILE).is_file() else []
        # An end that only the journal records was cut short.
        unfinished = any(not isinstance(event, EndEvent) or (died and event.status != "KILLED") for event in last)
        if not (died or unfinished):
            return False
        last_sign = (path / (journal.FILE if unfinished else RESULT)).stat().st_mtime
        if unfinished:
            status = "killed" if died or result is None else result.status
            lines = journal.Journal(path)
            lines.write(EndEvent(status=END_STATUS.get(status, "FAILED"), time=int(last_sign * 1000)))
            lines.close()
        if died and result is not None:
            result.status, result.ended = "killed", last_sign
            write_result(path, result)
        return True
    return False


def mark_killed(paths: Sequence[Path]) -> None:
    """Mark the dead among these directories as killed, and report the tracked ones to MLflow in the background."""
    marked = [path for path in paths if settle(path)]
    with suppress(OSError, ValueError, NotImplementedError):
        tracked = [str(path) for path in marked if _is_tracked(path)]
        if tracked:
            _deliver_in_the_background(tracked)


def record_mlflow_run(path: Path, run_id: str) -> None:
    """Record the MLflow run id in the result of a run that no process works on."""
    with suppress(OSError, ValueError), _locked(path):
        result = read_result(path)
        if result is not None and result.mlflow_run_id != run_id:
            result.mlflow_run_id = run_id
            write_result(path, result)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = lock(path)
    try:
        yield
    finally:
        os.close(descriptor)


def _is_tracked(path: Path) -> bool:
    run = journal.first_run(journal.read(path)) if (path / journal.FILE).is_file() else None
    return run is not None and run.enabled


def _deliver_in_the_background(paths: Sequence[str]) -> None:
    # By module name: tracking/ depends on runs/, not the other way round. `Popen` would warn that the child
    # outlives the parent.
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-P", "-m", "mnist_exp.tracking.uploader", *paths],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ],
        setsid=True,
    )
