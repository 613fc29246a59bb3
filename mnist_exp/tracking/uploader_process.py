"""Starts and ends the process that delivers journals while they grow.

A process, not a thread: it cannot slow or hang the training, and what it does with a dead server, or the second
that importing MLflow takes, is its own business.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mnist_exp.errors import Killed
from mnist_exp.tracking.delivery import Delivery


class Sender:
    """Delivers a run's journal, or a sweep's and those of its jobs, in the background."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = (folder / "delivery.log").open("w+b")
        # A session of its own: Ctrl-C is for the training, which tells the sender the rest.
        # `-P`: what lies in the user's folder, a `mlflow.py` perhaps, is not imported.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mnist_exp.tracking.uploader", str(folder)],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def finish(self, wait_seconds: float) -> str | None:
        """Wait until everything was delivered, or a signal ends the wait. Returns why not, or None.

        What was not delivered stays in the journal.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()  # nothing more comes: deliver what there is, or say why not
        try:
            self._process.wait(wait_seconds)
            said = "what delivers it was ended"
        except (subprocess.TimeoutExpired, KeyboardInterrupt, Killed) as error:
            self._process.kill()
            self._process.wait()
            timed_out = isinstance(error, subprocess.TimeoutExpired)
            said = f"no answer within {wait_seconds:g} s" if timed_out else "a signal ended the wait"
        self._log.seek(0)
        for line in self._log:
            said = line.decode(errors="replace").strip()
        self._log.close()
        (self._folder / "delivery.log").unlink(missing_ok=True)
        return said if self._process.returncode else None

    @property
    def run_id(self) -> str | None:
        """The MLflow run's id, as soon as it is known."""
        return Delivery(self._folder).delivered().run_id
