"""Feature maps equal Keras' outputs; class activation maps find planted patterns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from support.cli import Cli

from mnist_exp.analysis.activations import (
    class_activation,
    compute_outputs,
    find_averaged_layer,
    grad_cam,
    last_spatial_layers,
    resize_to_image,
)
from mnist_exp.analysis.receptive_field import receptive_axes
from mnist_exp.keras_spec.layer_specs import parse_layers
from mnist_exp.model.graph import apply_layers

SIZE, PATCH = 20, 6
CONV = {"type": "Conv2D", "filters": 4, "kernel_size": 3, "padding": "same", "activation": "relu"}
END = [{"type": "Dense", "units": 2}, "Softmax"]
STRIPES = [{"type": "Conv2D", "filters": 2, "kernel_size": [4, 4], "activation": "relu", "name": "stripes"}]


def build(layers: list[Any], shape: tuple[int, int, int] = (SIZE, SIZE, 1)) -> keras.Model:
    problems: list[Any] = []
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    model = keras.Model(
        inputs, apply_layers(parse_layers(layers).specs, inputs, lambda *problem: problems.append(problem))
    )
    assert not problems
    return model


def planted(*, reads: str) -> keras.Model:
    """Return a model that finds horizontal and vertical stripes.

    `reads` selects the horizontal ones for the first class.
    """
    if reads == "everywhere":
        model = build([*STRIPES, "GlobalAveragePooling2D", {"type": "Dropout", "rate": 0.5}, *END])
        weights = np.eye(2)
    else:
        model = build([*STRIPES, "Flatten", *END])
        rows, columns = model.get_layer("stripes").output.shape[1:3]
        weights = np.zeros((rows, columns, 2, 2))
        weights[: rows // 2, : columns // 2, 0, 0] = 1
        weights[..., 1, 1] = 1
    across = np.tile([[1.0], [-1], [1], [-1]], (1, 4)) / 255
    model.get_layer("stripes").set_weights([np.stack([across, across.T], axis=-1)[:, :, None], np.zeros(2)])
    dense = next(layer for layer in model.layers if isinstance(layer, keras.layers.Dense))
    dense.set_weights([weights.reshape(-1, 2), np.array([0.25, -0.5])])
    return model


def striped(*corners: tuple[str, int, int]) -> np.ndarray:
    """Return noisy images with horizontal or vertical stripes at random positions."""
    images = np.random.default_rng(0).integers(0, 15, (1, SIZE, SIZE, 1), np.uint8)
    for direction, row, column in corners:
        lines = np.where(np.arange(PATCH) % 2, 0, 255)
        patch = lines[:, None] if direction == "horizontal" else lines[None, :]
        images[0, row : row + PATCH, column : column + PATCH, 0] = patch
    return images


def share_in(area: np.ndarray, row: int, column: int) -> float:
    """Return the share of a map's positive values in a patch and 3 pixels around it, as filters are 4 wide."""
    above = np.maximum(area, 0)
    rows, columns = slice(max(row - 3, 0), row + PATCH + 3), slice(max(column - 3, 0), column + PATCH + 3)
    return float(above[rows, columns].sum() / above.sum())


def lies_in(area: np.ndarray, row: int, column: int) -> bool:
    """Return whether the largest value of a map lies in a patch."""
    greatest = np.unravel_index(area.argmax(), area.shape)
    return bool(row <= greatest[0] < row + PATCH and column <= greatest[1] < column + PATCH)


@pytest.mark.parametrize("corner", [(0, 0), (0, SIZE - PATCH), (SIZE - PATCH, 0), (SIZE - PATCH, SIZE - PATCH)])
def test_exact_maps_find_the_planted_corner(corner: tuple[int, int]):
    """The map of each class highlights the corner with the stripes that the class reads."""
    opposite = (SIZE - PATCH - corner[0], SIZE - PATCH - corner[1])
    images = striped(("horizontal", *corner), ("vertical", *opposite))
    model = planted(reads="everywhere")
    layer, kernel = find_averaged_layer(model) or (None, None)
    assert layer is model.get_layer("stripes")
    [maps] = compute_outputs(model, [layer], images)
    axes = receptive_axes(model)[layer.name]
    for label, there, elsewhere in ((0, corner, opposite), (1, opposite, corner)):
        [found] = resize_to_image(class_activation(maps, kernel, np.array([label])), axes, (SIZE, SIZE))
        assert share_in(found, *there) > 0.8
        assert share_in(found, *elsewhere) < 0.15  # the edges of the other stripes
        assert lies_in(found, *there)


def test_the_mean_of_an_exact_map_is_the_score():
    """The mean of a map is the class's score without its bias, except for rounding."""
    model = planted(reads="everywhere")
    images = striped(("horizontal", 3, 5), ("vertical", 10, 1))
    layer, kernel = find_averaged_layer(model) or (None, None)
    maps, scores = compute_outputs(model, [layer, model.layers[-2]], images)
    for label, bias in ((0, 0.25), (1, -0.5)):
        mean = class_activation(maps, kernel, np.array([label])).mean()
        assert mean + bias == pytest.approx(scores[0, label], rel=1e-5)
        # If both have the same input, Grad-CAM equals CAM, apart from a factor and the negative values.
        gradient = grad_cam(model, layer, images, np.array([label]))
        places = maps.shape[1] * maps.shape[2]
        exact = np.maximum(class_activation(maps, kernel, np.array([label])), 0)
        np.testing.assert_allclose(gradient * places, exact, rtol=1e-4, atol=1e-5)


def test_grad_cam_finds_what_the_model_reads():
    """Grad-CAM highlights the stripes that the class reads, even if the prediction is certain."""
    model = planted(reads="corner")
    assert find_averaged_layer(model) is None
    [layer] = last_spatial_layers(model)
    assert layer is model.get_layer("stripes")
    images = striped(("horizontal", 0, 0), ("vertical", 14, 14))
    axes = receptive_axes(model)[layer.name]
    assert (
        compute_outputs(model, [model.layers[-1]], images)[0].max() == 1
    )  # nothing is left of a softmax' gradient
    [first] = resize_to_image(grad_cam(model, layer, images, np.array([0])), axes, (SIZE, SIZE))
    [second] = resize_to_image(grad_cam(model, layer, images, np.array([1])), axes, (SIZE, SIZE))
    assert share_in(first, 0, 0) > 0.8
    assert share_in(second, 14, 14) > 0.8


def test_a_softmax_in_the_last_layer_is_left_out_too():
    """The softmax is bypassed for the maps and restored afterwards."""
    model = build([CONV, "Flatten", {"type": "Dense", "units": 2, "activation": "softmax"}])
    before = [weight * 100 for weight in model.get_weights()]
    model.set_weights(before)
    images = striped(("horizontal", 3, 3))
    assert grad_cam(model, model.layers[1], images, np.array([0])).max() > 0
    assert grad_cam(model, model.layers[1], images, np.array([1])).max() > 0
    assert compute_outputs(model, [model.layers[-1]], images)[0].sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("layers", "exact", "last"),
    [
        ([CONV, "MaxPooling2D", CONV, "MaxPooling2D", {"type": "Dropout", "rate": 0.1}, "Flatten", *END], None, "conv2d_1"),
        ([CONV, "BatchNormalization", "ReLU", "MaxPooling2D", "Flatten", *END], None, "re_lu"),
        ([{"type": "Parallel", "branches": [[CONV], [CONV, CONV]]}, "MaxPooling2D", "Flatten", *END], None, "concatenate"),
        ([{"type": "Residual", "layers": [CONV, {**CONV, "filters": 1}]}, "Flatten", *END], None, "add"),
        ([CONV, {**CONV, "filters": 2, "kernel_size": 20, "padding": "valid"}, "Flatten", "Softmax"], None, "conv2d"),
        ([CONV, {**CONV, "filters": 2}, "GlobalAveragePooling2D", "Softmax"], "conv2d_1", "conv2d_1"),
        ([CONV, "GlobalAveragePooling2D", {"type": "Dense", "units": 9, "activation": "relu"}, *END], None, "conv2d"),
        ([CONV, "GlobalAveragePooling2D", {"type": "Dense", "units": 9}, *END], None, "conv2d"),
        ([CONV, "GlobalMaxPooling2D", *END], None, "conv2d"),
        ([{"type": "Residual", "layers": [CONV, {**CONV, "filters": 1}], "shortcut": []}, CONV, "Flatten", *END], None, "conv2d_2"),
        ([{"type": "Parallel", "merge": "Average", "branches": [[CONV, "MaxPooling2D", "Flatten", *END[:-1]], [CONV, CONV, "ReLU", "Flatten", *END[:-1]]]}, "Softmax"], None, "conv2d re_lu"),
        ([{"type": "Parallel", "merge": "Average", "branches": [["MaxPooling2D", "Flatten", *END[:-1]], ["Flatten", *END[:-1]]]}, "Softmax"], None, "max_pooling2d"),
        (["Flatten", *END], None, ""),
    ],
)  # fmt: skip
def test_the_layer_to_look_at(layers: list[Any], exact: str | None, last: str):
    """The layer is the one averaged into the scores, else the last large one that lies on all paths."""
    model = build(layers)
    found = find_averaged_layer(model)
    assert (found and found[0].name) == exact
    assert [layer.name for layer in last_spatial_layers(model)] == last.split()


def test_feature_maps_are_those_of_keras():
    """Each layer's output equals Keras', also in branches and with dropout as at inference."""
    chain = [CONV, "MaxPooling2D", "BatchNormalization", {"type": "Dropout", "rate": 0.5}, "Flatten", *END]
    images = striped(("horizontal", 3, 3), ("vertical", 9, 9)).repeat(3, axis=0)
    model = build(chain)
    x = images.astype(np.float32)
    for layer, found in zip(model.layers[1:], compute_outputs(model, model.layers[1:], images), strict=True):
        x = np.asarray(layer(x, training=False))
        np.testing.assert_array_equal(found, x)
    branches = build([{"type": "Parallel", "branches": [[CONV], [CONV, CONV]]}, "Flatten", *END])
    for layer in branches.layers[1:]:
        [found] = compute_outputs(branches, [layer], images)
        expected = keras.Model(branches.input, layer.output).predict(images, verbose=0)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_a_turned_map_is_turned_back():
    """If a layer swaps rows and columns, its map is still aligned with the image."""
    turned = build(
        [
            {"type": "Conv2D", "filters": 1, "kernel_size": [1, 1], "name": "first"},
            {"type": "Permute", "dims": [2, 1, 3]},
            "Flatten",
            *END,
        ],
        (6, 4, 1),
    )
    maps = np.zeros((1, 4, 6), np.float32)
    maps[0, 3, 1] = 1
    [found] = resize_to_image(maps, receptive_axes(turned)["permute"], (6, 4))
    assert np.unravel_index(found.argmax(), found.shape) == (1, 3)


@pytest.mark.slow
def test_a_trained_net_shows_where_the_classes_are_told_apart(cli: Cli, tmp_path: Path):
    """If classes differ in one corner only, the maps highlight that corner."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (600, SIZE, SIZE), np.uint8)
    labels = np.arange(600) % 2
    lines = np.where(np.arange(PATCH) % 2, 0, 255)
    images[labels == 0, :PATCH, -PATCH:] = lines[:, None]
    images[labels == 1, :PATCH, -PATCH:] = lines[None, :]
    np.savez(
        tmp_path / "data.npz", x_train=images[:500], y_train=labels[:500], x_test=images[500:], y_test=labels[500:]
    )
    layers = (
        "model.layers=[{type: Conv2D, filters: 8, kernel_size: 4, activation: relu},"
        "{type: Conv2D, filters: 2, kernel_size: 1}, GlobalAveragePooling2D, Softmax]"
    )
    done = cli(
        "data=npz", f"data.dir={tmp_path}", f"data.shape=[{SIZE},{SIZE},1]", "data.classes=2", layers,
        "training.epochs=4", "training.batch_size=16", "optimizer.learning_rate=0.02", "tracking=none",
    )  # fmt: skip
    assert done.run is not None
    assert done.result["test"]["accuracy"] > 0.95
    model: Any = keras.saving.load_model(done.run / "model.keras")
    layer, kernel = find_averaged_layer(model) or (None, None)
    [maps] = compute_outputs(model, [layer], images[500:, ..., None])
    found = class_activation(maps, kernel, labels[500:])
    found -= np.median(found)
    laid = resize_to_image(found, receptive_axes(model)[layer.name], (SIZE, SIZE))
    greatest = [np.unravel_index(one.argmax(), one.shape) for one in laid]
    assert np.mean([row < PATCH + 1 and column >= SIZE - PATCH - 1 for row, column in greatest]) > 0.95
