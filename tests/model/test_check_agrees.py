"""On random lists of layers, `check` accepts exactly those that train."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from support.cli import soak

from mnist_exp.config.compose import Composition
from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import ModelConfig, TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.data.dataset import Dataset, Part
from mnist_exp.engine.keras_check import check
from mnist_exp.errors import RequestError
from mnist_exp.keras_spec.layer_faults import COMPOSITES
from mnist_exp.model.build import build
from mnist_exp.model.preprocessing import Statistics
from mnist_exp.training.loop import fit

SHAPE, CLASSES = (12, 10, 1), 3


def layer(rng: np.random.Generator) -> Any:
    """Return a random layer that is usually valid by itself, but may not fit."""

    def some(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    kind = some(
        "Conv2D", "Conv2D", "Conv2D", "SeparableConv2D", "DepthwiseConv2D", "Conv2DTranspose", "MaxPooling2D", "AveragePooling2D",
        "BatchNormalization", "GroupNormalization", "ReLU", "Dropout", "Dense", "Flatten", "GlobalAveragePooling2D",
        "ZeroPadding2D", "Cropping2D", "UpSampling2D", "Permute", "Reshape", "Conv1D", "LSTM", "Residual", "Parallel", "Repeat",
        "LayerNormalization", "RepeatVector", "Softmax", "SpatialDropout2D",
    )  # fmt: skip
    size = some(1, 2, 3, 3, 5, [3, 1], [1, 4], 0, 9)
    if kind in ("Conv2D", "SeparableConv2D", "Conv2DTranspose"):
        entry = {
            "type": kind,
            "filters": some(2, 4, 3),
            "kernel_size": size,
            "padding": some("same", "valid", "causal" if rng.random() < 0.1 else "same"),
        }
        entry |= some({}, {"strides": some(1, 2, [1, 2])}, {"dilation_rate": 2})
        return entry | ({"groups": 2} if kind == "Conv2D" and rng.random() < 0.15 else {})
    if kind == "DepthwiseConv2D":
        return {"type": kind, "kernel_size": size, "strides": some(1, 2, [1, 2])}
    if kind in ("MaxPooling2D", "AveragePooling2D"):
        return {"type": kind, "pool_size": some(2, 3, [1, 2], 13), "padding": some("same", "valid")}
    more: dict[str, dict[str, Any]] = {
        "Dense": {"units": some(4, 3)}, "Dropout": some({"rate": 0.2}, {"rate": 0.2, "noise_shape": [2, 1]}), "SpatialDropout2D": {"rate": 0.1},
        "ZeroPadding2D": {"padding": 1}, "Cropping2D": {"cropping": some(1, 2, 5)}, "UpSampling2D": {"size": 2},
        "Permute": {"dims": some([2, 1, 3], [3, 1, 2], [2, 1])}, "Reshape": {"target_shape": some([12, 10], [120], [10, 12, 1], [7, 7])},
        "Conv1D": {"filters": 3, "kernel_size": 3}, "LSTM": {"units": 3, "return_sequences": some(True, False)}, "RepeatVector": {"n": 2},
        "GroupNormalization": {"groups": some(1, 2)}, "LayerNormalization": some({}, {"epsilon": "abc"}),
    }  # fmt: skip
    if kind == "Residual":
        return {"type": kind, "layers": [layer(rng), layer(rng)]}
    if kind == "Repeat":
        return {"type": kind, "times": some(0, 1, 2), "layers": [layer(rng)]}
    if kind == "Parallel":
        return {
            "type": kind,
            "branches": [[layer(rng)], [layer(rng)]],
            "merge": some("Add", "Concatenate", "Multiply"),
        }
    return {"type": kind, **more[kind]} if kind in more else kind


def random_list(rng: np.random.Generator) -> list[Any]:
    layers = [layer(rng) for _ in range(rng.integers(1, 4))]
    end = [
        ["Flatten", {"type": "Dense", "units": CLASSES}, "Softmax"],
        ["GlobalAveragePooling2D", {"type": "Dense", "units": CLASSES}, "Softmax"],
    ]
    return [*layers, *(end[0] if rng.random() < 0.85 else end[1])]


def by_hand(entries: list[Any], x: Any) -> Any:
    """Build the same list in plain Keras, as a user would write it."""
    for entry in entries:
        kind, arguments = (
            (entry, {})
            if isinstance(entry, str)
            else (entry["type"], {k: v for k, v in entry.items() if k != "type"})
        )
        if kind == "Repeat":
            for _ in range(arguments["times"]):
                x = by_hand(arguments["layers"], x)
        elif kind == "Residual":
            changed = by_hand(arguments["layers"], x)
            if changed.shape != x.shape:
                raise ValueError("the shapes differ")
            x = keras.layers.Add()([changed, x])
        elif kind == "Parallel":
            x = getattr(keras.layers, arguments["merge"])()(
                [by_hand(branch, x) for branch in arguments["branches"]]
            )
        else:
            x = getattr(keras.layers, kind)(**arguments)(x)
    return x


def refusal(config: TrainConfig, composition: Composition) -> str | None:
    """Return why `check` refuses the list; None if it accepts it."""
    if faults := config.model.layers.faults:
        return faults[0].message
    try:
        check(config, composition)
    except RequestError as error:
        return str(error)
    return None


def built(entries: list[Any]) -> keras.Model:
    """Return the model that plain Keras builds."""
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, by_hand(entries, keras.layers.Rescaling(1 / 255)(inputs)))


def trains(entries: list[Any], data: Dataset) -> bool:
    """Return whether plain Keras builds a classifier that completes a compiled training step."""
    try:
        model = built(entries)
        model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
        model.train_on_batch(data.train.images.astype("float32"), data.train.labels)
    except Exception:
        return False
    return bool(model.output_shape == (None, CLASSES))


@pytest.mark.slow
@pytest.mark.parametrize("lists", [40, soak(500)])
def test_check_and_training_agree(capsys: pytest.CaptureFixture[str], lists: int):
    """Each list is refused by both, or built with the same parameters and shapes and trained."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, *SHAPE)).astype(np.uint8)
    part = Part(images, np.arange(8) % CLASSES)
    request = Request(
        "train",
        (
            "data=digits",
            f"data.shape={list(SHAPE)}",
            f"data.classes={CLASSES}",
            "data.class_names=null",
            "training.epochs=1",
        ),
    )
    right, composition = compose_checked(request, TrainConfig)
    data = Dataset(part, None, None, "here", "none", ("a", "b", "c"))
    accepted = 0
    for number in range(lists):
        entries = random_list(rng)
        config = right.model_copy(update={"model": ModelConfig(name="random", layers=tuple(entries))})
        if number % 20 == 0:
            keras.utils.clear_session()  # collects garbage, which takes half a second
        if (refused := refusal(config, composition)) is not None:
            assert not trains(entries, data), (entries, refused)
            continue
        accepted += 1
        model, reference = build(config, Statistics(), "float32"), built(entries)
        assert model.count_params() == reference.count_params(), entries
        assert [x.output.shape for x in model.layers] == [x.output.shape for x in reference.layers], entries
        fit(model, data, config)
    with capsys.disabled():
        print(f"\n  {accepted} of {lists} random lists were accepted and trained, {lists - accepted} refused")
    assert lists / 5 < accepted < lists * 4 / 5
    assert set(COMPOSITES) == {"Repeat", "Residual", "Parallel"}
