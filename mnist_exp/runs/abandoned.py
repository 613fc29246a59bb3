"""Clean up after dead processes: mark their runs and sweeps as killed.

A process working in a directory holds that directory's lock; this module holds it only momentarily. Nothing
here waits, and a directory that cannot be written is left unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mnist_exp.runs import journal
from mnist_exp.runs.events import END_STATUS, ArtifactEvent, EndEvent, Event
from mnist_exp.runs.locks import lock
from mnist_exp.runs.log import LOG
from mnist_exp.runs.result import RESULT, read_result, write_result


def mark_abandoned(path: Path) -> bool:
    """Mark a run or sweep as killed if its process died without recording its end.

    The mark goes into `result.json`, if there is one, and into the journal as an `end` event with the time of the
    last write. Returns whether anything was marked.
    """
    with suppress(OSError, ValueError), _locked(path):
        result = read_result(path)  # None for a sweep
        died = result is not None and result.status == "running"
        unfinished = _lacks_end(path, died)
        if not (died or unfinished):
            return False
        last_sign = (path / (journal.FILE if unfinished else RESULT)).stat().st_mtime
        if died and result is not None:
            result.status, result.ended = "killed", last_sign
            write_result(path, result)
        if unfinished:
            _write_end(path, "killed" if died or result is None else result.status, last_sign)
        return True
    return False


def _lacks_end(path: Path, died: bool) -> bool:
    """Return whether the journal is readable but does not record the end of its run."""
    events: list[Event] = []
    with suppress(OSError, ValueError):
        events = journal.read(path)
    if not events:
        return False
    last = events[-1]
    # If only the journal records an end, the process died before it could write the result.
    return not isinstance(last, EndEvent) or (died and last.status != "KILLED")


def _write_end(path: Path, status: str, at: float) -> None:
    lines = journal.Journal(path)
    for event in final_files(path):
        lines.write(event)
    lines.write(EndEvent(status=END_STATUS.get(status, "FAILED"), time=int(at * 1000)))
    lines.close()


def final_files(path: Path) -> list[Event]:
    """Return the events that deliver the files of a run that are complete only at its end. A sweep has none."""
    is_run = (path / RESULT).is_file()
    return [ArtifactEvent(file=file) for file in (RESULT, LOG) if is_run and (path / file).is_file()]


def mark_killed(paths: Sequence[Path]) -> None:
    """Mark as killed those runs and sweeps whose process has died.

    No store is contacted; `sync` delivers the events.
    """
    for path in paths:
        mark_abandoned(path)


def record_mlflow_run(path: Path, run_id: str) -> None:
    """Record the MLflow run id in the result of a run that no process is working on."""
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
