"""The training loop: its computations, resuming at any step, and failures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.data.dataset import Dataset
from mnist_exp.data.formats import find, prepare
from mnist_exp.errors import WorkError
from mnist_exp.model.build import build
from mnist_exp.model.preprocessing import statistics
from mnist_exp.training import loop, step
from mnist_exp.training.callback import Callback
from mnist_exp.training.fast_layers import use_fused_layers
from mnist_exp.training.loop import Progress, Snapshot, epoch_rows, fit

# Everything whose state a resume must restore: dropout, momentum, batch statistics, augmentation, a schedule.
EVERYTHING = (
    "data=digits", "data.limit=700", "aug=rotate45", "model=linear", "schedule=cosine", "training.epochs=4",
    "training.batch_size=64", "optimizer.learning_rate=0.01",
    "model.layers=[{type: Dropout, rate: 0.3}, Flatten, {type: Dense, units: 24, activation: relu},"
    " BatchNormalization, {type: Dropout, rate: 0.2}, {type: Dense, units: 10}, Softmax]",
)  # fmt: skip


def setting(*overrides: str) -> tuple[TrainConfig, Dataset]:
    config, _ = compose_checked(Request("train", overrides), TrainConfig)
    return config, prepare(find(config.data, print), config.data)


def fresh(config: TrainConfig, data: Dataset) -> Any:
    return build(config, statistics(data.train.images, config.preprocess), "float32")


def state(model: Any) -> list[np.ndarray]:
    snapshot = Snapshot.of(model)
    return [*snapshot.model, *snapshot.optimizer]


def equal(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def without_seconds(progress: Progress) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in progress.history]


# The same for a net whose batches are computed in halves: batch statistics would forbid it.
HALVED = (
    *EVERYTHING[:-1],
    "model.layers=[{type: Dropout, rate: 0.3}, {type: Conv2D, filters: 4, kernel_size: 5, strides: 3, activation: relu},"
    " MaxPooling2D, Flatten, {type: Dropout, rate: 0.2}, {type: Dense, units: 10}, Softmax]",
)

# The same with mixed images, until augmentation stops within an epoch.
MIXED = (
    *HALVED, "training.loss=categorical_crossentropy", "training.class_weight=balanced", "aug.mixup=0.2",
    "aug.cutmix=1", "aug.until=0.6",
)  # fmt: skip


@pytest.fixture(scope="module", params=[EVERYTHING, HALVED, MIXED], ids=["whole batches", "halves", "mixtures"])
def described(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Return the overrides of a training run."""
    return request.param


@pytest.fixture(scope="module")
def straight(described: tuple[str, ...]) -> tuple[list[np.ndarray], Progress]:
    """Return the outcome of four uninterrupted epochs."""
    config, data = setting(*described)
    model = fresh(config, data)
    progress = fit(model, data, config)
    return state(model), progress


def test_the_same_training_gives_the_same_bits(
    described: tuple[str, ...], straight: tuple[list[np.ndarray], Progress]
):
    """Weights, optimizer, seeds and history do not depend on what ran before in the process."""
    config, data = setting(*described)
    model = fresh(config, data)
    progress = fit(model, data, config)
    assert equal(state(model), straight[0])
    assert without_seconds(progress) == without_seconds(straight[1])


@pytest.mark.parametrize("steps_per_call", [1, 3, 1000])
def test_the_bits_do_not_depend_on_how_steps_are_called(
    described: tuple[str, ...],
    straight: tuple[list[np.ndarray], Progress],
    monkeypatch: pytest.MonkeyPatch,
    steps_per_call: int,
):
    """A compiled call may run a single step or a whole epoch."""
    monkeypatch.setattr(loop, "STEPS_PER_CALL", steps_per_call)
    config, data = setting(*described)
    model = fresh(config, data)
    fit(model, data, config)
    assert equal(state(model), straight[0])


@pytest.mark.parametrize("override", ["seed=1", "data.split_seed=1", "aug=shift", "optimizer.learning_rate=0.02"])
def test_relevant_settings_change_the_weights(
    described: tuple[str, ...], straight: tuple[list[np.ndarray], Progress], override: str
):
    """This is a control for the tests of equality."""
    config, data = setting(*described, override)
    model = fresh(config, data)
    fit(model, data, config)
    assert not equal(state(model), straight[0])


@pytest.mark.parametrize(("optimizer", "halved"), [("sgd", False), ("sgd", True), ("adam", True)])
def test_it_learns_as_keras_fit_does(monkeypatch: pytest.MonkeyPatch, optimizer: str, halved: bool):
    """Without augmentation, the weights are those of `fit` on the same batches.

    The weights are identical if batches are not split, else equal except for rounding, which Adam amplifies.
    """
    config, data = setting(
        "data=digits", "data.limit=640", "model=linear", "training.epochs=1", "training.batch_size=64",
        f"optimizer={optimizer}",
    )  # fmt: skip
    ours, keras_own = fresh(config, data), fresh(config, data)
    monkeypatch.setattr(step, "halves_batches", lambda: halved)
    fit(ours, data, config)
    order = np.concatenate([rows.ravel() for rows in epoch_rows(len(data.train), 64, config.seed, 0, 9, 20)])
    before = keras_own.get_weights()
    keras_own.fit(
        data.train.images[order].astype("float32"),
        data.train.labels[order],
        batch_size=64,
        shuffle=False,
        verbose=0,
    )
    assert equal(ours.get_weights(), keras_own.get_weights()) is not halved
    for found, expected, initial in zip(ours.get_weights(), keras_own.get_weights(), before, strict=True):
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected - initial).max()


@pytest.mark.parametrize(("images", "batch", "sizes"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 4, [3])])
def test_an_epoch_sees_every_image_once(images: int, batch: int, sizes: list[int]):
    """The last batch has the remaining images; the order differs between epochs."""
    orders = []
    for epoch in (0, 1):
        rows = [row for array in epoch_rows(images, batch, 0, epoch, len(sizes), 2) for row in array]
        assert [len(row) for row in rows] == sizes
        orders.append(np.concatenate(rows).tolist())
        assert sorted(orders[-1]) == list(range(images))
    assert images < 4 or orders[0] != orders[1]


def test_early_stopping_ends_a_training():
    """It ends after the epoch that exhausts the patience; the best epoch is kept."""
    config, data = setting(
        "data=digits", "data.limit=300", "model=linear", "training.epochs=9",
        "training.early_stopping.patience=2", "training.early_stopping.min_delta=1",
    )  # fmt: skip
    progress = fit(fresh(config, data), data, config)
    assert progress.epochs == 3
    assert len(progress.history) == 3
    accuracies = [row["val/accuracy"] for row in progress.history]
    assert progress.best_epoch == 1 + accuracies.index(max(accuracies))


def test_a_plateau_is_trained_with_its_lower_rate():
    """The history has each epoch's rate, and the weights result from these rates."""
    flat = ("schedule=reduce_on_plateau", "schedule.plateau={factor: 0.1, patience: 1, min_delta: 1}")
    common = ("data=digits", "data.limit=300", "model=linear", "training.epochs=3", "optimizer=sgd")
    config, data = setting(*common, *flat)
    model = fresh(config, data)
    progress = fit(model, data, config)
    assert [row["learning_rate"] for row in progress.history] == pytest.approx([0.05, 0.05, 0.005])
    assert float(model.optimizer.learning_rate) == pytest.approx(0.005)
    config, data = setting(*common)
    steps = loop.steps_per_epoch(len(data.train), config)
    by_hand = fresh(config, data)
    rates = np.repeat(np.array([0.05, 0.05, np.float32(0.05) * np.float32(0.1)], np.float32), steps)
    run_steps = loop.compile_steps(by_hand, data.train, config, rates)
    for epoch in range(3):
        done = epoch * steps
        for rows in epoch_rows(len(data.train), config.training.batch_size, config.seed, epoch, steps, 20):
            run_steps(rows, done, 1.0)
            done += len(rows)
    assert equal(model.get_weights(), by_hand.get_weights())


def test_the_average_of_the_weights_is_kept():
    """With training.ema, `best` has the average of the weights after each step; the model keeps its own."""
    common = ("data=digits", "data.limit=256", "data.val_fraction=0.5", "model=linear", "training.epochs=1",
              "training.batch_size=32", "optimizer.learning_rate=0.05")  # fmt: skip
    config, data = setting(*common, "training.ema=0.6")
    model = fresh(config, data)
    progress = fit(model, data, config)
    assert progress.best is not None

    config, data = setting(*common)
    plain = fresh(config, data)
    run_steps = loop.compile_steps(plain, data.train, config, np.full(4, 0.05, np.float32))
    mean: list[np.ndarray] = []
    with use_fused_layers(plain):
        for number, rows in enumerate(epoch_rows(len(data.train), 32, config.seed, 0, 4, 1)):
            run_steps(rows, number, 1.0)
            weights = plain.get_weights()
            mean = [0.6 * m + 0.4 * w for m, w in zip(mean, weights, strict=True)] if mean else weights
    assert equal(model.get_weights(), plain.get_weights())
    for found, expected in zip(progress.best.model, mean, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    # And the figures are those of the mean.
    progress.best.restore(model)
    assert loop.compile_validation(model, data.val, config)() == pytest.approx(
        {"loss": progress.history[0]["val/loss"], "accuracy": progress.history[0]["val/accuracy"]}, rel=1e-6
    )


def test_the_mean_of_the_last_epochs_is_validated_and_kept():
    """With training.average_last, it covers fewer epochs at first; the model keeps its own weights."""
    words = ("data=digits", "data.limit=256", "model=linear", "training.epochs=4", "training.batch_size=32",
             "optimizer.learning_rate=0.05", "training.select={metric: val/loss, mode: min}")  # fmt: skip
    config, data = setting(*words)
    plain = fresh(config, data)
    epochs: list[list[np.ndarray]] = []

    class KeepWeights(Callback):
        def on_epoch(self, row: Mapping[str, float], is_best: bool) -> None:
            epochs.append(plain.get_weights())

    fit(plain, data, config, [KeepWeights()])
    config, data = setting(*words, "training.average_last=3")
    model = fresh(config, data)
    progress = fit(model, data, config)
    assert equal(model.get_weights(), plain.get_weights())
    means = [
        [np.mean(values, axis=0) for values in zip(*epochs[max(last - 3, 0) : last], strict=True)]
        for last in (1, 2, 3, 4)
    ]
    validate = loop.compile_validation(model, data.val, config)
    for mean, row in zip(means, progress.history, strict=True):
        model.set_weights(mean)
        assert validate()["loss"] == pytest.approx(row["val/loss"], rel=1e-6)
    assert progress.best is not None
    assert progress.best_epoch is not None
    assert equal(progress.best.model, means[progress.best_epoch - 1])


AVERAGES = ("training.ema=0.9", "training.average_last=2")


@pytest.mark.parametrize("average", AVERAGES)
def test_averaged_weights_have_their_own_batch_statistics(average: str):
    """Batch normalization is saved with the statistics of the average, estimated from the first training batches."""
    layers = "[Flatten, {type: Dense, units: 8}, BatchNormalization, {type: Dense, units: 10}, Softmax]"
    config, data = setting(
        "data=digits", "data.limit=300", "model=linear", f"model.layers={layers}", "training.epochs=2",
        "training.batch_size=32", average, "optimizer.learning_rate=0.1",
    )  # fmt: skip
    model = fresh(config, data)
    progress = fit(model, data, config)
    assert progress.best is not None
    progress.best.restore(model)
    order = np.random.default_rng([config.seed, 0]).permutation(len(data.train))
    batches = data.train.images[order[: len(order) // 32 * 32]].reshape(-1, 32, 28 * 28) / 255
    kernel, bias = model.get_layer("dense").get_weights()
    outputs = batches @ kernel + bias
    _, _, mean, variance = model.get_layer("batch_normalization").get_weights()
    np.testing.assert_allclose(mean, outputs.mean(axis=(0, 1)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(variance, outputs.var(axis=1).mean(axis=0), rtol=1e-4)
    row = progress.history[(progress.best_epoch or 0) - 1]
    assert loop.compile_validation(model, data.val, config)()["loss"] == pytest.approx(row["val/loss"], rel=1e-6)


@pytest.mark.parametrize("average", AVERAGES)
def test_averaging_leaves_the_training_as_it_is(average: str):
    """The weights, the batch statistics and the state of dropout are those of a training without an average."""
    plain, averaged = (fresh(*setting(*EVERYTHING)), fresh(*setting(*EVERYTHING, average)))
    config, data = setting(*EVERYTHING)
    fit(plain, data, config)
    fit(averaged, data, setting(*EVERYTHING, average)[0])
    assert equal(Snapshot.of(plain).model, Snapshot.of(averaged).model)


def test_the_last_epoch_is_kept_without_validation_data():
    """There is nothing to select an epoch by."""
    config, data = setting(
        "data=digits", "data.limit=200", "data.val_fraction=0", "model=linear", "training.epochs=3"
    )
    progress = fit(fresh(config, data), data, config)
    assert progress.best_epoch == 3
    assert not any(name.startswith("val/") for name in progress.history[0])


def test_a_loss_that_is_nan_ends_training():
    """The message has the step and advice and, on request, the layer."""
    wild = ("data=digits", "data.limit=600", "model=lenet5x5", "optimizer.learning_rate=1e30")
    config, data = setting(*wild)
    with pytest.raises(WorkError, match=r"no longer a number: in epoch 1, step 1 to 4, at learning rate 1e\+30"):
        fit(fresh(config, data), data, config)
    config, data = setting(*wild, "debug=nan_check")
    with pytest.raises(WorkError, match=r"in epoch 1, step 2, .*(layer|weights) 'conv2d") as caught:
        fit(fresh(config, data), data, config)
    assert "debug=nan_check" not in str(caught.value)


def test_max_steps_ends_each_epoch():
    """The learning-rate table and the progress display use it as well."""
    config, data = setting("data=digits", "data.limit=600", "model=linear", "debug=one_batch")
    seen = []

    class Seen(Callback):
        def on_steps(self, epoch: int, done: int, steps: int, metrics: Mapping[str, float]) -> None:
            seen.append((epoch, done, steps))

    fit(fresh(config, data), data, config, [Seen()])
    assert seen == [(1, 1, 1)]


def test_weights_that_are_nan_after_the_last_step_end_the_training():
    """A NaN in the weights is found at the end of its epoch, even if no loss was computed with them."""
    config, data = setting(
        "data=digits", "data.limit=200", "data.val_fraction=0", "model=linear", "debug=one_batch"
    )
    model = fresh(config, data)

    class Spoil(Callback):
        def on_steps(self, epoch: int, done: int, steps: int, metrics: dict[str, float]) -> None:
            kernel = model.trainable_variables[0]
            kernel.assign(np.full(kernel.shape, np.nan))

    progress = Progress()
    with pytest.raises(WorkError, match="epoch 1"):
        fit(model, data, config, [Spoil()], progress)
    assert progress.epochs == 0
    assert progress.best is None
