"""What follows from the epochs so far: the best one, a lower learning rate, an early end."""

from __future__ import annotations

import numpy as np
import pytest

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.training.early_stopping import is_better, learning_rate_scale, rates_with_history, stops_early


def config(*overrides: str) -> TrainConfig:
    return compose_checked(Request("train", ("data=digits", *overrides)), TrainConfig)[0]


def history(*accuracies: float) -> list[dict[str, float]]:
    return [{"val/accuracy": value, "val/loss": 1 - value} for value in accuracies]


def test_the_earliest_of_equal_epochs_is_kept():
    """A better epoch is strictly better in the configured direction."""
    assert is_better({"val/accuracy": 0.9}, {"val/accuracy": 0.8}, config())
    assert not is_better({"val/accuracy": 0.9}, {"val/accuracy": 0.9}, config())
    lowest = config("training.select.metric=val/loss", "training.select.mode=min")
    assert is_better({"val/loss": 0.1}, {"val/loss": 0.2}, lowest)
    assert not is_better({"val/loss": 0.3}, {"val/loss": 0.2}, lowest)


@pytest.mark.parametrize(
    ("accuracies", "stops"),
    [
        ((0.5,), False),
        ((0.5, 0.4), False),
        ((0.5, 0.4, 0.5), True),  # as good is not better
        ((0.5, 0.4, 0.6, 0.5), False),
        ((0.5, 0.4, 0.6, 0.5, 0.5), True),
        ((0.5, 0.501, 0.502), True),  # by less than min_delta
        ((0.5, 0.505, 0.511), False),  # by more, in two steps
    ],
)
def test_a_training_stops_after_its_patience(accuracies: tuple[float, ...], stops: bool):
    """It stops after two epochs without an improvement by min_delta."""
    patient = config("training.early_stopping.patience=2", "training.early_stopping.min_delta=0.01")
    assert stops_early(history(*accuracies), patient) is stops
    assert not stops_early(history(*accuracies), config())


def test_a_plateau_lowers_the_learning_rate():
    """Each time patience runs out, it is multiplied by the factor, down to the final fraction."""
    plateau = config(
        "schedule=reduce_on_plateau", "schedule.plateau={factor: 0.1, patience: 2, min_delta: 0}",
        "schedule.final_fraction=0.005", "training.epochs=10",
    )  # fmt: skip
    flat = history(0.5, 0.4, 0.4, 0.4, 0.4, 0.6, 0.6, 0.6, 0.6, 0.6)
    scales = [learning_rate_scale(flat[:epochs], plateau) for epochs in range(len(flat) + 1)]
    assert scales == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.005, 0.005, 0.005])
    assert learning_rate_scale(flat, config()) == 1
    found = rates_with_history(flat[:4], plateau, steps_per_epoch=3)
    np.testing.assert_allclose(
        found, 0.001 * np.repeat([1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], 3), rtol=1e-6
    )
