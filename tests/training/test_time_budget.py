"""The number of epochs that fit into a time budget."""

from __future__ import annotations

import pytest

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.data.dataset import Dataset
from mnist_exp.data.formats import find, prepare
from mnist_exp.model.build import build
from mnist_exp.model.preprocessing import statistics
from mnist_exp.training.loop import Snapshot, fit
from mnist_exp.training.step import build_state
from mnist_exp.training.time_budget import EpochTiming, time_epoch

# Everything with state that measuring could change.
NET = (
    "data=digits", "data.limit=200", "aug=rotate45", "aug.layers=[RandomFlip]", "training.ema=0.9", "training.epochs=2",
    "training.batch_size=64", "model=linear", "optimizer=sgd", "optimizer.momentum=0.9",
    "model.layers=[{type: Dropout, rate: 0.3}, Flatten, {type: Dense, units: 8}, BatchNormalization,"
    " {type: Dense, units: 10}, Softmax]",
)  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "epochs"), [(60, 11), (57, 11), (56.9, 10), (7, 1), (1, 1), (1e-9, 1), (1e12, 100_000)]
)
def test_whole_epochs_are_counted(seconds: float, epochs: int):
    """The compilation is part of the budget; at least one epoch is trained, and at most the config's maximum."""
    assert EpochTiming(compilation=2, epoch=5).count_epochs(seconds) == epochs


@pytest.mark.parametrize("more", [(), ("debug=nan_check",), ("data.val_fraction=0",)])
def test_measuring_does_not_change_the_training(more: tuple[str, ...]):
    """The model is as before, and then trains to the same weights as one that was not measured."""
    config, data = setting(*NET, *more)
    measured, other = (build(config, statistics(data.train.images, config.preprocess), "float32") for _ in "12")
    build_state(measured)
    before = Snapshot.of(measured)
    timing = time_epoch(measured, data, config)
    assert timing.compilation >= 0
    assert timing.epoch > 0
    assert as_bytes(Snapshot.of(measured)) == as_bytes(before)
    assert fit(measured, data, config).epochs == fit(other, data, config).epochs
    assert as_bytes(Snapshot.of(measured)) == as_bytes(Snapshot.of(other))


def setting(*overrides: str) -> tuple[TrainConfig, Dataset]:
    config, _ = compose_checked(Request("train", overrides), TrainConfig)
    return config, prepare(find(config.data, print), config.data)


def as_bytes(snapshot: Snapshot) -> list[bytes]:
    return [array.tobytes() for array in (*snapshot.model, *snapshot.optimizer)]
