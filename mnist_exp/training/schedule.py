"""The learning rate of every step, computed beforehand.

A table instead of one of Keras' schedule objects: the training loop assigns it step by step, so any schedule is
possible, and the saved model's optimizer stays a plain Keras one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mnist_exp.config.schema import ScheduleConfig


def learning_rates(
    config: ScheduleConfig, base: float, steps_per_epoch: int, epochs: int
) -> npt.NDArray[np.float32]:
    """One learning rate per step, shape (epochs × steps_per_epoch,).

    Warm-up rises from `initial_fraction` of `base`, linearly (`one_cycle`: along half a cosine, as the descent
    after it; Smith, 2018), and reaches `base` with its last step. What comes then ends at `final_fraction` with
    the last step of all. `reduce_on_plateau` starts as a constant; what it lowers is not known beforehand.
    """
    total = steps_per_epoch * epochs
    warmup = min(round(config.warmup_epochs * steps_per_epoch + config.warmup_fraction * total), total)
    rise = np.arange(1, warmup + 1) / max(warmup, 1)
    if config.type == "one_cycle":
        rise = (1 - np.cos(np.pi * rise)) / 2
    progress = np.arange(1, total - warmup + 1) / max(total - warmup, 1)
    final = config.final_fraction
    if config.type == "linear":
        fall = 1 - (1 - final) * progress
    elif config.type in ("cosine", "one_cycle"):
        fall = final + (1 - final) * (1 + np.cos(np.pi * progress)) / 2
    elif config.type == "exponential":
        fall = final**progress
    else:
        fall = np.ones(total - warmup)
    first = config.initial_fraction
    return (base * np.concatenate([first + (1 - first) * rise, fall])).astype(np.float32)
