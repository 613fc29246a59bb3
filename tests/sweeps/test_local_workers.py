"""The processes of submitit's local launcher do not outlive an interrupted sweep."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import submitit

from mnist_exp.sweeps.launchers import ending_workers

LOCAL = {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"}


def is_alive(number: int) -> bool:
    """Whether a process runs: one that has ended, and that nothing has waited for, does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(number: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{number}/task/{number}/children").read_text().split()]


def test_an_interrupted_sweep_ends_its_local_workers(tmp_path: Path):
    """Also the processes that they started."""
    with ending_workers(LOCAL):
        executor = submitit.AutoExecutor(tmp_path, cluster="local")
        job = executor.submit(time.sleep, 600)
        deadline = time.monotonic() + 60
        while not children(int(job.job_id)) and time.monotonic() < deadline:
            time.sleep(0.05)
        numbers = [int(job.job_id), *children(int(job.job_id))]
        assert len(numbers) == 2
        assert all(map(is_alive, numbers))
    assert not any(map(is_alive, numbers))


def test_an_interrupted_controller_prints_no_traceback(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Ctrl-C reaches submitit's own process, too."""
    with ending_workers(LOCAL):
        controller = int(submitit.AutoExecutor(tmp_path, cluster="local").submit(time.sleep, 600).job_id)
        deadline = time.monotonic() + 60
        while not children(controller) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(controller, signal.SIGINT)
        while is_alive(controller) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert capfd.readouterr() == ("", "")
