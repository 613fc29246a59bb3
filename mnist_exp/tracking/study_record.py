"""Record a search: an MLflow run, the parent of its trials' runs, shared by all processes of the search."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from mnist_exp.config.schema import TrackingConfig
from mnist_exp.runs.journal import END_STATUS, FILE, Journal, has_ended, read
from mnist_exp.runs.locks import LOCK, exclusive, lock
from mnist_exp.tracking.recorder import begin_parent, deliver_rest, status_of
from mnist_exp.tracking.uploader_process import Sender


class StudyRecord:
    """The record of a search. The process that holds the directory's lock writes and delivers it and the trials'.

    A context manager: at its end the lock is released, after everything that another process needs was written.
    """

    def __init__(self, directory: Path, overrides: Sequence[str], tracking: TrackingConfig) -> None:
        self._directory, self._tracking = directory, tracking
        self._lock = -1
        self._journal: Journal | None = None
        self._sender: Sender | None = None
        with exclusive(directory / ".claims" / "journal"):
            if not (directory / FILE).exists() or not read(directory):
                journal = Journal(directory)
                begin_parent(journal, overrides, tracking)
                journal.close()
        self.key = str(read(directory)[0]["key"])

    def take(self, patience: float = 0) -> bool:
        """Try for `patience` seconds to become the writing process. Returns whether this process is."""
        deadline = time.monotonic() + patience
        while self._journal is None:
            try:
                self._lock = lock(self._directory)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(0.1)
                continue
            self._journal = Journal(self._directory)
            if has_ended(self._directory):
                self._journal.write("resumed", status="RUNNING")
            self._sender = Sender(self._directory) if self._tracking.enabled else None
        return True

    def artifact(self, file: str, folder: str | None = None) -> None:
        """Send a file of the directory to the tracker."""
        assert self._journal is not None
        self._journal.write("artifact", file=file, folder=folder)

    def note(self, text: str) -> None:
        """Send the run's description, in Markdown, to the tracker."""
        assert self._journal is not None
        self._journal.write("note", text=text)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Send the best trial's metrics to the tracker; the step is the number of trials."""
        assert self._journal is not None
        self._journal.write("metrics", step=step, values=dict(values))

    def __enter__(self) -> StudyRecord:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._journal is None:
            return
        self._journal.write("end", status=END_STATUS[status_of(error)])
        self._journal.close()
        (self._directory / LOCK).unlink(missing_ok=True)
        os.close(self._lock)
        if self._sender is not None:
            deliver_rest(self._sender, self._tracking.wait_seconds, self._directory)
