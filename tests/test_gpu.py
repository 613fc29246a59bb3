"""Training on a GPU. These tests are skipped on machines without one: `make test-gpu`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.cli import GPUS, PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.gpu]

KILL_POINTS = Path(__file__).with_name("support") / "kill_points.py"
KIND = "gpu"
LAYERS = (
    "[{type: Conv2D, filters: 8, kernel_size: 3, activation: relu}, MaxPooling2D, BatchNormalization,"
    " {type: Dropout, rate: 0.2}, Flatten, {type: Dense, units: 10}, Softmax]"
)
NET = (
    "data=digits", "tracking=none", f"device={KIND}", "model=linear", f"model.layers={LAYERS}", "aug=rotate15",
    "training.epochs=3", "training.batch_size=32", "training.checkpoint_seconds=1e-9",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _gpu() -> None:
    """Skip all tests of this module unless TensorFlow lists a GPU."""
    code = "import tensorflow as tf; print('GPUs:', len(tf.config.list_physical_devices('GPU')))"
    done = call("-c", code)
    if "GPUs: 0" in done.stdout:
        pytest.skip("TensorFlow lists no GPU on this machine")
    assert "GPUs:" in done.stdout, done.stderr


def call(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a process that sees the machine's GPUs, which the other tests hide."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"} | GPUS
    return subprocess.run(
        [sys.executable, *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300 * PATIENCE,
        check=False,
    )


def train(name: str, *words: str) -> dict[str, Any]:
    """Run a command that trains the run `name`, and return its result."""
    done = call("-m", "mnist_exp", *words)
    assert done.returncode == 0, (done.stdout, done.stderr)
    [file] = Path("outputs/runs").glob(f"{name}-*/result.json")
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return result


def test_a_killed_run_resumes_to_the_same_weights(use: Callable[[str], None]):
    """As on a CPU: after SIGKILL within an epoch, `resume` ends with the bits of an uninterrupted run."""
    whole = train("whole", *NET, "name=whole")
    assert whole["device"]["kind"] == KIND
    killed = call(KILL_POINTS, "inside an epoch", "5", *NET, "name=killed")
    assert killed.returncode == -signal.SIGKILL, (killed.stdout, killed.stderr)
    resumed = train("killed", "resume", "run=killed")
    assert len(resumed["resumed"]) == 1
    assert resumed["weights_sha256"] == whole["weights_sha256"]
    use("digits")


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_a_model_trained_on_a_gpu_is_evaluated_on_the_cpu(use: Callable[[str], None], precision: str):
    """In any precision, it is saved in float32 and scores the same on the CPU, except for rounding."""
    result = train("a", *NET, f"device.precision={precision}", "name=a")
    assert (result["device"]["kind"], result["device"]["precision"]) == (KIND, precision)
    done = call("-m", "mnist_exp", "evaluate", "run=a", "format=json")
    assert done.returncode == 0, done.stderr
    evaluated = json.loads(done.stdout)
    assert evaluated["metrics"]["accuracy"] == pytest.approx(result["test"]["accuracy"], abs=0.005)
    assert evaluated["metrics"]["loss"] == pytest.approx(result["test"]["loss"], rel=0.01)
    use("digits")
