"""The learning rate range test (Smith, 2017): train at rising rates, and find where the loss falls most steeply.

The loss of a step is that of its batch before the step, with augmentation and class weights. It is noisy, so the
curve is smoothed with a Gaussian. This has no delay: an exponential average would propose too high a rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from typing import Literal

import keras
import numpy as np
import numpy.typing as npt

from mnist_exp.config.schema import TrainConfig
from mnist_exp.data.class_weights import class_weights
from mnist_exp.data.dataset import Dataset
from mnist_exp.training.loop import epoch_rows, steps_per_epoch, training_layers
from mnist_exp.training.step import compile_steps, read_metrics

Values = npt.NDArray[np.float64]
Ending = Literal["completed", "diverged", "not_finite"]
"""Why a test ended: after its last step, or because the loss diverged or was no longer finite."""

DIVERGENCE = 4
"""A test ends when the smoothed loss exceeds this many times its lowest value."""
_SMOOTHING = 0.04  # standard deviation of the Gaussian, as a fraction of the planned steps
_NOISE = 3  # smallest fall that counts, in standard deviations; noise alone exceeds it in 1 % of tests
_ROUNDING = 1e-6  # and as a fraction of the loss
_STILL_FALLING = 0.1  # fraction of the whole fall


@dataclass(frozen=True)
class RateCurve:
    """The losses of a range test."""

    planned: Values
    """The learning rate of each planned step."""
    losses: Values
    """The finite losses, one for each step until the test ended."""
    ending: Ending

    @property
    def rates(self) -> Values:
        """The learning rate of each loss."""
        return self.planned[: len(self.losses)]

    @cached_property
    def smoothed(self) -> Values:
        """The smoothed losses. The losses after the lowest are capped, so that a huge one does not hide it."""
        highest = self.losses[: self.losses.argmin() + 1].max()
        return smooth(np.minimum(self.losses, highest), _SMOOTHING * len(self.planned))


@dataclass(frozen=True)
class Proposal:
    """The learning rate that a range test proposes, or the reason why it proposes none."""

    rate: float | None
    """The learning rate at which the smoothed loss falls most steeply, with two digits; None if there is none."""
    tenth_of_lowest: float | None = None
    """A tenth of the learning rate at the lowest smoothed loss, for comparison; None if there is no proposal."""
    reason: str = ""
    """Why there is no proposal, and which settings to change."""


def rising_rates(low: float, high: float, steps: int) -> Values:
    """Return learning rates from `low` to `high` that grow by the same factor at each step."""
    return np.geomspace(low, high, steps)


def record_curve(
    model: keras.Model,
    data: Dataset,
    config: TrainConfig,
    rates: Values,
    on_step: Callable[[], None] = lambda: None,
    teacher: keras.Model | None = None,
) -> RateCurve:
    """Train with one learning rate per step, until the loss diverges. `on_step` is called after each step."""
    losses: list[float] = []
    width, lowest = _SMOOTHING * len(rates), math.inf
    ending: Ending = "completed"
    with closing(_train(model, data, config, rates, teacher)) as steps:
        for loss in steps:
            on_step()
            if not math.isfinite(loss):
                ending = "not_finite"
                break
            losses.append(loss)
            last = smooth(np.array(losses[-math.ceil(5 * width) :]), width)[-1]
            lowest = min(lowest, last)
            if last > DIVERGENCE * lowest > 0:  # some losses are negative
                ending = "diverged"
                break
    return RateCurve(rates, np.array(losses), ending)


def _train(
    model: keras.Model, data: Dataset, config: TrainConfig, rates: Values, teacher: keras.Model | None
) -> Generator[float, None, None]:
    """Take the first steps of a training with this config, but at these rates. Yields the loss of each step."""
    images, batch_size = len(data.train), config.training.batch_size
    augmented = config.model_copy(update={"aug": config.aug.model_copy(update={"until": None})})
    weights = class_weights(config.training.class_weight, data.train.labels, data.class_names)
    run_steps = compile_steps(model, data.train, augmented, rates.astype(np.float32), weights, teacher)
    steps = steps_per_epoch(images, config)
    batches = (rows for epoch in count() for rows in epoch_rows(images, batch_size, config.seed, epoch, steps, 1))
    with training_layers(model, config, teacher):
        for step, rows in enumerate(islice(batches, len(rates))):
            model.reset_metrics()
            run_steps(rows, step, 1.0)
            yield read_metrics(model)["loss"]


def smooth(values: Values, width: float) -> Values:
    """Return the averages of values, weighted by a Gaussian with a standard deviation of `width` steps."""
    positions = np.arange(len(values)) / width
    weights = np.exp(-((positions[:, None] - positions) ** 2) / 2)
    smoothed: Values = weights @ values / weights.sum(axis=1)
    return smoothed


def propose_rate(curve: RateCurve) -> Proposal:
    """Propose the learning rate at which the smoothed loss falls most steeply before it reaches its minimum."""
    smoothed = curve.smoothed
    lowest = int(smoothed.argmin())
    fall = smoothed[0] - smoothed[lowest]
    if fall <= _NOISE * estimate_noise(curve.losses[: lowest + 1]) + _ROUNDING * abs(smoothed[0]):
        return Proposal(None, reason=_explain_no_fall(curve, lowest))
    steepest = int(np.gradient(smoothed, np.log(curve.rates))[: lowest + 1].argmin())
    margin = _count_steps_at_ends(curve)
    if steepest < margin:
        return Proposal(None, reason="the loss falls most steeply at the lowest rates: lower find.low")
    before = len(smoothed) - 1 - margin
    if lowest > before and smoothed[before] - smoothed[-1] > _STILL_FALLING * fall:
        if curve.ending == "completed":
            beyond = "the loss still falls at the highest rate, so it may fall more steeply beyond"
            return Proposal(None, reason=f"{beyond}: raise find.high")
        return Proposal(None, reason="the loss falls until it is no longer a number: raise find.steps")
    return Proposal(round_rate(curve.rates[steepest]), round_rate(curve.rates[lowest] / 10))


def _count_steps_at_ends(curve: RateCurve) -> int:
    """Return the number of steps at each end of the curve at which smoothing distorts the slope."""
    return round(2.5 * _SMOOTHING * len(curve.planned))


def _explain_no_fall(curve: RateCurve, lowest: int) -> str:
    """Return why the loss did not fall, and what to change."""
    if curve.ending != "completed" and len(curve.losses) > _count_steps_at_ends(curve):
        noise = "the loss did not fall by more than its noise before it diverged"
        return f"{noise}: raise find.steps or training.batch_size"
    if curve.ending != "completed":
        return "the loss did not fall before it diverged: lower find.low, or raise find.steps"
    start, least = curve.smoothed[0], curve.smoothed[lowest]
    return (
        f"the loss did not fall by more than its noise (from {start:.4g} to {least:.4g}): raise find.steps or "
        "find.high; debug=overfit shows whether the model can learn"
    )


def estimate_noise(losses: Values) -> float:
    """Return the standard deviation of normal noise with this median difference between consecutive values."""
    differences = np.abs(np.diff(losses))
    return float(np.median(differences)) * 1.048 if len(differences) else 0.0


def round_rate(rate: float) -> float:
    """Round a learning rate to two significant digits."""
    return float(f"{rate:.2g}")
