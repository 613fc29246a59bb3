"""All options train, and plain Keras loads the saved files with the same predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import yaml
from support.cli import soak

from mnist_exp.config.hydra_adapter import conf_folder
from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import ModelConfig, TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.data.dataset import Dataset
from mnist_exp.data.formats import find, prepare
from mnist_exp.engine.keras_check import check
from mnist_exp.keras_spec.layer_faults import ALLOWED, MERGES
from mnist_exp.keras_spec.signatures import classes
from mnist_exp.model.build import build
from mnist_exp.model.preprocessing import statistics
from mnist_exp.model.saving import save_model
from mnist_exp.training.loop import fit


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))


pytestmark = pytest.mark.slow  # a hundred trainings

FEW = ("data=digits", "data.limit=120", "model=linear", "training.epochs=1", "training.batch_size=32")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    config, _ = compose_checked(Request("train", FEW), TrainConfig)
    return prepare(find(config.data, print), config.data)


def trained_and_loaded(
    data: Dataset, folder: Path, *overrides: str, layers: list[Any] | None = None
) -> keras.Model:
    """Check, train for an epoch and save; plain Keras predicts the same from each file."""
    config, composition = compose_checked(Request("train", (*FEW, *overrides)), TrainConfig)
    if layers is not None:
        config = config.model_copy(update={"model": ModelConfig(name="test", layers=tuple(layers))})
    check(config, composition)
    model = build(config, statistics(data.train.images, config.preprocess), "float32")
    before = [keras.ops.convert_to_numpy(weight).copy() for weight in model.trainable_weights]
    progress = fit(model, data, config)
    assert progress.epochs == 1
    # Something was learnt: every trainable weight has a gradient, or is a bias that normalization takes away.
    moved = [
        not np.array_equal(a, keras.ops.convert_to_numpy(b))
        for a, b in zip(before, model.trainable_weights, strict=True)
    ]
    assert sum(moved) > len(moved) / 2
    expected = model.predict_on_batch(data.val.images)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(expected.sum(axis=1), 1, atol=1e-5)
    save_model(model, folder)
    whole = keras.saving.load_model(folder / "model.keras")
    old = keras.saving.load_model(folder / "model.h5")
    text = yaml.safe_load((folder / "architecture.yaml").read_text(encoding="utf-8"))
    apart = keras.models.model_from_json(json.dumps(text))
    apart.load_weights(folder / "model.weights.h5")
    for loaded in (whole, old, apart):
        assert np.array_equal(loaded.predict_on_batch(data.val.images), expected)
    assert type(whole.optimizer).__name__ == config.optimizer.type
    return whole


SAMPLED = ("AdamW", "Ftrl", "Lion", "Muon", "SGD")  # the others take part in `make soak`


@pytest.mark.parametrize(
    "optimizer", [name if name in SAMPLED else soak(name) for name in sorted(classes("optimizers"))]
)
def test_every_optimizer_of_keras(optimizer: str, digits: Dataset, tmp_path: Path):
    """Each is selected by the name of its class."""
    trained_and_loaded(digits, tmp_path, f"optimizer.type={optimizer}")


@pytest.mark.parametrize("optimizer", options("optimizer"))
def test_every_optimizer_option(optimizer: str, digits: Dataset, tmp_path: Path):
    """Each trains a model with kernels and biases, with its arguments, clipping, decay and EMA."""
    more = ["optimizer.clipnorm=1", "optimizer.weight_decay=0.01", "training.ema=0.9"]
    conv = [{"type": "Conv2D", "filters": 4, "kernel_size": 3}, "ReLU", "Flatten", {"type": "Dense", "units": 10}]
    trained_and_loaded(digits, tmp_path, f"optimizer={optimizer}", *more, layers=[*conv, "Softmax"])


@pytest.mark.parametrize("schedule", options("schedule"))
def test_every_schedule(schedule: str, digits: Dataset, tmp_path: Path):
    """The saved optimizer is a plain one with a plain learning rate."""
    loaded = trained_and_loaded(digits, tmp_path, f"schedule={schedule}")
    assert isinstance(loaded.optimizer.get_config()["learning_rate"], float)


@pytest.mark.parametrize("preprocess", options("preprocess"))
def test_every_preprocessing(preprocess: str, digits: Dataset, tmp_path: Path):
    """It is part of the saved model, which takes raw pixels."""
    trained_and_loaded(digits, tmp_path, f"preprocess={preprocess}")


@pytest.mark.parametrize("aug", options("aug"))
def test_every_augmentation(aug: str, digits: Dataset, tmp_path: Path):
    """It is not part of the saved model."""
    loaded = trained_and_loaded(digits, tmp_path, f"aug={aug}")
    assert [layer.name for layer in loaded.layers] == ["pixels", "preprocess", "flatten", "dense", "softmax"]


@pytest.mark.parametrize("mixture", [("aug.mixup=0.2",), ("aug.cutmix=1",), ("aug.mixup=0.2", "aug.cutmix=1")])
@pytest.mark.parametrize("more", [(), ("aug=rotate15", "aug.until=0.5", "training.class_weight=balanced")])
def test_every_mixture(mixture: tuple[str, ...], more: tuple[str, ...], digits: Dataset, tmp_path: Path):
    """Each trains on one-hot targets, alone or after other augmentation, with class weights, until it stops."""
    trained_and_loaded(digits, tmp_path, "training.loss=categorical_crossentropy", *mixture, *more)


@pytest.mark.parametrize("average", ["training.ema=0.9", "training.average_last=2"])
def test_every_average(average: str, digits: Dataset, tmp_path: Path):
    """The average is saved as any weights are, with batch statistics of its own."""
    trained_and_loaded(digits, tmp_path, average, "training.epochs=1", layers=NETS["normalization"])


@pytest.mark.parametrize("model", options("model"))
def test_every_model(model: str, digits: Dataset, tmp_path: Path):
    """Each built-in list of layers trains."""
    trained_and_loaded(digits, tmp_path, f"model={model}")


END = ["Flatten", {"type": "Dense", "units": 10}, "Softmax"]
SMALL = {"filters": 3, "kernel_size": 3}
ROWS = [{"type": "AveragePooling2D", "pool_size": 2}, {"type": "Reshape", "target_shape": [14, 14]}]
# Nets that have every layer of the allow-list in them.
NETS: dict[str, list[Any]] = {
    "convolutions": [
        {"type": "Conv2D", **SMALL, "strides": 2}, {"type": "Conv2DTranspose", **SMALL},
        {"type": "DepthwiseConv2D", "kernel_size": 3}, {"type": "SeparableConv2D", **SMALL}, *END,
    ],
    "convolutions of rows": [
        *ROWS, {"type": "Conv1D", **SMALL}, {"type": "Conv1DTranspose", **SMALL},
        {"type": "DepthwiseConv1D", "kernel_size": 3}, {"type": "SeparableConv1D", **SMALL}, *END,
    ],
    "pooling": [
        {"type": "AveragePooling2D", "pool_size": 2}, {"type": "Conv2D", **SMALL}, "MaxPooling2D",
        {"type": "Parallel", "branches": [
            ["GlobalAveragePooling2D"], ["GlobalMaxPooling2D"],
        ]}, *END,
    ],
    "pooling of rows": [
        *ROWS, {"type": "Conv1D", **SMALL}, "MaxPooling1D", {"type": "Parallel", "branches": [
            [{"type": "AveragePooling1D", "pool_size": 2}, "Flatten"], ["GlobalAveragePooling1D"], ["GlobalMaxPooling1D"],
        ]}, *END,
    ],
    "activations": [
        {"type": "AveragePooling2D", "pool_size": 4}, {"type": "Conv2D", **SMALL},
        {"type": "Activation", "activation": "swish"}, "ELU", "LeakyReLU", "PReLU", "ReLU", *END,
    ],
    "normalization": [
        {"type": "AveragePooling2D", "pool_size": 4}, {"type": "Conv2D", **SMALL}, "BatchNormalization",
        {"type": "GroupNormalization", "groups": 3}, "LayerNormalization", "RMSNormalization", "UnitNormalization", *END,
    ],
    "regularization": [
        {"type": "GaussianNoise", "stddev": 0.1}, {"type": "Conv2D", **SMALL, "strides": 2},
        {"type": "SpatialDropout2D", "rate": 0.1}, {"type": "Reshape", "target_shape": [13, 39]},
        {"type": "SpatialDropout1D", "rate": 0.1}, {"type": "ActivityRegularization", "l2": 0.001},
        {"type": "Dropout", "rate": 0.1}, {"type": "AlphaDropout", "rate": 0.1}, {"type": "GaussianDropout", "rate": 0.1},
        *END,
    ],
    "shapes": [
        {"type": "Cropping2D", "cropping": 2}, {"type": "ZeroPadding2D", "padding": 1}, "UpSampling2D",
        {"type": "AveragePooling2D", "pool_size": 4}, {"type": "Permute", "dims": [2, 1, 3]}, "Identity",
        {"type": "Reshape", "target_shape": [13, 13]}, {"type": "Cropping1D", "cropping": 1}, "ZeroPadding1D",
        "UpSampling1D", {"type": "Rescaling", "scale": 2.0}, *END[:-1], {"type": "RepeatVector", "n": 3}, *END,
    ],
    "recurrent": [
        *ROWS, {"type": "LSTM", "units": 6, "return_sequences": True}, {"type": "GRU", "units": 6, "return_sequences": True},
        {"type": "SimpleRNN", "units": 6, "return_sequences": True},
        {"type": "EinsumDense", "equation": "abc,cd->abd", "output_shape": [14, 5]}, *END,
    ],
    "merges": [
        {"type": "AveragePooling2D", "pool_size": 4},
        *({"type": "Parallel", "merge": merge, "branches": [[{"type": "Conv2D", **SMALL, "padding": "same"}],
          [{"type": "Conv2D", "filters": 3, "kernel_size": 1}]]} for merge in sorted(MERGES)),
        {"type": "Residual", "layers": [{"type": "Conv2D", "filters": 3, "kernel_size": 1}]},
        {"type": "Repeat", "times": 2, "layers": ["ReLU"]}, *END,
    ],
}  # fmt: skip


def kinds(entry: Any) -> set[str]:
    """Return the layer types that a list names, at any depth."""
    if isinstance(entry, list):
        return set().union(*map(kinds, entry))
    if isinstance(entry, str):
        return {entry}
    return {entry["type"]}.union(
        *(
            kinds(value)
            for value in entry.values()
            if isinstance(value, list) and value and not isinstance(value[0], (int, type(None)))
        )
    )


@pytest.mark.parametrize("net", sorted(NETS))
def test_every_layer_of_the_allow_list(net: str, digits: Dataset, tmp_path: Path):
    """Each trains in a suitable model."""
    trained_and_loaded(digits, tmp_path, layers=NETS[net])


def test_no_layer_of_the_allow_list_is_left_out():
    """A layer type added to the list must be added here."""
    assert set().union(*map(kinds, NETS.values())) == {*ALLOWED, "Parallel", "Repeat", "Residual"}
