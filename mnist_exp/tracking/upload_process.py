"""Start and end the process that delivers growing journals.

Uploads run in a process of their own, so that neither an unresponsive server nor the time needed to import MLflow
(about a second) can slow down or block training.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mnist_exp.errors import Killed
from mnist_exp.runs import signals
from mnist_exp.runs.journal import FILE
from mnist_exp.runs.log import say, warn
from mnist_exp.tracking.known_stores import GIVEN
from mnist_exp.tracking.mlflow_upload import Delivery


class Sender:
    """Delivers the journal of a run, or of a sweep and its jobs, in the background."""

    def __init__(self, folder: Path, uri: str | None = None) -> None:
        """`uri` is the store that this user chose, with credentials; None for the output folder's own."""
        self._folder = folder
        (folder / "delivery.log").unlink(missing_ok=True)
        self._log = (folder / "delivery.log").open("x+b")
        # A session of its own: Ctrl-C reaches only the training process, which then ends the uploader.
        # `-P`: don't import modules such as `mlflow.py` from the user's folder.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mnist_exp.tracking.upload_loop", str(folder)],
            env=os.environ if uri is None else {**os.environ, GIVEN: uri},
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def finish(self, wait_seconds: float) -> str | None:
        """Wait until everything is delivered or a signal ends the wait. Returns the reason for a failure, if any.

        Undelivered lines stay in the journal.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()  # no more lines: deliver the rest, or report why not
        try:
            self._process.wait(wait_seconds)
            problem = "the uploader was terminated"
        except (subprocess.TimeoutExpired, KeyboardInterrupt, Killed) as error:
            self._process.kill()
            self._process.wait()
            timed_out = isinstance(error, subprocess.TimeoutExpired)
            signals.forget()  # a signal ends the wait, not the run
            problem = f"no answer within {wait_seconds:g} s" if timed_out else "a signal ended the wait"
        self._log.seek(0)
        for line in self._log:
            problem = line.decode(errors="replace").strip()
        self._log.close()
        (self._folder / "delivery.log").unlink(missing_ok=True)
        return problem if self._process.returncode else None

    @property
    def run_id(self) -> str | None:
        """The MLflow run's id, once it is known."""
        return Delivery(self._folder).delivered().run_id


class Upload:
    """The delivery of a journal while this process works on its run or sweep. Does nothing without tracking."""

    def __init__(self, directory: Path, wait_seconds: float, *, enabled: bool, uri: str | None = None) -> None:
        """`uri` is the store that this user chose; None for the output folder's own."""
        self._directory, self._wait_seconds = directory, wait_seconds
        self._sender = Sender(directory, uri) if enabled else None

    @property
    def enabled(self) -> bool:
        """Whether anything is delivered."""
        return self._sender is not None

    @property
    def run_id(self) -> str | None:
        """The MLflow run's id, once it is known."""
        return self._sender.run_id if self._sender is not None else None

    def finish(self, *, wait: bool = True) -> None:
        """Wait for the delivery to finish, and print a warning if it fails."""
        if self._sender is None:
            return
        failure = self._sender.finish(self._wait_seconds if wait else 0)
        if failure is not None:
            warn(f"not everything was delivered to the tracker: {failure}")
            say(f"The rest stays in {self._directory / FILE}; 'mnist-exp sync' delivers it.")
