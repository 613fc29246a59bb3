"""The process that delivers a run's journal while the run goes on.

A process, not a thread: it cannot slow or hang the training, and what it does with a dead server, or the second
that importing MLflow takes, is its own business.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mnist_exp.tracking.delivery import Delivered


class Sender:
    """Delivers a journal in the background."""

    def __init__(self, folder: Path, uri: str) -> None:
        self._folder = folder
        self._log = (folder / "delivery.log").open("wb")
        # A session of its own: Ctrl-C is for the training, which tells the sender the rest.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mnist_exp.tracking.delivery", str(folder), uri],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def finish(self, wait_seconds: float) -> str | None:
        """Wait until everything was delivered. Returns why not, or None.

        What was not delivered stays in the journal.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()  # nothing more comes: deliver what there is, or say why not
        try:
            self._process.wait(wait_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        log = self._folder / "delivery.log"
        said = log.read_text(encoding="utf-8", errors="replace").strip()
        log.unlink()
        if self._process.returncode == 0:
            return None
        return said.splitlines()[-1] if said else f"no answer within {wait_seconds:g} s"

    @property
    def run_id(self) -> str | None:
        """The MLflow run's id, as soon as it is known."""
        return Delivered.read(self._folder).run_id
