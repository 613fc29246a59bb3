"""Compare the speed of mnist-exp with scripts that do the same without it: `make bench`.

    python tests/benchmarks/speed.py [--pairs 5] [--models lenet5x5 vgg_bn] [--torch PYTHON]

The scripts: a good one in Keras (`keras_script.py`), a good one in PyTorch (`torch_script.py`; skipped if PyTorch is
not installed), and the plain Keras script of most tutorials (`plain.py`). Same model, batch size, images and epochs. The scripts
save, draw and log nothing. The first table is of training alone: the programs take turns, epoch by epoch, and the
first epoch of each is not counted. The second is of whole commands, which alternate, the third of a sweep. Ratios are those of
pairs; medians, with ranges in parentheses.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from process_tree import Taken, measure

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.data import idx
from mnist_exp.data.dataset import Source
from mnist_exp.data.formats import find, prepare
from mnist_exp.data.sources import cache_folder
from mnist_exp.training.device import cpu_computes_in_bfloat16

HERE = Path(__file__).resolve().parent
# Images of an epoch that is timed, held-out ones included.
IMAGES = {"lenet5x5": 10_000, "vgg_bn": 6_000, "pyramid": 16_000, "resnet_mini": 10_000, "shallow": 24_000}
AUG = "rotate45_mild"
SCRIPTS = {"Keras": "keras_script.py", "PyTorch": "torch_script.py", "plain Keras": "plain.py"}
TRAINING = {"Keras": 1.2, "PyTorch": 1.3}  # least ratios of images per second
EPOCHS, WHOLE, FEW = 3, 60_000, 1000  # of a whole command: epochs, and images with the held-out ones
COMMAND = {"Keras": 0.75}  # of EPOCHS epochs, the time at most against the script's
AUG_COST = 0.012  # CPU seconds per 1,000 images, at most
READING = 0.25  # seconds, at most
JOBS, SWEEP = 8, 0.4  # of a sweep, and its time at most against the plain scripts'

Epoch = dict[str, float]


def summary(values: Sequence[float], digits: int = 2) -> str:
    """The median, and the range in parentheses."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def divided(mine: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """The ratios of pairs."""
    return [a / b for a, b in zip(mine, theirs, strict=True)]


class Opponents:
    """The scripts that can run here, and their commands."""

    def __init__(self, archive: Path, torch_python: str) -> None:
        self._archive, self._torch_python = archive, torch_python
        self.names = list(SCRIPTS)
        if subprocess.run([torch_python, "-c", "import torch"], stderr=subprocess.DEVNULL).returncode:
            self.names.remove("PyTorch")
            print("PyTorch is not installed (pip install torch, or --torch PYTHON): left out\n")

    def command(self, name: str, model: str, epochs: int, images: int) -> list[str]:
        """The command line of a script."""
        python = self._torch_python if name == "PyTorch" else sys.executable
        precision = "bfloat16" if cpu_computes_in_bfloat16() else "float32"
        words = [str(self._archive), model, AUG, str(epochs), str(images), precision]
        return [python, str(HERE / SCRIPTS[name]), *words]


class Program:
    """One of the programs that take turns. It is stopped between its turns, as idle threads of some libraries spin."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "TURNS": "1"},
        )  # fmt: skip

    def epoch(self) -> Epoch:
        """Let it train an epoch; what that took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self._process.args}: has ended")
        self._process.send_signal(signal.SIGSTOP)
        found: Epoch = json.loads(line)
        return found

    def end(self) -> None:
        """It has done all its epochs."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.close()
        self._process.wait()


def train_in_turns(opponents: Opponents, model: str, pairs: int) -> dict[str, list[Epoch]]:
    """The seconds of each epoch of mnist-exp (`ours`) and of each script."""
    images = IMAGES[model]
    overrides = [f"model={model}", f"aug={AUG}", f"data.limit={images}", f"training.epochs={pairs + 1}"]
    programs = {"ours": Program([sys.executable, str(HERE / "steady.py"), *overrides])}
    programs |= {name: Program(opponents.command(name, model, pairs + 1, images)) for name in opponents.names}
    taken: dict[str, list[Epoch]] = {name: [] for name in programs}
    for _ in range(pairs + 1):
        for name, program in programs.items():
            taken[name].append(program.epoch())
    for program in programs.values():
        program.end()
    return {name: epochs[1:] for name, epochs in taken.items()}


def training_table(opponents: Opponents, models: Sequence[str], pairs: int) -> None:
    """Images per second and CPU seconds per 1,000 images, compared with each script's."""
    columns = [f"÷ {name}'s{f' (≥ {TRAINING[name]})' if name in TRAINING else ''}" for name in opponents.names]
    costs = [f"CPU seconds per 1,000 images: {name}" for name in ("ours", *opponents.names)]
    print(
        "| ".join(
            [f"| training, `aug={AUG}` | images per second ", *(f"{one} " for one in (*columns, *costs)), ""]
        )
    )
    print("|---" + "|---:" * (1 + len(columns) + len(costs)) + "|")
    for model in models:
        taken = train_in_turns(opponents, model, pairs)
        speeds = {name: [one["images"] / one["seconds"] for one in epochs] for name, epochs in taken.items()}
        cpu = {name: median(1000 * one["cpu"] / one["images"] for one in epochs) for name, epochs in taken.items()}
        ratios = [f"**{summary(divided(speeds['ours'], speeds[name]))}**" for name in opponents.names]
        cells = [f"`{model}`", f"{median(speeds['ours']):,.0f}", *ratios, *(f"{cpu[name]:.3f}" for name in cpu)]
        print(f"| {' | '.join(cells)} |", flush=True)
    print()


def ours(words: Sequence[str], folder: Path) -> Taken:
    """The seconds that a command of mnist-exp took."""
    return measure([sys.executable, "-m", "mnist_exp", *words], folder)


def command_table(opponents: Opponents, pairs: int) -> None:
    """`lenet5x5`, whole commands, with tracking, plots and saved models, compared with each script.

    The time outside training comes from commands that train on almost nothing: whole epochs vary too much for
    a difference of large figures.
    """
    print(f"| `lenet5x5 aug={AUG}`, the whole command | ours | {' | '.join(opponents.names)} | "
          f"{' | '.join(f'÷ {name}' for name in opponents.names)} |")  # fmt: skip
    print("|---|" + "---:|" * (1 + 2 * len(opponents.names)))
    for what, epochs, images in ((f"{EPOCHS} epochs", EPOCHS, WHOLE), (f"one epoch on {FEW:,} images", 1, FEW)):
        taken: dict[str, list[Taken]] = {name: [] for name in ("ours", *opponents.names)}
        words = ["model=lenet5x5", f"aug={AUG}", f"training.epochs={epochs}", f"data.limit={images}"]
        for _ in range(pairs):
            with tempfile.TemporaryDirectory() as name:
                taken["ours"].append(ours(words, Path(name)))
                for script in opponents.names:
                    command = opponents.command(script, "lenet5x5", epochs, images)
                    taken[script].append(measure(command, Path(name)))
        figures: dict[str, Callable[[Taken], float]] = {
            "seconds": lambda one: one.seconds,
            "CPU seconds": lambda one: one.cpu,
            "peak memory, MB": lambda one: one.memory,
        }
        for unit, figure in figures.items():
            values = {name: list(map(figure, every)) for name, every in taken.items()}
            cells = [summary(values[name], 1) for name in values]
            cells += [f"**{summary(divided(values['ours'], values[name]))}**" for name in opponents.names]
            print(f"| {what}: {unit} | {' | '.join(cells)} |", flush=True)
    print(
        f"\nTarget: {EPOCHS} epochs in at most {COMMAND['Keras']} of the Keras script's time, memory at most the script's.\n"
    )


def sweep_table(opponents: Opponents, pairs: int) -> None:
    """A sweep of whole runs on two workers, compared with as many plain scripts one after the other."""
    print("| a sweep, whole processes, seconds | target | ÷ scripts' | ours | the scripts' |")
    print("|---|---:|---:|---:|---:|")
    mine, theirs = [], []
    script = opponents.command("plain Keras", "lenet5x5", 1, WHOLE)
    words = ["-m", "model=lenet5x5", f"aug={AUG}", "training.epochs=1", f"seed=range({JOBS})",
             "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]  # fmt: skip
    for _ in range(pairs):
        with tempfile.TemporaryDirectory() as name:
            theirs.append(sum(measure(script, Path(name)).seconds for _ in range(JOBS)))
            mine.append(ours(words, Path(name)).seconds)
    print(
        f"| {JOBS} jobs, `lenet5x5 aug={AUG}`, one epoch | ≤ {SWEEP} | **{summary(divided(mine, theirs))}** "
        f"| {summary(mine, 1)} | {summary(theirs, 1)} |\n",
        flush=True,
    )


def augmentation(pairs: int) -> None:
    """Measure `rotate45_mild` by itself: the differences between rows of the table are smaller than their noise."""
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
        f"Augmentation by itself, CPU seconds per 1,000 images: {summary(costs, 4)}, target ≤ {AUG_COST}\n",
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
    print(f"Reading MNIST from the cache, seconds: {summary(taken)}, target ≤ {READING}\n", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=IMAGES, default=list(IMAGES))
    parser.add_argument("--torch", default=sys.executable, help="a Python that has PyTorch")
    parser.add_argument("--only", choices=["training", "commands", "rest"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        archive = Path(name) / "mnist.npz"
        config, _ = compose_checked(Request("train", ("data.fallback=null",)), TrainConfig)
        source = find(config.data, print)
        arrays = {f"x_{part}": one.images[..., 0] for part, one in source.parts.items()}
        np.savez(archive, **arrays, **{f"y_{part}": one.labels for part, one in source.parts.items()})
        opponents = Opponents(archive, args.torch)
        if args.only in (None, "training"):
            training_table(opponents, args.models, args.pairs)
        if args.only in (None, "commands"):
            command_table(opponents, args.pairs)
        if args.only in (None, "rest"):
            sweep_table(opponents, max(1, args.pairs // 3))
            reading(source, Path(name), args.pairs)
            augmentation(args.pairs)


if __name__ == "__main__":
    main()
