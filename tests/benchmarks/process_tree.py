"""Measure a whole command: until its last process has ended, those that outlive it included."""

import ctypes
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

PR_SET_CHILD_SUBREAPER = 36  # Linux: orphaned descendants become this process's children
SAMPLED_EVERY = 1.0  # seconds; reading the memory of a large process takes some milliseconds


@dataclass(frozen=True)
class Taken:
    """The resources that a command used."""

    seconds: float
    """Until its last process had ended."""
    cpu: float
    """CPU seconds of all its processes."""
    memory: float
    """The peak of the memory of all its processes together, shared pages counted once, in MB."""


def measure(command: Sequence[str], folder: Path, environment: Mapping[str, str] = {}) -> Taken:
    """Run a command in a folder. Raises `subprocess.CalledProcessError` if it fails."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    before, started = os.times(), time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
    )  # fmt: skip
    peak, ended = [0.0], threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLED_EVERY):
            peak[0] = max(peak[0], sum(map(_proportional_memory, psutil.Process().children(recursive=True))))

    sampling = threading.Thread(target=sample)
    sampling.start()
    try:
        output, _ = process.communicate()
        while psutil.Process().children(recursive=True):
            _reap()
            time.sleep(0.01)
    finally:
        ended.set()
        sampling.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Taken(time.perf_counter() - started, cpu, peak[0])


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _proportional_memory(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss) / 1e6
    except (psutil.Error, AttributeError):
        return 0.0
