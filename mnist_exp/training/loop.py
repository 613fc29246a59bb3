"""The training loop.

Its parts: the images stay in memory as bytes; an epoch's order is a permutation of their indices; a chunk of
steps runs in one compiled call that gathers, augments, and lets Keras' own `train_step` learn. Every random draw
follows from the seed and the epoch or step number, so a training can go on from any step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from mnist_exp.config.schema import TrainConfig
from mnist_exp.data.dataset import Dataset, Part
from mnist_exp.errors import WorkError
from mnist_exp.model.schedule import learning_rates
from mnist_exp.training.augment import make_augment
from mnist_exp.training.finite import first_not_finite
from mnist_exp.training.selection import better, learning_rate_scale, stops_early

# Steps in one compiled call: enough to hide the call's cost (about 1 ms), few enough for a smooth display and
# a quick Ctrl-C. The weights do not depend on it.
STEPS_PER_CALL = 20
VALIDATION_BATCH = 500

ADVICE = "A lower optimizer.learning_rate may help; debug=nan_check names the layer."

Arrays = list[npt.NDArray[Any]]


@dataclass(frozen=True)
class Snapshot:
    """The model's and the optimizer's variables at one moment."""

    model: Arrays
    optimizer: Arrays

    @classmethod
    def of(cls, model: keras.Model) -> Snapshot:
        """A copy of a model's present state."""
        return cls(as_arrays(model.variables), as_arrays(model.optimizer.variables))

    def restore(self, model: keras.Model) -> None:
        """Give a model this state; it must have been built from the same config."""
        assign(model.variables, self.model)
        assign(model.optimizer.variables, self.optimizer)


def as_arrays(variables: Sequence[Any]) -> Arrays:
    """Copies of the variables' values."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def assign(variables: Sequence[Any], arrays: Arrays) -> None:
    """Give variables these values, one array for each."""
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


@dataclass
class Progress:
    """How far a training has come, and what it found: with the model's own state, all that going on needs."""

    epochs: int = 0
    """Finished epochs."""
    history: list[dict[str, float]] = field(default_factory=list)
    """A row per finished epoch: epoch (from 1), train/…, val/…, learning_rate, seconds."""
    best_epoch: int | None = None
    best: Snapshot | None = None
    steps: int = 0
    """Steps done in the epoch under way."""
    seconds: float = 0.0
    """What they took."""
    metrics: Arrays = field(default_factory=list)
    """What the model's metrics had counted in these steps, where the training goes on from a checkpoint."""


class Listener(Protocol):
    """Who is told how a training goes on."""

    def on_steps(self, epoch: int, done: int, steps: int, metrics: dict[str, float]) -> None:
        """`done` of the epoch's `steps` are done; `metrics` are the epoch's so far."""

    def on_epoch(self, row: dict[str, float], is_best: bool) -> None:
        """An epoch has ended, with this row of the history."""


def fit(
    model: keras.Model,
    data: Dataset,
    config: TrainConfig,
    listener: Listener,
    progress: Progress | None = None,
    after_epoch: Callable[[], None] = lambda: None,
    after_steps: Callable[[], None] = lambda: None,
) -> Progress:
    """Train until `training.epochs` epochs are done, or `training.early_stopping` ends it.

    `progress` is where to go on from, and is updated.

    `after_epoch` is called when an epoch is in `progress`, and before the listener is told; `after_steps` after
    each compiled call within one. At both, the model and `progress` are what going on from there needs.
    Raises `WorkError` when the loss is no longer a number. On `KeyboardInterrupt`, `progress` holds what was
    finished.
    """
    training = config.training
    progress = progress or Progress()
    steps = steps_per_epoch(len(data.train), config)
    rates = learning_rates(config.schedule, config.optimizer.learning_rate, steps, training.epochs)
    run_steps = compile_steps(model, data.train, config, rates)
    validate = compile_validation(model, data.val, config) if data.val else None
    steps_per_call = 1 if config.debug.check_finite else STEPS_PER_CALL

    while progress.epochs < training.epochs and not stops_early(progress.history, config):
        start = time.perf_counter() - progress.seconds
        epoch = progress.epochs
        scale = learning_rate_scale(progress.history, config)
        rate = rates[(epoch + 1) * steps - 1] * np.float32(scale)  # at the epoch's end
        model.reset_metrics()
        if progress.steps:
            assign(model.metrics_variables, progress.metrics)
        metrics = read_metrics(model)
        for rows in epoch_rows(
            len(data.train), training.batch_size, config.seed, epoch, steps, steps_per_call, progress.steps
        ):
            before = Snapshot.of(model) if config.debug.check_finite else None
            first = epoch * steps + progress.steps
            run_steps(rows, first, scale)
            metrics = read_metrics(model)
            if not math.isfinite(metrics["loss"]):
                raise diverged(model, data.train, config, rates * scale, epoch, (first, rows), before)
            progress.steps += len(rows)
            progress.seconds = time.perf_counter() - start
            listener.on_steps(epoch + 1, progress.steps, steps, metrics)
            after_steps()
        row = {"epoch": epoch + 1, **{f"train/{name}": value for name, value in metrics.items()}}
        with mean_weights(model):
            if validate is not None:
                row |= {f"val/{name}": value for name, value in validate().items()}
            if not all(map(math.isfinite, (*row.values(), *(np.sum(weight) for weight in model.get_weights())))):
                where = f"after epoch {epoch + 1}, at learning rate {rate:.3g}"
                raise WorkError(f"the loss is no longer a number: {where}. {ADVICE}")
            row["learning_rate"] = float(rate)
            row["seconds"] = time.perf_counter() - start
            progress.epochs += 1
            progress.steps, progress.seconds = 0, 0.0
            progress.history.append(row)
            is_best = progress.best_epoch is None or better(row, progress.history[progress.best_epoch - 1], config)
            if is_best:
                progress.best_epoch, progress.best = progress.epochs, Snapshot.of(model)
        after_epoch()
        listener.on_epoch(row, is_best)
    return progress


def steps_per_epoch(images: int, config: TrainConfig) -> int:
    """Every image once per epoch, unless `debug.max_steps` stops it before."""
    steps = math.ceil(images / config.training.batch_size)
    return min(steps, config.debug.max_steps or steps)


@contextmanager
def mean_weights(model: keras.Model) -> Iterator[None]:
    """With `training.ema`, the running mean in the place of the weights; they come back afterwards.

    What is not trained (batch normalization's statistics) stays as it is, as in Keras' own `fit`.
    """
    if not model.optimizer.use_ema:
        yield
        return
    kept = as_arrays(model.trainable_variables)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    try:
        yield
    finally:
        assign(model.trainable_variables, kept)


def epoch_rows(
    images: int, batch_size: int, seed: int, epoch: int, steps: int, steps_per_call: int, first: int = 0
) -> Iterator[npt.NDArray[np.int32]]:
    """The epoch's order, a function of seed and epoch: arrays (calls' steps, batch) of image indices.

    From the step `first` (from 0) on. The last batch holds what is left, and comes in an array of its own where
    it is smaller.
    """
    order = np.random.default_rng([seed, epoch]).permutation(images).astype(np.int32)
    whole = min(images // batch_size, steps)
    full = order[: whole * batch_size].reshape(whole, batch_size)
    for start in range(first, whole, steps_per_call):
        yield full[start : start + steps_per_call]
    if max(whole, first) < steps:
        yield order[whole * batch_size :].reshape(1, -1)


def compile_steps(
    model: keras.Model, train: Part, config: TrainConfig, rates: npt.NDArray[np.float32]
) -> Callable[[npt.NDArray[np.int32], int, float], None]:
    """A function of rows of image indices, the number of the first step, and a factor of the learning rate.

    It makes one training step per row.
    """
    images, targets = tf.constant(train.images), _targets(train, config)
    table = tf.constant(rates)
    augment = make_augment(config.aug, config.data.shape, config.seed)
    build_state(model)

    signature = [tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.float32)]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
    def run_steps(rows: Any, first_step: Any, scale: Any) -> None:
        for index in tf.range(tf.shape(rows)[0]):
            step = first_step + tf.cast(index, tf.int64)
            model.optimizer.learning_rate.assign(tf.gather(table, step) * scale)
            batch = tf.cast(tf.gather(images, rows[index]), tf.float32)
            if augment is not None:
                batch = augment(batch, step)
            model.train_step((batch, tf.gather(targets, rows[index])))

    return lambda rows, first_step, scale: run_steps(
        tf.constant(rows), tf.constant(first_step, tf.int64), tf.constant(scale, tf.float32)
    )


def compile_validation(model: keras.Model, val: Part, config: TrainConfig) -> Callable[[], dict[str, float]]:
    """A function that scores the model as it is on the validation part."""
    images, targets = tf.constant(val.images), _targets(val, config)

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.int64)])  # type: ignore[untyped-decorator]
    def score(start: Any, stop: Any) -> None:
        model.test_step((tf.cast(images[start:stop], tf.float32), targets[start:stop]))

    def validate() -> dict[str, float]:
        model.reset_metrics()
        for start in range(0, len(val), VALIDATION_BATCH):
            stop = min(start + VALIDATION_BATCH, len(val))
            score(tf.constant(start, tf.int64), tf.constant(stop, tf.int64))
        return read_metrics(model)

    return validate


def _targets(part: Part, config: TrainConfig) -> Any:
    if config.training.one_hot:
        return tf.one_hot(part.labels, config.data.classes)
    return tf.constant(part.labels.astype(np.int32))


def build_state(model: keras.Model) -> None:
    """Make every variable that training will use: they cannot be made inside a compiled call."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    shape = (1, *model.output_shape[1:])
    labels = np.zeros(shape) if _takes_one_hot(model) else np.zeros((1,), np.int32)
    model.compute_metrics(None, labels, np.full(shape, 1 / shape[-1], np.float32), None)
    model.reset_metrics()


def _takes_one_hot(model: keras.Model) -> bool:
    return not type(model.loss).__name__.startswith("Sparse")


def read_metrics(model: keras.Model) -> dict[str, float]:
    """The metrics since they were last reset."""
    return {name: float(value) for name, value in model.get_metrics_result().items()}


def diverged(
    model: keras.Model,
    train: Part,
    config: TrainConfig,
    rates: npt.NDArray[np.float32],
    epoch: int,
    call: tuple[int, npt.NDArray[np.int32]],
    before: Snapshot | None,
) -> WorkError:
    """The error that says where the loss stopped being a number and, with `debug.check_finite`, why."""
    first, rows = call
    where = f"in epoch {epoch + 1}, step {first + 1}" + (f" to {first + len(rows)}" if len(rows) > 1 else "")
    message = f"the loss is no longer a number: {where}, at learning rate {rates[first]:.3g}. "
    if before is None:
        return WorkError(message + ADVICE)
    before.restore(model)
    batch = tf.cast(tf.gather(tf.constant(train.images), rows[0]), tf.float32)
    augment = make_augment(config.aug, config.data.shape, config.seed)
    if augment is not None:
        batch = augment(batch, tf.constant(first, tf.int64))
    return WorkError(message + first_not_finite(model, batch))
