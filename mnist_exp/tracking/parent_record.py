"""The journal of a sweep or search, the parent of several runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mnist_exp.config.schema import TrackingConfig
from mnist_exp.errors import RequestError
from mnist_exp.runs.events import (
    END_STATUS,
    ArtifactEvent,
    EndEvent,
    Event,
    MetricsEvent,
    NoteEvent,
    ParamsEvent,
    ResumedEvent,
    RunEvent,
)
from mnist_exp.runs.journal import FILE, Journal, first_run, read
from mnist_exp.text import display_path
from mnist_exp.tracking.run_event import new_run_event


def begin_parent(
    directory: Path, overrides: Sequence[str], tracking: TrackingConfig, parameters: Mapping[str, str]
) -> bool:
    """Start the journal of a sweep or search unless it exists. Returns whether this process started it.

    Args:
        directory: The directory of the sweep or search.
        overrides: The overrides that all its runs share, for a tag.
        tracking: The tracker's settings.
        parameters: The swept or searched keys with their values, and fixed ones.

    Raises `RequestError` if the journal cannot be read.
    """
    if os.path.lexists(directory / FILE) and read_checked(directory):
        return False
    tags = {"overrides": " ".join(overrides), "directory": str(directory)}
    journal = Journal(directory)
    journal.write(new_run_event(directory.name, tracking, tags))
    if parameters:
        journal.write(ParamsEvent(values=dict(parameters)))
    journal.close()
    return True


def read_checked(directory: Path) -> list[Event]:
    """Read the journal of a sweep or search. Raises `RequestError` if it is damaged or not a regular file."""
    try:
        return read(directory)
    except OSError as error:
        raise RequestError(f"{display_path(directory / FILE)}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RequestError(str(error)) from error


def read_run(directory: Path) -> RunEvent:
    """Read the first event of an existing sweep or search. Raises `RequestError`."""
    run = first_run(read_checked(directory))
    if run is None:
        raise RequestError(f"{directory / FILE}:1: damaged: it does not begin with a run event")
    return run


class ParentRecord:
    """Writes to the existing journal of a sweep or search."""

    def __init__(self, directory: Path, *, resumed: bool) -> None:
        self._journal = Journal(directory)
        if resumed:
            self._journal.write(ResumedEvent(status="RUNNING"))

    def artifact(self, file: str, folder: str | None = None) -> None:
        """Send a file of the directory to the tracker."""
        self._journal.write(ArtifactEvent(file=file, folder=folder))

    def note(self, text: str) -> None:
        """Send the run's description, in Markdown, to the tracker."""
        self._journal.write(NoteEvent(text=text))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Send metrics to the tracker."""
        self._journal.write(MetricsEvent(step=step, values=dict(values)))

    def end(self, status: str) -> None:
        """Record the end of the run, with one of the statuses used in `result.json`."""
        self._journal.write(EndEvent(status=END_STATUS[status]))
        self._journal.close()
