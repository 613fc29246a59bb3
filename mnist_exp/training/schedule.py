"""Compute the learning rate of every step in advance.

The result is a table rather than a Keras schedule object: the training loop assigns the rate at each step, so any
schedule is possible, and the saved model's optimizer remains a plain Keras one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mnist_exp import registrations
from mnist_exp.config.schema import ScheduleConfig
from mnist_exp.model.keras_errors import ArgumentError, first_sentence


def learning_rates(
    config: ScheduleConfig, base: float, steps_per_epoch: int, epochs: int
) -> npt.NDArray[np.float32]:
    """Return the learning rate of each step, shape (epochs × steps_per_epoch,).

    During warm-up, the rate rises from `initial_fraction` of `base` to `base` at the last warm-up step; without
    warm-up, the first step has `base`. The rise is linear; for `one_cycle` (Smith, 2018) it follows half a cosine,
    as does the descent. Decaying schedules would reach `final_fraction` of `base` one step after the last, so the
    last step changes the weights even if `final_fraction` is 0. `reduce_on_plateau` is constant here, because its
    reductions are not known in advance. The schedules of plug-ins ignore `final_fraction`.

    Without warm-up, the rates are those of Keras' `CosineDecay`, `PolynomialDecay` and `ExponentialDecay` with
    `decay_steps` equal to the number of steps. Keras' warm-up begins and ends one step later: its first step has
    the initial rate itself, and changes nothing if that is 0.
    """
    total = steps_per_epoch * epochs
    warmup = min(round(config.warmup_epochs * steps_per_epoch + config.warmup_fraction * total), total)
    rise = np.arange(1, warmup + 1) / max(warmup, 1)
    if config.type == "one_cycle":
        rise = (1 - np.cos(np.pi * rise)) / 2
    peak = max(warmup - 1, 0)  # the step with the base rate
    progress = np.arange(warmup - peak, total - peak) / max(total - peak, 1)
    final = config.final_fraction
    if config.type == "linear":
        fall = 1 - (1 - final) * progress
    elif config.type in ("cosine", "one_cycle"):
        fall = final + (1 - final) * (1 + np.cos(np.pi * progress)) / 2
    elif config.type == "exponential":
        fall = final**progress
    elif (own := registrations.find("schedule", config.type)) is not None:
        fall = own.target(progress, **config.arguments)
    else:
        fall = np.ones(total - warmup)
    first = config.initial_fraction
    return (base * np.concatenate([first + (1 - first) * rise, fall])).astype(np.float32)


def try_schedule(config: ScheduleConfig) -> None:
    """Check that a plug-in's schedule returns a learning rate for each step. Raises `ArgumentError`."""
    if registrations.find("schedule", config.type) is None:
        return
    steps = 5
    without_warmup = config.model_copy(update={"warmup_epochs": 0, "warmup_fraction": 0.0})
    try:
        rates = learning_rates(without_warmup, 1.0, steps, 1)
    except Exception as error:  # of any type
        raise ArgumentError(f"{config.type} fails: {first_sentence(error)}", "type") from error
    if rates.shape != (steps,) or not np.isfinite(rates).all() or (rates < 0).any():
        found = f"shape {rates.shape}" if rates.shape != (steps,) else ", ".join(f"{rate:g}" for rate in rates)
        raise ArgumentError(
            f"{config.type} must return a number of at least 0 for each step, found {found}", "type"
        )
