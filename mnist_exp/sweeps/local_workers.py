"""End the processes of submitit's local launcher, which would otherwise outlive the sweep that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from mnist_exp.runs import signals
from mnist_exp.runs.log import warn

# Seconds to wait after each signal. The first one lets a worker write a checkpoint; upon the second, submitit's
# process kills its worker.
_ENDING = ((signal.SIGTERM, 20.0), (signal.SIGINT, 5.0))

Process = subprocess.Popen[bytes]


@contextmanager
def ending_local_workers() -> Iterator[None]:
    """At the end of the block, end the processes that submitit started in it on this machine."""
    from submitit.local import local

    start, started = local.start_controller, list[Process]()

    def start_and_keep(*arguments: Any, **more: Any) -> Process:
        with signals.held(), _without_stderr():
            started.append(start(*arguments, **more))
        return started[-1]

    local.start_controller = start_and_keep
    try:
        yield
    finally:
        local.start_controller = start
        with signals.held():
            _end(started)


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Give processes that are started in the block no standard error.

    submitit's controller prints a traceback when it is interrupted. Its workers write their output to files.
    """
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _end(processes: Sequence[Process]) -> None:
    """End processes, and warn about those that do not end."""
    left = _still_running(processes, 0)
    for number, patience in _ENDING:
        for process in left:
            with suppress(ProcessLookupError):
                process.send_signal(number)
        left = _still_running(left, patience)
    if left:
        numbers = ", ".join(str(process.pid) for process in left)
        warn(f"workers could not be ended and continue to train: process{'es' * (len(left) > 1)} {numbers}")


def _still_running(processes: Sequence[Process], patience: float) -> list[Process]:
    """Wait up to `patience` seconds for processes to end, and return those that have not."""
    deadline = time.monotonic() + patience
    while (left := [process for process in processes if process.poll() is None]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left
