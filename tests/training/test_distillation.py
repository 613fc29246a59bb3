"""Knowledge distillation: the loss, its gradient, and the teacher in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.data.dataset import Dataset
from mnist_exp.data.formats import find, prepare
from mnist_exp.model.build import build
from mnist_exp.model.preprocessing import statistics
from mnist_exp.training import step
from mnist_exp.training.batch_augmentation import make_batch_augment
from mnist_exp.training.distillation import load_teacher
from mnist_exp.training.loop import fit

COMMON = ("data=digits", "data.limit=300", "model=linear", "optimizer=sgd", "teacher=t.keras",
          "training.loss=categorical_crossentropy")  # fmt: skip
SMOOTH = ("training.label_smoothing=0.1",)
BN = "model.layers=[Flatten, BatchNormalization, {type: Dropout, rate: 0.5}, {type: Dense, units: 10}, Softmax]"


def setting(*overrides: str, precision: str = "float32") -> tuple[TrainConfig, Dataset, Any]:
    config, _ = compose_checked(Request("train", (*COMMON, *overrides)), TrainConfig)
    data = prepare(find(config.data, print), config.data)
    return config, data, build(config, statistics(data.train.images, config.preprocess), precision)


def teacher_of(*overrides: str) -> Any:
    """Return a model whose outputs are far from uniform."""
    _, _, model = setting(*overrides, "seed=7")
    model.set_weights([3 * weight for weight in model.get_weights()])
    return model


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return found


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize(
    ("overrides", "weighted"),
    [
        ((), False),
        (SMOOTH, True),
        (("aug=shift", "aug.mixup=1"), False),
        (("aug.cutmix=1", "training.distillation.weight=1"), True),
        (("training.distillation={weight: 0, temperature: 1}",), False),
    ],
)
def test_loss_and_gradient_are_those_of_the_definition(
    monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...], weighted: bool, halves: bool
):
    """They equal a float64 computation in NumPy. Both models see the augmented images, each with its preprocessing."""
    monkeypatch.setattr(step, "halves_batches", lambda: halves)
    plain = ("optimizer.momentum=0.0", "optimizer.nesterov=false")
    config, data, model = setting(*plain, "training.distillation={weight: 0.7, temperature: 3}", *overrides)
    teacher = teacher_of("preprocess=standardize", BN)
    before, taught = [weight.astype(np.float64) for weight in model.get_weights()], teacher.get_weights()
    rows = np.arange(33, dtype=np.int32)
    factors = np.linspace(0.2, 2, 10, dtype=np.float32) if weighted else None
    step.compile_steps(model, data.train, config, np.full(1, 0.1, np.float32), factors, teacher)(
        rows[None], 0, 1.0
    )

    one_hot = np.eye(10, dtype=np.float32)[data.train.labels[rows]]
    images = data.train.images[rows].astype(np.float32)
    x, y = (np.array(array) for array in make_batch_augment(config, 1)(images, one_hot, np.int64(0)))
    of_image = np.ones(33) if factors is None else y @ factors.astype(np.float64)
    smoothing = config.training.label_smoothing
    targets = y * (1 - smoothing) + smoothing / 10
    pixels = x.reshape(33, -1).astype(np.float64) / 255
    logits = pixels @ before[0] + before[1]
    wanted = np.log(teacher.predict(x, verbose=0).astype(np.float64))
    weight, heat = config.training.distillation.weight, config.training.distillation.temperature
    soft, softer = softmax(wanted / heat), softmax(logits / heat)
    usual = -(targets * np.log(softmax(logits))).sum(axis=1)
    apart = (soft * np.log(soft / softer)).sum(axis=1)
    loss = np.mean(of_image * ((1 - weight) * usual + weight * heat**2 * apart))
    assert step.read_metrics(model)["loss"] == pytest.approx(loss, rel=2e-4)
    slope = (1 - weight) * (softmax(logits) - targets) + weight * heat * (softer - soft)
    slope *= of_image[:, None] / 33
    for old, new, gradient in zip(before, model.get_weights(), (pixels.T @ slope, slope.sum(axis=0)), strict=True):
        np.testing.assert_allclose(new, old - 0.1 * gradient, atol=2e-5)
    for old, new in zip(taught, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_penalties_of_layers_count_in_full():
    """They are part of the loss, but not of what the teacher's share replaces."""
    regularized = "model.layers=[Flatten, {type: Dense, units: 10, kernel_regularizer: l2}, Softmax]"
    config, data, model = setting(regularized, "training.distillation.weight=1")
    penalty = float(sum(model.losses))
    run = step.compile_steps(model, data.train, config, np.zeros(1, np.float32), teacher=model)
    run(np.arange(9, dtype=np.int32)[None], 0, 1.0)
    assert penalty > 0
    assert step.read_metrics(model)["loss"] == pytest.approx(penalty, rel=1e-4)  # the divergence from itself is 0


def test_a_student_without_labels_approaches_its_teacher(tmp_path: Path):
    """With weight=1, it agrees with the teacher, even if the teacher's classes are permuted."""
    teacher = teacher_of()
    config, data, model = setting("training.distillation.weight=1", "training.epochs=30", "training.batch_size=16",
                                  "optimizer=adam", "optimizer.learning_rate=0.01")  # fmt: skip
    images = data.train.images.astype(np.float32)
    wanted = teacher.predict(images, verbose=0)

    def distance() -> float:
        return float(abs(model.predict(images, verbose=0) - wanted).mean())

    untrained = distance()
    fit(model, data, config, teacher=teacher)
    agreement = (model.predict(images, verbose=0).argmax(axis=1) == wanted.argmax(axis=1)).mean()
    assert distance() < untrained / 5
    assert agreement > 0.9
    assert agreement > (wanted.argmax(axis=1) == data.train.labels).mean() + 0.3


@pytest.mark.parametrize("preprocess", ["unit", "zca"])
def test_the_teacher_computes_in_the_precision_of_the_run(tmp_path: Path, preprocess: str):
    """Its hidden layers compute in bfloat16, preprocessing and output in float32; its weights are not trained."""
    conv = "[{type: Conv2D, filters: 4, kernel_size: 3}, Flatten, {type: Dense, units: 10}, Softmax]"
    _, data, model = setting(f"model.layers={conv}", f"preprocess={preprocess}")
    model.save(tmp_path / "t.keras")
    config, _, _ = setting(f"teacher={tmp_path / 't.keras'}")
    exact, rounded = load_teacher(config, "float32"), load_teacher(config, "bfloat16")
    assert exact is not None
    assert rounded is not None
    assert {layer.compute_dtype for layer in exact.layers} == {"float32"}
    inside = {layer.name: layer.compute_dtype for layer in rounded.layers[1:]}
    assert inside["conv2d"] == inside["dense"] == "bfloat16"
    assert inside["softmax"] == inside["preprocess"] == "float32"
    assert not rounded.trainable_weights
    images = data.val.images[:20].astype(np.float32)
    one, other = (keras.ops.convert_to_numpy(of(images, training=False)) for of in (exact, rounded))
    assert other.dtype == np.float32
    assert 0 < abs(one - other).max() < 0.05
