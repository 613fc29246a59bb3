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

    Warm-up rises linearly and reaches `base` with its last step; then cosine decay ends at
    `final_fraction` of it with the last step of all.
    """
    total = steps_per_epoch * epochs
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total)
    factor = np.ones(total)
    factor[:warmup] = np.arange(1, warmup + 1) / max(warmup, 1)
    if config.type == "cosine" and total > warmup:
        progress = np.arange(1, total - warmup + 1) / (total - warmup)
        factor[warmup:] = config.final_fraction + (1 - config.final_fraction) * (1 + np.cos(np.pi * progress)) / 2
    return (base * factor).astype(np.float32)
