"""How fast mnist-exp is, beside the script that one would write with plain Keras instead (`plain.py`): `make bench`.

    python tests/benchmarks/speed.py [pairs]

Same model, batch size, images and epochs; the script computes in float32 and saves, draws and logs nothing. The
first table is of training alone: the programs take turns, epoch by epoch, the first epoch of each is not counted.
The second is of whole commands, which alternate, the third of a sweep. Ratios are those of pairs; medians, ranges in brackets.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.data import idx
from mnist_exp.data.dataset import Source
from mnist_exp.data.formats import find, prepare
from mnist_exp.data.sources import cache_folder

HERE = Path(__file__).resolve().parent
# Images of an epoch that is timed, held-out ones included: about four seconds of the script.
IMAGES = {"pyramid": 16_000, "lenet5x5": 10_000, "vgg_bn": 6_000, "shallow": 24_000, "bottleneck": 4_000}
EPOCHS, WHOLE = 3, 60_000  # of a whole command: epochs, and images with the held-out ones
AUG_COST = 0.012  # CPU seconds per 1,000 images, at most
READING = 0.25  # seconds, at most
JOBS, SWEEP = 8, 0.4  # of a sweep, and its time at most against the scripts'
# The least ratio of images per second, with augmentation; without it, that of all models.
TARGETS = {"pyramid": 3.5, "lenet5x5": 2.3, "vgg_bn": 1.7, "shallow": None, "bottleneck": None}
WITHOUT = 1.3
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}

Epoch = dict[str, float]


def display_path(values: Sequence[float], digits: int = 2) -> str:
    """The median, and the range in brackets."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


class Program:
    """One of the programs that take turns."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL, env=os.environ | QUIET,
        )  # fmt: skip

    def epoch(self) -> Epoch:
        """Let it train an epoch; what that took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self._process.args}: has ended")
        found: Epoch = json.loads(line)
        return found

    def end(self) -> None:
        """It has done all its epochs."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def train_in_turns(model: str, aug: str, archive: Path, pairs: int) -> dict[str, list[Epoch]]:
    """What each epoch took the script and us, in float32 and in what `auto` chooses."""
    images = str(IMAGES[model])
    overrides = [f"model={model}", f"aug={aug}", f"data.limit={images}", f"training.epochs={pairs + 1}"]
    programs = {
        "script": Program(f"{HERE}/plain.py", str(archive), model, aug, str(pairs + 1), images),
        "auto": Program(f"{HERE}/steady.py", *overrides),
        "float32": Program(f"{HERE}/steady.py", *overrides, "device.precision=float32"),
    }
    taken: dict[str, list[Epoch]] = {name: [] for name in programs}
    for _ in range(pairs + 1):
        for name, program in programs.items():
            taken[name].append(program.epoch())
    for program in programs.values():
        program.end()
    return {name: epochs[1:] for name, epochs in taken.items()}


def training_table(archive: Path, pairs: int) -> None:
    """Images per second and CPU seconds per 1,000 images, beside the script's."""
    print("| training | target | images per second ÷ script's | in float32 | images per second | the script's "
          "| CPU seconds per 1,000 images | in float32 | the script's |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    cpu: dict[tuple[str, str], float] = {}
    for model, target in TARGETS.items():
        for aug in ("rotate45_mild", "none"):
            taken = train_in_turns(model, aug, archive, pairs)
            speeds = {name: [one["images"] / one["seconds"] for one in taken[name]] for name in taken}
            costs = {name: [1000 * one["cpu"] / one["images"] for one in taken[name]] for name in taken}
            cpu[model, aug] = median(costs["auto"])
            ratios = {
                name: [ours / theirs for ours, theirs in zip(speeds[name], speeds["script"], strict=True)]
                for name in ("auto", "float32")
            }
            least = target if aug == "rotate45_mild" else WITHOUT
            print(
                f"| `{model} aug={aug}` | {f'≥ {least}' if least else ''} | **{display_path(ratios['auto'])}** "
                f"| {display_path(ratios['float32'])} | {median(speeds['auto']):,.0f} | {median(speeds['script']):,.0f} "
                f"| {display_path(costs['auto'], 3)} | {display_path(costs['float32'], 3)} | {display_path(costs['script'], 3)} |",
                flush=True,
            )
    differences = [cpu[model, "rotate45_mild"] - cpu[model, "none"] for model in TARGETS]
    print(
        f"\nAugmentation, CPU seconds per 1,000 images: between the rows, {display_path(differences, 3)}",
        flush=True,
    )


# Runs a script or a module, and prints the greatest memory of its process, in MB.
MEASURED = """\
import resource, runpy, sys
sys.argv = sys.argv[1:]
try:
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit as end:
    if end.code:
        raise
print("MEMORY", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)
"""


def run(words: Sequence[str], folder: Path) -> tuple[float, float]:
    """Seconds of a whole process, and its greatest memory in MB."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, cwd=folder, env=os.environ | QUIET,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{words}: exit status {done.returncode}\n{done.stdout}")
    [memory] = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("MEMORY")]
    return seconds, memory


def command_table(archive: Path, pairs: int) -> None:
    """`lenet5x5 aug=rotate45_mild`, three epochs, with tracking, plots and saved models, beside the script.

    What is not training is taken from commands that train on almost nothing: the script's epochs vary too much for
    a difference of large figures.
    """
    print("| `lenet5x5 aug=rotate45_mild`, the whole command | target | ÷ script's | ours | the script's |")
    print("|---|---:|---:|---:|---:|")
    for what, epochs, images, target in (
        (f"{EPOCHS} epochs, seconds", EPOCHS, WHOLE, 0.6),
        ("one epoch on 1,000 images, seconds", 1, 1000, 1.5),
    ):
        ours, theirs = [], []
        for _ in range(pairs):
            with tempfile.TemporaryDirectory() as name:
                script = [f"{HERE}/plain.py", str(archive), "lenet5x5", "rotate45_mild", str(epochs), str(images)]
                theirs.append(run(script, Path(name)))
                words = [
                    "model=lenet5x5",
                    "aug=rotate45_mild",
                    f"training.epochs={epochs}",
                    f"data.limit={images}",
                ]
                ours.append(run(["mnist_exp", *words], Path(name)))
        for index, (figure, least) in enumerate(((what, target), ("… peak memory, MB", 1.0))):
            mine, other = [one[index] for one in ours], [one[index] for one in theirs]
            ratios = [a / b for a, b in zip(mine, other, strict=True)]
            print(
                f"| {figure} | ≤ {least} | **{display_path(ratios)}** | {display_path(mine, 1)} | {display_path(other, 1)} |",
                flush=True,
            )
    print()


def sweep_table(archive: Path, pairs: int) -> None:
    """A sweep of whole runs on two workers, beside as many scripts one after the other."""
    print("| a sweep, whole processes, seconds | target | ÷ scripts' | ours | the scripts' |")
    print("|---|---:|---:|---:|---:|")
    ours, theirs = [], []
    for _ in range(pairs):
        with tempfile.TemporaryDirectory() as name:
            script = [f"{HERE}/plain.py", str(archive), "lenet5x5", "rotate45_mild", "1", str(WHOLE)]
            theirs.append(sum(run(script, Path(name))[0] for _ in range(JOBS)))
            words = ["model=lenet5x5", "aug=rotate45_mild", "training.epochs=1", f"seed=range({JOBS})"]
            launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
            ours.append(run(["mnist_exp", "-m", *launcher, *words], Path(name))[0])
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    print(
        f"| {JOBS} jobs, `lenet5x5 aug=rotate45_mild`, one epoch | ≤ {SWEEP} | **{display_path(ratios)}** | {display_path(ours, 1)} "
        f"| {display_path(theirs, 1)} |\n",
        flush=True,
    )


def augmentation(pairs: int) -> None:
    """What `rotate45_mild` costs by itself: the differences between rows of the table are smaller than their noise."""
    from mnist_exp.model import backend

    backend.load()
    import tensorflow as tf

    from mnist_exp.training.augment import make_augment

    config, _ = compose_checked(Request("train", ("aug=rotate45_mild",)), TrainConfig)
    augment = make_augment(config.aug, config.data.shape, config.seed)
    assert augment is not None
    batch, batches = 128, 200
    images = tf.random.uniform((batch, *config.data.shape), 0, 255)

    def repeated(change: Callable[[Any, Any], Any]) -> Callable[[], Any]:
        """Sums, lest anything is left out."""
        steps = tf.range(batches, dtype=tf.int64)
        return tf.function(
            lambda: tf.foldl(lambda total, step: total + tf.reduce_sum(change(images, step)), steps, 0.0)
        )

    def seconds(function: Callable[[], Any]) -> float:
        started = time.process_time()
        function()
        return time.process_time() - started

    augmented, plain = repeated(augment), repeated(lambda images, step: images + tf.cast(step, tf.float32))
    augmented(), plain()
    costs = [(seconds(augmented) - seconds(plain)) * 1000 / (batch * batches) for _ in range(pairs)]
    print(
        f"Augmentation by itself, CPU seconds per 1,000 images: {display_path(costs, 4)}, target ≤ {AUG_COST}\n",
        flush=True,
    )


def reading(source: Source, folder: Path, pairs: int) -> None:
    """MNIST, from this user's cache to the arrays of a run."""
    os.environ.pop("MNIST_EXP_DATA", None)
    os.environ["XDG_CACHE_HOME"] = str(folder)
    config, _ = compose_checked(Request("train", ()), TrainConfig)
    cache_folder(config.data.name).mkdir(parents=True)
    idx.write(cache_folder(config.data.name), source.parts, lambda _: None)
    taken = []
    for _ in range(pairs):
        started = time.perf_counter()
        prepare(find(config.data, sys.exit), config.data)
        taken.append(time.perf_counter() - started)
    print(f"Reading MNIST from the cache, seconds: {display_path(taken)}, target ≤ {READING}\n", flush=True)


def main(pairs: int) -> None:
    """Print the tables."""
    with tempfile.TemporaryDirectory() as name:
        archive = Path(name) / "mnist.npz"
        config, _ = compose_checked(Request("train", ("data.fallback=null",)), TrainConfig)
        source = find(config.data, print)
        np.savez(archive, x_train=source.train.images[..., 0], y_train=source.train.labels)
        training_table(archive, pairs)
        command_table(archive, pairs)
        sweep_table(archive, max(1, pairs // 3))
        reading(source, Path(name), pairs)
        augmentation(pairs)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
