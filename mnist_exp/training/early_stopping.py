"""Derive decisions from the history: the best epoch, a lower learning rate, early stopping.

Each decision depends only on the history, so a resumed run needs no saved counters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mnist_exp.config.schema import TrainConfig
from mnist_exp.training.schedule import learning_rates

Row = Mapping[str, float]


def is_better(row: Row, than: Row, config: TrainConfig, by: float = 0.0) -> bool:
    """Return whether an epoch is better than an earlier one by more than `by`.

    Without validation data, later epochs are always better.
    """
    select = config.training.select
    if not any(name.startswith("val/") for name in row):
        return True
    gain = row[select.metric] - than[select.metric]
    return (gain if select.mode == "max" else -gain) > by


def stops_early(history: Sequence[Row], config: TrainConfig) -> bool:
    """Return whether none of the last `early_stopping.patience` epochs improved on the best one before them."""
    early = config.training.early_stopping
    if early.patience is None:
        return False
    best = 0
    for index in range(1, len(history)):
        if is_better(history[index], history[best], config, early.min_delta):
            best = index
    return len(history) - 1 - best >= early.patience


def learning_rate_scale(history: Sequence[Row], config: TrainConfig) -> float:
    """Return the scale that `reduce_on_plateau` applies to the next epoch's learning rate; 1 for other schedules.

    After every `patience` epochs without improvement, the scale is multiplied by `factor`, but never falls below
    `final_fraction`.
    """
    plateau = config.schedule.plateau
    scale, best, waited = 1.0, 0, 0
    for index in range(1, len(history) if plateau else 0):
        assert plateau is not None
        if is_better(history[index], history[best], config, plateau.min_delta):
            best, waited = index, 0
        else:
            waited += 1
        if waited >= plateau.patience:
            scale, waited = max(scale * plateau.factor, config.schedule.final_fraction), 0
    return scale


def rates_with_history(
    history: Sequence[Row], config: TrainConfig, steps_per_epoch: int
) -> npt.NDArray[np.float32]:
    """Return the learning rate of every step, past and planned; shape (epochs × steps_per_epoch,)."""
    epochs = config.training.epochs
    table = learning_rates(config.schedule, config.optimizer.learning_rate, steps_per_epoch, epochs)
    scales = [learning_rate_scale(history[:epoch], config) for epoch in range(epochs)]
    return table * np.repeat(np.array(scales, np.float32), steps_per_epoch)
