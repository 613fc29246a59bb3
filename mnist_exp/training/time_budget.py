"""Estimate how many epochs fit into a time budget, from the duration of a few compiled calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import keras
import numpy as np

from mnist_exp.config.schema import TrainConfig
from mnist_exp.data.dataset import Dataset
from mnist_exp.training.checkpoint import Checkpoints
from mnist_exp.training.loop import (
    Progress,
    Snapshot,
    ValidatedModel,
    epoch_rows,
    start_epoch,
    steps_per_call,
    steps_per_epoch,
    training_layers,
)
from mnist_exp.training.step import compile_steps, read_metrics

MOST_EPOCHS = 100_000
_MEASURED_SECONDS = 0.5


@dataclass(frozen=True)
class EpochTiming:
    """The estimated duration of a training, in seconds."""

    compilation: float
    """The additional duration of the first calls."""
    epoch: float

    def count_epochs(self, seconds: float) -> int:
        """Return how many whole epochs fit into a budget; at least 1."""
        return int(min(max((seconds - self.compilation) / self.epoch, 1), MOST_EPOCHS))


def time_epoch(
    model: keras.Model, data: Dataset, config: TrainConfig, teacher: keras.Model | None = None
) -> EpochTiming:
    """Time training steps, a validation, and a checkpoint. The model's state is the same afterwards.

    Callbacks, the files of the run except its checkpoint, and interference by other processes are not included.
    """
    steps = steps_per_epoch(len(data.train), config)
    # With a learning rate of 0, training cannot diverge.
    run_steps = compile_steps(model, data.train, config, np.zeros(steps, np.float32), teacher=teacher)
    before = Snapshot.of(model)
    validated = ValidatedModel(model, data, config)
    size = config.training.batch_size
    rows = next(epoch_rows(len(data.train), size, config.seed, 0, steps, steps_per_call(config)))

    def train() -> None:
        run_steps(rows, 0, 1.0)
        read_metrics(model)  # waits for a GPU

    def validate() -> None:
        with validated.averaged(validated.add_weights([])):
            validated.validate()
            Snapshot.of(model)

    with training_layers(model, config, teacher), TemporaryDirectory() as folder:
        start_epoch(model, Progress())
        first_call, call = _time(train)
        first_validation, validation = _time(validate)
        before.restore(model)
        finished = Progress(epochs=1, best_epoch=1, best=before)
        _, checkpoint = _time(lambda: Checkpoints(Path(folder), "", None).save(model, finished))
    images = min(steps * size, len(data.train))
    epoch = call * images / rows.size + validation + checkpoint
    return EpochTiming(max(first_call - call, 0) + max(first_validation - validation, 0), epoch)


def _time(call: Callable[[], None]) -> tuple[float, float]:
    """Return the duration of the first call, and the median of later ones, of which there is at least one."""
    first, later = _seconds(call), [_seconds(call)]
    while sum(later) < _MEASURED_SECONDS:
        later.append(_seconds(call))
    return first, median(later)


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
