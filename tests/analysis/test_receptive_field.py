"""Receptive fields are what the layers depend on."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_exp.analysis.receptive_field import Field, fields, receptive_axes
from mnist_exp.analysis.summary import as_markdown
from mnist_exp.keras_spec.layer_specs import parse_layers
from mnist_exp.model.graph import apply_layers

HEIGHT, WIDTH = 19, 16


def build(layers: list[Any], shape: tuple[int, ...] = (HEIGHT, WIDTH, 1)) -> keras.Model | None:
    """Return the model, or None if the layers do not fit."""
    problems: list[str] = []
    inputs = keras.Input(shape)
    outputs = apply_layers(parse_layers(layers).specs, inputs, lambda path, text: problems.append(text))
    return None if problems else keras.Model(inputs, outputs)


def window(rng: np.random.Generator, **more: Any) -> dict[str, Any]:
    """Return random sizes, strides, dilation and padding, which may differ between the axes."""
    kernel = [int(n) for n in rng.integers(1, 5, 2)]
    strides = int(rng.integers(1, 3))
    dilation = int(rng.integers(1, 3)) if strides == 1 else 1
    padding = str(rng.choice(["same", "valid"]))
    return {"kernel_size": kernel, "strides": strides, "dilation_rate": dilation, "padding": padding, **more}


def one(rng: np.random.Generator) -> Any:
    kind = rng.choice(
        [
            "Conv2D", "SeparableConv2D", "DepthwiseConv2D", "Conv2DTranspose", "MaxPooling2D", "AveragePooling2D",
            "ZeroPadding2D", "Cropping2D", "UpSampling2D", "BatchNormalization",
        ]
    )  # fmt: skip
    if kind in ("Conv2D", "SeparableConv2D"):
        return {"type": kind, "filters": 2, **window(rng)}
    if kind == "DepthwiseConv2D":
        return {"type": kind, **window(rng)}
    if kind == "Conv2DTranspose":
        return {"type": kind, "filters": 2, **window(rng, dilation_rate=1)}
    if kind in ("MaxPooling2D", "AveragePooling2D"):
        size = [int(n) for n in rng.integers(1, 4, 2)]
        return {
            "type": kind,
            "pool_size": size,
            "strides": int(rng.integers(1, 3)),
            "padding": str(rng.choice(["same", "valid"])),
        }
    if kind == "ZeroPadding2D":
        return {"type": kind, "padding": [[1, 0], [2, 1]]}
    if kind == "Cropping2D":
        return {"type": kind, "cropping": [[0, 1], [1, 0]]}
    if kind == "UpSampling2D":
        mode = str(rng.choice(["nearest", "bilinear"]))
        return {"type": kind, "size": [int(n) for n in rng.integers(1, 4, 2)], "interpolation": mode}
    return str(kind)


def stack(rng: np.random.Generator) -> list[Any]:
    layers: list[Any] = [one(rng) for _ in range(rng.integers(1, 5))]
    same = {"type": "Conv2D", "filters": 2, "kernel_size": [3, 5], "padding": "same"}
    shape = rng.integers(0, 4)
    if shape == 0:
        layers.append({"type": "Residual", "layers": [same, same], "shortcut": [{**same, "kernel_size": [1, 7]}]})
    elif shape == 1:
        layers.append(
            {"type": "Parallel", "branches": [[same], [{**same, "kernel_size": 1}, {**same, "dilation_rate": 2}]]}
        )
    elif shape == 2:
        layers.append({"type": "Permute", "dims": [2, 1, 3]})
    return [*layers, one(rng)]


def probed(model: keras.Model) -> np.ndarray:
    """Return which pixel changes which unit (pixels, rows, columns); weights and inputs never cancel out."""
    for layer in model.layers:
        if layer.weights and not isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([np.full(w.shape, 0.5, np.float32) for w in layer.weights])
    lit = np.eye(HEIGHT * WIDTH, dtype=np.float32).reshape(-1, HEIGHT, WIDTH, 1) * 1e6
    difference = model.predict_on_batch(lit) - model.predict_on_batch(np.zeros((1, HEIGHT, WIDTH, 1), np.float32))
    return np.abs(difference).max(axis=-1) > 1e-3


@pytest.mark.slow
def test_fields_are_what_probing_finds():
    """For 100 random stacks of layers, the field of every unit of the last layer is exact."""
    rng = np.random.default_rng(0)
    tried = 0
    while tried < 100:
        layers = stack(rng)
        model = build(layers)
        if model is None or min(model.output_shape[1:3]) < 3:
            continue
        tried += 1
        assert difference(model) == "", layers


def difference(model: keras.Model) -> str:
    """Return the differences between a model's receptive fields and probing; empty if they agree."""
    sees = probed(model).reshape(HEIGHT, WIDTH, *model.output_shape[1:3])
    axes = receptive_axes(model)[model.layers[-1].name]
    for number, axis in axes.items():
        by_unit = sees.any(axis=tuple(n for n in range(4) if n not in (axis.of, number + 1)))
        for unit in range(axis.length):
            pixels = np.flatnonzero(by_unit[:, unit])
            seen, expected = axis.span(unit), (int(pixels[0]), int(pixels[-1])) if len(pixels) else None
            if axis.is_bound and seen and (expected is None or seen[0] <= expected[0] <= expected[1] <= seen[1]):
                continue
            if seen != expected:
                return f"axis {number}, unit {unit}: {seen}, not {expected}"
    return ""


CONV = {"type": "Conv2D", "filters": 2}
SAME = {**CONV, "kernel_size": 3, "padding": "same"}
WIDE = {**CONV, "kernel_size": 7, "padding": "same"}


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    ("kernel", "strides", "dilation"), [(3, 1, 3), (4, 1, 2), (2, 1, 5), (3, 2, 1), (1, 2, 1)]
)
def test_transposed_convolutions_see_what_probing_finds(kernel: int, strides: int, dilation: int, padding: str):
    """Their fields are exact with dilation and gaps, also next to the border.

    TensorFlow computes a dilated transposed convolution on GPUs only. It reads what the convolution with the same
    arguments, which runs everywhere, writes.
    """
    layer = {"type": "Conv2DTranspose", "filters": 2, "kernel_size": kernel, "strides": strides}
    model = build([{**layer, "dilation_rate": dilation, "padding": padding}])
    assert model is not None
    rows = model.output_shape[1]
    lit = tf.reshape(tf.eye(rows), (rows, rows, 1, 1)) * tf.ones((1, 1, rows, 1))  # an image per row, which is lit
    passed = tf.nn.conv2d(lit, tf.ones((kernel, kernel, 1, 1)), strides, padding.upper(), dilations=dilation)
    reads = (
        passed.numpy()[:, :, passed.shape[2] // 2, 0] > 0
    )  # (output rows, input rows) of the transposed convolution
    assert reads.shape[1] == HEIGHT
    axis = receptive_axes(model)[model.layers[-1].name][1]
    for unit in range(rows):
        pixels = np.flatnonzero(reads[unit])
        assert axis.span(unit) == ((int(pixels[0]), int(pixels[-1])) if len(pixels) else None), unit


@pytest.mark.parametrize("size", [[2, 2], [3, 2], [4, 1]])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos3"])
def test_upsampling_sees_what_probing_finds(size: list[int], interpolation: str):
    """Fields of upsampling are exact, or within the reported bound."""
    model = build(
        [
            {**CONV, "kernel_size": 3, "strides": 2},
            {"type": "UpSampling2D", "size": size, "interpolation": interpolation},
        ]
    )
    assert model is not None
    assert difference(model) == ""
    axes = receptive_axes(model)[model.layers[-1].name]
    assert {axis.is_bound for axis in axes.values()} == {interpolation not in ("nearest", "bilinear")}
    assert len(axes) == 2


@pytest.mark.parametrize("axis", [1, 2, -2, -3])
def test_concatenated_images_see_what_probing_finds(axis: int):
    """Fields are exact along the concatenated axis; along the other axis, a bound is reported."""
    parallel = {"type": "Parallel", "branches": [[SAME], [WIDE]], "merge": {"type": "Concatenate", "axis": axis}}
    model = build([parallel, "Identity"])
    assert model is not None
    assert difference(model) == ""
    axes = receptive_axes(model)[model.layers[-1].name]
    along = axis % 4
    assert {number: each.is_bound for number, each in axes.items()} == {along: False, 3 - along: True}
    cell = fields(axes)[2 - along]
    assert (cell.size, cell.is_bound) == (7, True)


def test_a_bound_is_marked_in_the_card():
    """A size that is only bounded is shown as `≤7`."""
    parallel = {"type": "Parallel", "branches": [[SAME], [WIDE]], "merge": {"type": "Concatenate", "axis": 1}}
    model = build([parallel, "Flatten", {"type": "Dense", "units": 10}, "Softmax"])
    assert model is not None
    [row] = [line for line in as_markdown(model, 1).splitlines() if "| Concatenate |" in line]
    assert "≤7" in row


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([], Field(1, 1, 0)),
        ([{**CONV, "kernel_size": 3, "padding": "same"}] * 5, Field(11, 1, -5)),
        ([{**CONV, "kernel_size": 5}, "MaxPooling2D"], Field(6, 2, 0)),
        ([{**CONV, "kernel_size": 5}, "MaxPooling2D", {**CONV, "kernel_size": 5}], Field(14, 2, 0)),
        ([{**CONV, "kernel_size": 3, "dilation_rate": 4}], Field(9, 1, 0)),
        ([{"type": "UpSampling2D", "size": 2}, {**CONV, "kernel_size": 3, "padding": "same"}], Field(2, 0.5, -1)),
        ([{"type": "Residual", "layers": [{**CONV, "filters": 1, "kernel_size": 3, "padding": "same"}]}], Field(3, 1, -1)),
        ([{"type": "Parallel", "branches": [[{**CONV, "kernel_size": 3, "padding": "same"}], [{**CONV, "kernel_size": 7, "padding": "same"}]]}], Field(7, 1, -3)),
        (["GlobalAveragePooling2D"], Field(None, 0, 0)),
        (["Flatten", {"type": "Dense", "units": 3}], Field(None, 0, 0)),
        (["GroupNormalization"], Field(None, 0, 0)),
        ([{"type": "Dense", "units": 3}], Field(1, 1, 0)),  # of a pixel's channels
    ],
)  # fmt: skip
def test_sizes_strides_and_starts_are_those_of_the_textbook(layers: list[Any], expected: Field):
    """They are computed as for an unbounded image, so padding counts."""
    if layers and layers[0] == "GroupNormalization":
        layers = [{"type": "GroupNormalization", "groups": 1}]
    model = build([*layers, "Identity"])
    assert model is not None
    assert fields(receptive_axes(model)[model.layers[-1].name]) == (expected, expected)


def test_rows_and_columns_have_fields_of_their_own():
    """7×1 and 1×7 kernels have different fields by axis; a unit of a sequence of rows sees whole rows."""
    model = build([{**CONV, "kernel_size": [7, 1]}, {**CONV, "kernel_size": [1, 3], "strides": [1, 1]}])
    assert model is not None
    assert fields(receptive_axes(model)["conv2d_1"]) == (Field(7, 1, 0), Field(3, 1, 0))
    rows = build(
        [{"type": "Reshape", "target_shape": [HEIGHT, WIDTH]}, {"type": "Conv1D", "filters": 2, "kernel_size": 3}]
    )
    assert rows is not None
    assert fields(receptive_axes(rows)["conv1d"]) == (Field(3, 1, 0), Field(None, 0, 0))
