"""Check that a plug-in keeps its contract: for the tests of its author.

from mnist_exp.plugin_testing import verify

def test_my_layer():
    verify("mine.py", "model.layers=[MyLayer, Flatten, {type: Dense, units: 10}, Softmax]")
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mnist_exp.child_command import run_verb
from mnist_exp.cli import main
from mnist_exp.engine import callbacks
from mnist_exp.runs.directory import read_history
from mnist_exp.runs.result import RunResult, read_result

# Two compiled calls per epoch: the run is killed in the middle of its second epoch.
_SMALL = (
    "data=digits", "data.limit=300", "training.batch_size=8", "training.epochs=3", "model=linear",
    "device.precision=float32", "tracking=none",
)  # fmt: skip
_CALLS = 3
_CLOSE = 1e-4
"""The largest difference of a loss that two ways to compute it may cause, relative to the loss."""


def verify(plugin: str | Path, *overrides: str) -> None:
    """Check that a run that is killed and resumed ends with the weights of an uninterrupted one, and can be saved.

    Four commands run in processes of their own, on the built-in digits and the CPU: about a minute.

    Args:
        plugin: The path of the plug-in's file, or the name of its entry point.
        *overrides: Overrides that use what the plug-in registers, as on the command line.

    Raises:
        AssertionError: The plug-in does not keep the contract. The message says how.
        RequestError: The plug-in cannot be loaded, or the overrides are wrong.
        WorkError: The training failed.
    """
    words = (f"--plugin={plugin}", *_SMALL, *overrides)
    with tempfile.TemporaryDirectory(prefix="mnist-exp-") as folder:
        outputs = {name: str(Path(folder) / name) for name in ("whole", "killed")}
        whole = run_verb("train", words, {"outputs": outputs["whole"]})
        _train_until_killed(*words, f"outputs={outputs['killed']}")
        [killed] = (Path(outputs["killed"]) / "runs").iterdir()
        resumed = run_verb("resume", (f"--plugin={plugin}", f"run={killed}"), {})
        _refuse_difference(Path(whole["path"]), Path(resumed["path"]))
        _refuse_other_model(plugin, Path(whole["path"]))


def _train_until_killed(*words: str) -> None:
    """Train until the process kills itself after a checkpoint within an epoch."""
    command = [sys.executable, "-m", "mnist_exp.plugin_testing", "train", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, f"the run that was to be killed ended by itself:\n{done.stderr}"


def _refuse_difference(whole: Path, resumed: Path) -> None:
    """Raise `AssertionError` if two runs have other metrics or weights."""
    for one, other in zip(read_history(whole), read_history(resumed), strict=True):
        for name in one.keys() - {"seconds"}:
            assert one[name] == other.get(name), (
                f"epoch {one['epoch']:.0f}: {name} is {one[name]} in a run without interruption, and "
                f"{other.get(name)} in one that was killed in epoch 2 and resumed. All state must be "
                "in variables of Keras, and all random draws must come from a keras.random.SeedGenerator"
            )
    digests = [_result(run).weights_sha256 for run in (whole, resumed)]
    assert digests[0] == digests[1], "the weights of the resumed run differ from those of the uninterrupted one"


def _refuse_other_model(plugin: str | Path, run: Path) -> None:
    """Raise `AssertionError` if the saved model has another validation loss than the trained one."""
    words = (f"--plugin={plugin}", f"run={run}", "part=val", f"output={run / 'scores'}")
    best = _result(run).best
    assert best is not None
    loss = run_verb("evaluate", words, {})["metrics"]["loss"]
    assert abs(loss - best["val/loss"]) <= _CLOSE * max(1, abs(loss)), (
        f"the validation loss was {best['val/loss']} in training, but is {loss} for the saved model: get_config "
        "must return every argument of the constructor"
    )


def _result(run: Path) -> RunResult:
    result = read_result(run)
    assert result is not None
    return result


class _KilledCheckpointing(callbacks.Checkpointing):
    """Kills this process after a checkpoint."""

    _calls = 0

    def on_steps(self, epoch: int, done: int, steps: int, metrics: Mapping[str, float]) -> None:
        """Save a checkpoint at the third call, and kill the process."""
        self._calls += 1
        if self._calls == _CALLS:
            self.save()
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    callbacks.Checkpointing = _KilledCheckpointing  # type: ignore[misc]
    sys.exit(main(sys.argv[1:]))
