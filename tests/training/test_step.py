"""Computing a batch in halves gives the results of the whole batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.data.dataset import Dataset, Part
from mnist_exp.data.formats import find, prepare
from mnist_exp.model.build import build
from mnist_exp.model.preprocessing import statistics
from mnist_exp.training import step
from mnist_exp.training.mixing import make_mix

COMMON = ("data=digits", "data.limit=300", "model=linear", "optimizer=sgd", "training.metrics=[mean_squared_error]",
          "training.loss=categorical_crossentropy", "training.label_smoothing=0.1")  # fmt: skip
CONV = "{type: Conv2D, filters: 4, kernel_size: 3, strides: 2, activation: relu, kernel_regularizer: l2}"
LAYERS = f"[{CONV}, MaxPooling2D, Flatten, {{type: Dense, units: 12, activation: tanh}}, {{type: Dense, units: 10}}, Softmax]"


def setting(*overrides: str) -> tuple[TrainConfig, Dataset, Any]:
    config, _ = compose_checked(Request("train", (*COMMON, *overrides)), TrainConfig)
    data = prepare(find(config.data, print), config.data)
    return config, data, build(config, statistics(data.train.images, config.preprocess), "float32")


@pytest.mark.slow
@pytest.mark.parametrize("images", [64, 37, 2, 1])
@pytest.mark.parametrize(
    ("layers", "mixtures"),
    [
        (f"model.layers={LAYERS}", ()),
        ("model=pyramid", ()),
        (f"model.layers={LAYERS}", ("aug.mixup=1", "aug.cutmix=1")),
    ],
)
def test_halves_are_the_whole(
    monkeypatch: pytest.MonkeyPatch, layers: str, mixtures: tuple[str, ...], images: int
):
    """Batches are mixed before they are halved. Weights, loss and metrics are equal with weight penalties, uneven halves, and a single image."""
    ends = []
    for halves in (False, True):
        monkeypatch.setattr(step, "halves_batches", lambda halves=halves: halves)
        config, data, model = setting(layers, "aug=rotate45", *mixtures)
        run = step.compile_steps(model, data.train, config, np.full(1, 0.1, np.float32))
        run(np.arange(images, dtype=np.int32)[None, :], 0, 1.0)
        ends.append(([*model.get_weights()], step.read_metrics(model)))
        ends[-1][1].update(scored(model, data.val.take(np.arange(min(images, len(data.val)))), config))
    for one, other in zip(ends[0][0], ends[1][0], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-5)
    equal = all(np.array_equal(one, other) for one, other in zip(ends[0][0], ends[1][0], strict=True))
    assert equal == (images == 1)  # they were computed in halves


def scored(model: Any, part: Part, config: TrainConfig) -> dict[str, float]:
    return {f"val/{name}": value for name, value in step.compile_validation(model, part, config)().items()}


@pytest.mark.parametrize("more", [1, 2])
def test_a_last_batch_of_the_validation_may_be_of_any_size(monkeypatch: pytest.MonkeyPatch, more: int):
    """This includes a single image, which cannot be halved."""
    monkeypatch.setattr(step, "VALIDATION_BATCH", 8)
    config, data, model = setting("model=vgg_bn")
    part = data.val.take(np.arange(8 + more))
    expected = model.evaluate(part.images, np.eye(10)[part.labels], verbose=0, return_dict=True)
    assert scored(model, part, config) == pytest.approx({f"val/{k}": v for k, v in expected.items()}, rel=1e-4)


def test_penalties_on_outputs_count_all_images():
    """The validation loss equals Keras' `evaluate`; in bfloat16, such a layer computes in float32."""
    layers = "[Flatten, {type: Dense, units: 12, activity_regularizer: l2}, {type: Dense, units: 10}, Softmax]"
    config, data, _ = setting(f"model.layers={layers}")
    model = build(config, statistics(data.train.images, config.preprocess), "bfloat16")
    expected = model.evaluate(data.val.images, np.eye(10)[data.val.labels], batch_size=500, verbose=0)
    assert scored(model, data.val, config)["val/loss"] == pytest.approx(expected[0], rel=1e-3)
    step.compile_steps(model, data.train, config, np.full(1, 0.1, np.float32))(
        np.arange(9, dtype=np.int32)[None], 0, 1.0
    )


@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", "categorical_crossentropy"])
def test_class_weights_are_keras_sample_weights(loss: str):
    """A step is that of `train_on_batch` with the weight of each image's class."""
    words = ("training.label_smoothing=0", "training.metrics=[]", f"training.loss={loss}")
    config, data, model = setting(*words)
    weights = np.linspace(0.2, 2, 10, dtype=np.float32)
    plain = build(config, statistics(data.train.images, config.preprocess), "float32")
    plain.set_weights(model.get_weights())
    rows = np.arange(32, dtype=np.int32)
    step.compile_steps(model, data.train, config, np.full(1, 0.1, np.float32), weights)(rows[None], 0, 1.0)
    labels = data.train.labels[rows]
    targets = np.eye(10)[labels] if config.training.one_hot else labels
    plain.optimizer.learning_rate = 0.1
    plain.train_on_batch(data.train.images[rows].astype(np.float32), targets, sample_weight=weights[labels])
    for ours, theirs in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_class_weights_of_mixtures_are_mixed():
    """A step is that of `train_on_batch` with mixed images and targets, and the mean weight of their classes."""
    config, data, model = setting("training.metrics=[]", "aug.mixup=0.5", "aug.cutmix=1")
    weights = np.linspace(0.2, 2, 10, dtype=np.float32)
    plain = build(config, statistics(data.train.images, config.preprocess), "float32")
    plain.set_weights(model.get_weights())
    rows = np.arange(32, dtype=np.int32)
    step.compile_steps(model, data.train, config, np.full(1, 0.1, np.float32), weights)(rows[None], 0, 1.0)
    mix = make_mix(config.aug, config.seed)
    assert mix is not None
    one_hot = np.eye(10, dtype=np.float32)[data.train.labels[rows]]
    images, targets = map(np.array, mix(data.train.images[rows].astype(np.float32), one_hot, np.int64(0)))
    plain.optimizer.learning_rate = 0.1
    plain.train_on_batch(images, targets, sample_weight=(targets * weights).sum(axis=1))
    for ours, theirs in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model=lenet5x5", True),
        ("preprocess=zca", True),
        ("model=vgg_bn", False),
        ("model.layers.0={type: Dropout, rate: 0.1, noise_shape: [1, 28, 28, 1]}", False),
        ("model.layers.0={type: Dropout, rate: 0.1, noise_shape: [null, 28, 28, 1]}", True),
        ("model.layers=[Flatten, {type: Dense, units: 10, activity_regularizer: l2}, Softmax]", False),
        ("training.loss=dice", True),  # of probabilities, whose sums are fixed, it is a mean
        ("training.loss=categorical_focal_crossentropy", True),
        ("training.loss=kl_divergence", True),
    ],
)
def test_what_can_be_halved(override: str, expected: bool):
    """Models whose layers depend on the whole batch cannot be halved."""
    words = ["training.label_smoothing=0"] if "loss" in override else []
    config, _, model = setting(override, *words)
    assert step.learns_in_halves(model, config) == expected


def test_a_loss_that_is_no_mean_is_computed_whole():
    """At present, all of Keras' losses for probabilities are means."""
    config, _, model = setting("model=linear")
    mean = model.loss
    model.loss = lambda targets, predicted: mean(targets, predicted) ** 2
    assert not step.learns_in_halves(model, config)


def test_a_layer_with_statistics_of_the_batch_that_is_frozen_can_be_halved():
    """A frozen layer does not depend on the batch."""
    config, _, model = setting("model.layers=[{type: BatchNormalization, trainable: false}, Flatten, "
                               "{type: Dense, units: 10}, Softmax]")  # fmt: skip
    assert step.learns_in_halves(model, config)
