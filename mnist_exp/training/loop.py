"""The training loop.

The order of an epoch is a permutation of the image indices; one compiled call runs several steps. Every random
draw is a function of the seed and the epoch or step number, so training can resume from any step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from mnist_exp.config.schema import TrainConfig
from mnist_exp.data.class_weights import class_weights
from mnist_exp.data.dataset import Dataset, Part
from mnist_exp.errors import DIVERGED, Diverged
from mnist_exp.training.batch_augmentation import make_batch_augment
from mnist_exp.training.batch_statistics import compile_statistics
from mnist_exp.training.callback import Callback
from mnist_exp.training.early_stopping import is_better, learning_rate_scale, stops_early
from mnist_exp.training.fast_layers import use_fused_layers
from mnist_exp.training.nan_check import first_not_finite
from mnist_exp.training.ordered_sums import ordered_sums
from mnist_exp.training.schedule import learning_rates
from mnist_exp.training.step import compile_steps, compile_validation, read_metrics

# Steps per compiled call: enough to hide the overhead of a call (about 1 ms), few enough for a smooth progress
# display and a quick Ctrl-C. The weights do not depend on this number.
STEPS_PER_CALL = 20

ADVICE = "A lower optimizer.learning_rate may help; debug=nan_check names the layer."

Arrays = list[npt.NDArray[Any]]


@dataclass(frozen=True)
class Snapshot:
    """The values of a model's and its optimizer's variables at one point in time."""

    model: Arrays
    optimizer: Arrays

    @classmethod
    def of(cls, model: keras.Model) -> Snapshot:
        """Copy the current state of a model."""
        return cls(as_arrays(model.variables), as_arrays(model.optimizer.variables))

    def restore(self, model: keras.Model) -> None:
        """Restore this state in a model that was built from the same config."""
        assign(model.variables, self.model)
        assign(model.optimizer.variables, self.optimizer)


def as_arrays(variables: Sequence[Any]) -> Arrays:
    """Return copies of the variables' values."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def assign(variables: Sequence[Any], arrays: Arrays) -> None:
    """Assign values to variables, one array for each."""
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


@dataclass
class Progress:
    """The progress of a training run. Together with the model's state, it is all that is needed to resume."""

    epochs: int = 0
    """The number of finished epochs."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One row per finished epoch: epoch (from 1), train/…, val/…, learning_rate, seconds."""
    best_epoch: int | None = None
    best: Snapshot | None = None
    steps: int = 0
    """The number of finished steps in the current epoch."""
    seconds: float = 0.0
    """The duration of these steps, in seconds."""
    recent: list[Arrays] = field(default_factory=list)
    """The trainable weights after each of the last epochs, as many as `training.average_last` averages."""
    metrics: Arrays = field(default_factory=list)
    """The values of the metrics' variables after these steps, if training resumes from a checkpoint."""


def fit(
    model: keras.Model,
    data: Dataset,
    config: TrainConfig,
    callbacks: Sequence[Callback] = (),
    progress: Progress | None = None,
    teacher: keras.Model | None = None,
) -> Progress:
    """Train for `training.epochs` epochs, or until `training.early_stopping` ends training.

    Raises `Diverged` if the loss or a weight is no longer finite.

    Args:
        model: The compiled model, whose weights are trained in place.
        data: The training set is shuffled and augmented; the validation set is evaluated after each epoch.
        config: The config of the run.
        callbacks: Called in this order after each compiled call and after each epoch.
        progress: The progress to resume from. It is updated in place: after an exception, including
            `KeyboardInterrupt`, it holds the steps and epochs finished so far.
        teacher: The model whose outputs are learned as well; None without distillation.
    """
    training, images, progress = config.training, len(data.train), progress or Progress()
    steps = steps_per_epoch(images, config)
    rates = learning_rates(config.schedule, config.optimizer.learning_rate, steps, training.epochs)
    weights = class_weights(training.class_weight, data.train.labels, data.class_names)
    run_steps = compile_steps(model, data.train, config, rates, weights, teacher)
    validated = ValidatedModel(model, data, config)
    with training_layers(model, config, teacher):
        while progress.epochs < training.epochs and not stops_early(progress.history, config):
            start, epoch = time.perf_counter() - progress.seconds, progress.epochs
            scale = learning_rate_scale(progress.history, config)
            metrics = start_epoch(model, progress)
            for rows in epoch_rows(
                images, training.batch_size, config.seed, epoch, steps, steps_per_call(config), progress.steps
            ):
                before = Snapshot.of(model) if config.debug.check_finite else None
                first = epoch * steps + progress.steps
                run_steps(rows, first, scale)
                metrics = read_metrics(model)
                if not math.isfinite(metrics["loss"]):
                    raise locate_divergence(model, data.train, config, rates * scale, epoch, (first, rows), before)
                progress.steps += len(rows)
                progress.seconds = time.perf_counter() - start
                for callback in callbacks:
                    callback.on_steps(epoch + 1, progress.steps, steps, metrics)
            rate = float(rates[(epoch + 1) * steps - 1] * np.float32(scale))  # at the end of the epoch
            is_best = end_epoch(model, config, progress, metrics, validated, rate, start)
            for callback in callbacks:
                callback.on_epoch(progress.history[-1], is_best)
    return progress


@contextmanager
def training_layers(model: keras.Model, config: TrainConfig, teacher: keras.Model | None = None) -> Iterator[None]:
    """Train in the block with branches summed in a fixed order and, unless NaN is looked for, fused layers."""
    of_teacher = nullcontext() if teacher is None else ordered_sums(teacher)
    # The check for finite values needs every layer's output.
    with ordered_sums(model), of_teacher, nullcontext() if config.debug.check_finite else use_fused_layers(model):
        yield


def start_epoch(model: keras.Model, progress: Progress) -> dict[str, float]:
    """Reset the model's metrics or, when resuming within an epoch, restore them. Returns their values."""
    model.reset_metrics()
    if progress.steps:
        assign(model.metrics_variables, progress.metrics)
    return read_metrics(model)


def end_epoch(
    model: keras.Model,
    config: TrainConfig,
    progress: Progress,
    metrics: Mapping[str, float],
    validated: ValidatedModel,
    rate: float,
    start: float,
) -> bool:
    """Validate, complete the row of the epoch, and add it to `progress`. Returns whether it is the best so far.

    `start` is the time at which the epoch began, by `time.perf_counter`. Raises `Diverged` if the loss or a weight
    is no longer finite.
    """
    row = {"epoch": progress.epochs + 1, **{f"train/{name}": value for name, value in metrics.items()}}
    recent = validated.add_weights(progress.recent)
    with validated.averaged(recent):
        row |= validated.validate()
        if not all(map(math.isfinite, (*row.values(), *(np.sum(weight) for weight in model.get_weights())))):
            where = f"after epoch {progress.epochs + 1}, at learning rate {rate:.3g}"
            raise Diverged(f"{DIVERGED}: {where}. {ADVICE}")
        row["learning_rate"] = rate
        row["seconds"] = time.perf_counter() - start
        progress.epochs += 1
        progress.steps, progress.seconds, progress.recent = 0, 0.0, recent
        progress.history.append(row)
        is_best = progress.best_epoch is None or is_better(row, progress.history[progress.best_epoch - 1], config)
        if is_best:
            progress.best_epoch, progress.best = progress.epochs, Snapshot.of(model)
    return is_best


def steps_per_epoch(images: int, config: TrainConfig) -> int:
    """Return the number of steps in an epoch: one pass over the images, or `debug.max_steps` if that is less."""
    steps = math.ceil(images / config.training.batch_size)
    return min(steps, config.debug.max_steps or steps)


def steps_per_call(config: TrainConfig) -> int:
    """Return the number of steps of a compiled call."""
    return 1 if config.debug.check_finite else STEPS_PER_CALL


class ValidatedModel:
    """A model as it is validated and saved after an epoch: with averaged weights, if the config averages any."""

    def __init__(self, model: keras.Model, data: Dataset, config: TrainConfig) -> None:
        self._model, self._average_last = model, config.training.average_last
        self._estimate = compile_statistics(model, data.train, config)
        self._validate = compile_validation(model, data.val, config) if data.val else None

    def add_weights(self, recent: Sequence[Arrays]) -> list[Arrays]:
        """Return the weights to average: those after earlier epochs, and the current ones.

        The list is empty without `training.average_last`.
        """
        if self._average_last is None:
            return []
        return [*recent, as_arrays(self._model.trainable_variables)][-self._average_last :]

    def averaged(self, recent: Sequence[Arrays]) -> AbstractContextManager[None]:
        """Return a context manager that applies the average, as `mean_weights` does."""
        return mean_weights(self._model, self._estimate, recent)

    def validate(self) -> dict[str, float]:
        """Return the metrics `val/…` of the current weights; none without a validation set."""
        metrics = self._validate() if self._validate is not None else {}
        return {f"val/{name}": value for name, value in metrics.items()}


@contextmanager
def mean_weights(model: keras.Model, estimate: Callable[[], None], recent: Sequence[Arrays]) -> Iterator[None]:
    """Replace the weights by their average until the end of the block.

    The average is the mean of `recent` or, with `training.ema`, the moving average; otherwise, the weights stay as
    they are. `estimate` sets the statistics of batch normalization to those of the averaged weights. All variables
    of the model, including the state of its random layers, are restored at the end, so training is not affected.
    """
    if not model.optimizer.use_ema and not recent:
        yield
        return
    kept = as_arrays(model.variables)
    try:
        if recent:
            means = [np.mean(values, axis=0) for values in zip(*recent, strict=True)]
            assign(model.trainable_variables, means)
        else:
            model.optimizer.finalize_variable_values(model.trainable_variables)
        estimate()
        yield
    finally:
        assign(model.variables, kept)


def epoch_rows(
    images: int, batch_size: int, seed: int, epoch: int, steps: int, steps_per_call: int, first: int = 0
) -> Iterator[npt.NDArray[np.int32]]:
    """Yield the image indices of an epoch, in an order that is a function of seed and epoch.

    The first array begins with step `first`, counted from 0.

    Yields:
        Arrays (steps, batch), one per compiled call. A smaller last batch has an array of its own.
    """
    order = np.random.default_rng([seed, epoch]).permutation(images).astype(np.int32)
    whole = min(images // batch_size, steps)
    full = order[: whole * batch_size].reshape(whole, batch_size)
    for start in range(first, whole, steps_per_call):
        yield full[start : start + steps_per_call]
    if max(whole, first) < steps:
        yield order[whole * batch_size :].reshape(1, -1)


def locate_divergence(
    model: keras.Model,
    train: Part,
    config: TrainConfig,
    rates: npt.NDArray[np.float32],
    epoch: int,
    call: tuple[int, npt.NDArray[np.int32]],
    before: Snapshot | None,
) -> Diverged:
    """Return the error for a non-finite loss. It names the step and, with `debug.check_finite`, the layer.

    Args:
        model: The model after the step.
        train: The training set.
        config: The config of the run.
        rates: The learning rate of every step.
        epoch: The epoch number, starting from 0.
        call: The first step of the compiled call, and its image indices.
        before: The state before the call, to which the model is reset; None without `debug.check_finite`.
    """
    first, rows = call
    where = f"in epoch {epoch + 1}, step {first + 1}" + (f" to {first + len(rows)}" if len(rows) > 1 else "")
    message = f"{DIVERGED}: {where}, at learning rate {rates[first]:.3g}. "
    if before is None:
        return Diverged(message + ADVICE)
    before.restore(model)
    batch = tf.cast(tf.gather(tf.constant(train.images), rows[0]), tf.float32)
    no_targets = tf.zeros([len(batch), 1])
    batch, _ = make_batch_augment(config, len(rates))(batch, no_targets, tf.constant(first, tf.int64))
    return Diverged(message + first_not_finite(model, batch))
