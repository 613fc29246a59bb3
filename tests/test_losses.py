"""Training, validation, test and `evaluate` losses are the same function: the one that Keras computes."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
from support.cli import SMALL, Cli
from support.device import set_up_tensorflow

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.data.dataset import Dataset, Part
from mnist_exp.data.formats import find, prepare
from mnist_exp.inference import scoring
from mnist_exp.keras_spec.signatures import classes, snake_case
from mnist_exp.model.build import build
from mnist_exp.model.compile_args import make_loss, make_metrics, try_on_targets
from mnist_exp.model.keras_errors import ArgumentError
from mnist_exp.model.preprocessing import statistics
from mnist_exp.training import step
from mnist_exp.training.loop import Progress, epoch_rows, fit

SETTING = (*SMALL, "data=digits", "data.limit=360", "data.val_fraction=0.3")
PENALIZED = (
    "model.layers=[Flatten, {type: Dense, units: 12, activation: relu, kernel_regularizer: l2},"
    " {type: ActivityRegularization, l1: 0.01},"
    " {type: Dense, units: 10, activity_regularizer: {class_name: L2, config: {l2: 0.02}}}, Softmax]"
)
LOSSES = (
    "binary_crossentropy", "binary_focal_crossentropy", "categorical_crossentropy", "categorical_focal_crossentropy",
    "categorical_hinge", "cosine_similarity", "dice", "hinge", "huber", "kl_divergence", "log_cosh",
    "mean_absolute_error", "mean_absolute_percentage_error", "mean_squared_error", "mean_squared_logarithmic_error",
    "poisson", "sparse_categorical_crossentropy", "squared_hinge", "tversky",
)  # fmt: skip
CROSS_ENTROPIES = ("sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy")


@pytest.fixture(scope="module", autouse=True)
def _tensorflow() -> None:
    set_up_tensorflow()


def setting(*overrides: str) -> tuple[TrainConfig, Dataset]:
    config, _ = compose_checked(Request("train", (*SETTING, *overrides)), TrainConfig)
    return config, prepare(find(config.data, print), config.data)


def targets(part: Part, config: TrainConfig) -> npt.NDArray[Any]:
    return np.eye(config.data.classes)[part.labels] if config.training.one_hot else part.labels


def trained(config: TrainConfig, data: Dataset, precision: str = "float32") -> tuple[Progress, keras.Model]:
    """Return a trained model's run, and the best epoch's model as plain Keras loads it."""
    numbers = statistics(data.train.images, config.preprocess)
    progress = fit(build(config, numbers, precision), data, config)
    assert progress.best is not None
    twin = build(config, numbers, "float32")
    step.build_state(twin)
    progress.best.restore(twin)
    twin.save("model.keras")
    return progress, keras.saving.load_model("model.keras")


def of_keras(model: keras.Model, part: Part, config: TrainConfig) -> dict[str, float]:
    return model.evaluate(part.images, targets(part, config), verbose=0, return_dict=True)


def validated(progress: Progress) -> dict[str, float]:
    """Return the best epoch's metrics."""
    assert progress.best_epoch is not None
    best = progress.history[progress.best_epoch - 1]
    return {name.removeprefix("val/"): value for name, value in best.items() if name.startswith("val/")}


def test_every_allowed_loss_is_tested():
    """These are the losses of Keras that a config may name."""
    allowed = []
    for name in map(snake_case, classes("losses")):
        config, _ = compose_checked(Request("train", (*SETTING, f"training.loss={name}")), TrainConfig)
        training = config.training
        with suppress(ArgumentError):
            try_on_targets(make_loss(training), make_metrics(training), training, config.data.classes)
            allowed.append(name)
    assert sorted(allowed) == sorted(LOSSES)


QUICK = ("binary_crossentropy", "categorical_crossentropy", "cosine_similarity", "sparse_categorical_crossentropy")


@pytest.mark.parametrize(
    "loss", [loss if loss in QUICK else pytest.param(loss, marks=pytest.mark.slow) for loss in LOSSES]
)
def test_losses_equal_keras(loss: str):
    """Test and validation losses are those of Keras' `evaluate` on the saved file, penalties included."""
    config, data = setting(f"training.loss={loss}", PENALIZED)
    progress, model = trained(config, data)
    assert data.val is not None
    assert data.test is not None
    expected = of_keras(model, data.test, config)
    assert scoring.score(model, data.test, config.training).metrics == pytest.approx(expected, rel=1e-5)
    assert validated(progress) == pytest.approx(of_keras(model, data.val, config), rel=1e-5)


# A probability of exp(-104) rounds to 0 in float32.
@pytest.mark.parametrize(("rate", "least"), [(10.0, 104), (100.0, 1e5)], ids=["saturated", "diverging"])
@pytest.mark.parametrize("loss", CROSS_ENTROPIES)
def test_large_losses_equal_keras(loss: str, rate: float, least: float):
    """They are not cut off where a probability rounds to 0."""
    config, data = setting(f"training.loss={loss}", "model=lenet5x5", "model.filters=[4,4,4]", "optimizer=adam",
                           "training.epochs=1", f"optimizer.learning_rate={rate}", "preprocess=standardize")  # fmt: skip
    progress, saved = trained(config, data)
    assert data.val is not None
    assert data.test is not None
    expected = of_keras(saved, data.test, config)
    assert expected["loss"] > least
    assert scoring.score(saved, data.test, config.training).metrics == pytest.approx(expected, rel=1e-5)
    assert validated(progress) == pytest.approx(of_keras(saved, data.val, config), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("loss", CROSS_ENTROPIES)
def test_validation_losses_in_bfloat16_are_near(loss: str):
    """They differ by less than 0.02 from those of the saved model, which computes in float32."""
    config, data = setting(f"training.loss={loss}", "model=lenet5x5", "model.filters=[4,4,4]", "model.dense=16",
                           "optimizer.learning_rate=0.01")  # fmt: skip
    progress, model = trained(config, data, "bfloat16")
    assert data.val is not None
    assert validated(progress)["loss"] == pytest.approx(of_keras(model, data.val, config)["loss"], abs=0.02)


@pytest.mark.parametrize(
    ("loss", "halves"),
    [
        ("sparse_categorical_crossentropy", False),
        ("sparse_categorical_crossentropy", True),
        pytest.param("categorical_crossentropy", True, marks=pytest.mark.slow),
        pytest.param("binary_crossentropy", True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("layers", ["model=linear", PENALIZED], ids=["plain", "penalized"])
def test_training_losses_equal_keras(monkeypatch: pytest.MonkeyPatch, loss: str, layers: str, halves: bool):
    """The training loss and metrics are those of `train_on_batch` on the same batches."""
    monkeypatch.setattr(step, "halves_batches", lambda: halves)
    metric = "sparse_categorical_crossentropy" if loss.startswith("sparse") else "categorical_crossentropy"
    config, data = setting(f"training.loss={loss}", layers, "training.epochs=1", "optimizer=sgd",
                           "training.batch_size=50", f"training.metrics=[{metric}]")  # fmt: skip
    numbers = statistics(data.train.images, config.preprocess)
    ours, keras_own = build(config, numbers, "float32"), build(config, numbers, "float32")
    [row] = fit(ours, data, config).history
    wanted = targets(data.train, config)
    batches = [batch for [batch] in epoch_rows(len(data.train), 50, 0, 0, math.ceil(len(data.train) / 50), 1)]
    each = [keras_own.train_on_batch(data.train.images[of], wanted[of], return_dict=True) for of in batches]
    sizes = [len(batch) for batch in batches]
    assert sizes == [50, 50, 50, 50, 50, 2]
    expected = {name: np.average([of[name] for of in each], weights=sizes) for name in each[0]}
    found = {name.removeprefix("train/"): value for name, value in row.items() if name.startswith("train/")}
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("halves", [False, True])
def test_metrics_equal_keras(monkeypatch: pytest.MonkeyPatch, halves: bool):
    """A cross entropy used as a metric is not cut off either."""
    monkeypatch.setattr(step, "halves_batches", lambda: halves)
    monkeypatch.setattr(scoring, "halves_batches", lambda: halves)
    config, data = setting(
        "training.loss=mean_squared_error", "optimizer=sgd", "optimizer.learning_rate=1e4",
        "training.metrics=[categorical_crossentropy, binary_crossentropy, kl_divergence, top_k_categorical_accuracy]",
    )  # fmt: skip
    progress, model = trained(config, data)
    assert data.val is not None
    assert data.test is not None
    expected = of_keras(model, data.test, config)
    assert expected["categorical_crossentropy"] > 17
    assert scoring.score(model, data.test, config.training).metrics == pytest.approx(expected, rel=1e-5)
    assert validated(progress) == pytest.approx(of_keras(model, data.val, config), rel=1e-5)


def test_a_model_with_an_activity_penalty_is_trained_scored_and_evaluated(cli: Cli):
    """On the command line, both losses include the penalty and equal those of Keras' `evaluate`."""
    done = cli(PENALIZED, "data=digits", small=True)
    assert done.run is not None
    config, _ = compose_checked(Request("train", tuple(done.result["overrides"])), TrainConfig)
    data = prepare(find(config.data, print), config.data)
    model = keras.saving.load_model(done.run / "model.keras")
    assert data.test is not None
    expected = of_keras(model, data.test, config)
    assert done.result["test"] == pytest.approx(expected, rel=1e-5)
    evaluated = cli("evaluate", f"run={done.run}", "output=scored").out
    assert "bit-identical" in evaluated
    found = json.loads(Path("scored/evaluation.json").read_text(encoding="utf-8"))["metrics"]
    assert found == pytest.approx(expected, rel=1e-5)
