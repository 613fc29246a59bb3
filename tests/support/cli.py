"""Run the command line in tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

# The folder with the real MNIST files, if there is one here.
MNIST = os.environ.get("MNIST_EXP_DATA")

# The variable that selects GPUs, as it was before conftest.py hid them from the tests.
GPUS = {name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES",) if name in os.environ}

PATIENCE = 4
"""Multiplies the limits after which a process counts as hung. They hold on a busy machine, too: a processor without
AVX-512 takes four times as long to train as one with its bfloat16 instructions."""


def soak(*values: Any) -> Any:
    """Mark parameters of a test that only `make soak` uses."""
    return pytest.param(*values, marks=(pytest.mark.slow, pytest.mark.soak))


# A softmax regression on a few hundred images, without pictures: everything is real, nothing takes long.
SMALL: Sequence[str] = ("model=linear", "data.limit=300", "training.epochs=2", "tracking=none", "plots=false")


@dataclass
class Outcome:
    """The result of a command line."""

    status: int
    out: str
    err: str
    run: Path | None = None
    result: dict[str, Any] = field(default_factory=dict)


Cli = Callable[..., Outcome]


def start(*words: str, ignoring: signal.Signals | None = None) -> subprocess.Popen[str]:
    """Start a command line in a process of its own, as a terminal would: one that hears Ctrl-C.

    A shell's background jobs ignore it, and so would their children. `ignoring` is a signal that it does not hear.
    """

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if ignoring is not None:
            signal.signal(ignoring, signal.SIG_IGN)

    return subprocess.Popen(
        [sys.executable, "-m", "mnist_exp", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
    )
