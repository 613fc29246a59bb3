"""Record a search as an MLflow run: the parent of its trials' runs, shared by all processes of the search."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from mnist_exp.config.schema import TrackingConfig
from mnist_exp.runs.journal import has_ended
from mnist_exp.runs.locks import LOCK, exclusive, lock
from mnist_exp.tracking.parent_record import ParentRecord, begin_parent, read_run
from mnist_exp.tracking.recorder import run_status
from mnist_exp.tracking.upload_process import Upload


class StudyRecord:
    """The record of a search. The process that holds the directory's lock writes and delivers it.

    The same process also delivers the trials. At the end of a `with` block, it records the end of the search,
    releases the lock, and waits for the delivery.
    """

    def __init__(
        self, directory: Path, overrides: Sequence[str], tracking: TrackingConfig, parameters: Mapping[str, str]
    ) -> None:
        """Start the record unless it exists. Raises `RequestError` if the journal cannot be read."""
        self._directory, self._tracking = directory, tracking
        self.failed = False
        """Whether a trial failed, so that the search is not recorded as finished."""
        self._lock = -1
        self._parent: ParentRecord | None = None
        self._upload: Upload | None = None
        with exclusive(directory / ".claims" / "journal"):
            begin_parent(directory, overrides, tracking, parameters)
        self.key = read_run(directory).key

    def take(self, patience: float = 0) -> bool:
        """Try for `patience` seconds to become the writing process; return whether this process is the writer."""
        deadline = time.monotonic() + patience
        while self._parent is None:
            try:
                self._lock = lock(self._directory)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(0.1)
                continue
            self._parent = ParentRecord(self._directory, resumed=has_ended(self._directory))
            tracking = self._tracking
            self._upload = Upload(
                self._directory, tracking.wait_seconds, enabled=tracking.enabled, uri=tracking.uri
            )
        return True

    def artifact(self, file: str, folder: str | None = None) -> None:
        """Send a file of the directory to the tracker."""
        assert self._parent is not None
        self._parent.artifact(file, folder)

    def note(self, text: str) -> None:
        """Send the run's description, in Markdown, to the tracker."""
        assert self._parent is not None
        self._parent.note(text)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Send the best trial's metrics to the tracker; the step is the number of trials."""
        assert self._parent is not None
        self._parent.metrics(values, step)

    def __enter__(self) -> StudyRecord:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._parent is None:
            return
        self._parent.end("failed" if error is None and self.failed else run_status(error))
        (self._directory / LOCK).unlink(missing_ok=True)
        os.close(self._lock)
        if self._upload is not None:
            self._upload.finish()
