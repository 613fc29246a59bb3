"""A traced model's responses to one image."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mnist_exp.analysis.activations import compute_outputs, find_averaged_layer, grad_cam, resize_to_image
from mnist_exp.analysis.live_responses import TracedModel
from mnist_exp.analysis.receptive_field import receptive_axes
from mnist_exp.inference.scoring import predict

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 10, 1), dtype=np.uint8)


def build(kind: str) -> keras.Model:
    """Return a model that averages its last maps, or ends in dense layers, or has no layer with rows and columns."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    pixels = keras.Input(IMAGE.shape)
    last = pixels
    if kind != "dense":
        last = layers.Rescaling(1 / 255)(last)
        last = layers.Conv2D(4, 3, activation="relu", name="conv")(last)
        last = layers.MaxPooling2D(name="pool")(last)
    last = layers.GlobalAveragePooling2D()(last) if kind == "averaged" else layers.Flatten()(last)
    if kind == "softmax layer":
        return keras.Model(pixels, layers.Softmax()(layers.Dense(3, name="last")(last)))
    return keras.Model(pixels, layers.Dense(3, activation="softmax", name="last")(last))


@pytest.mark.parametrize("kind", ["averaged", "softmax activation", "softmax layer", "dense"])
def test_responses_equal_those_of_the_model(kind: str):
    """The probabilities and the layers' outputs are the model's, also when the softmax is part of the last layer."""
    model = build(kind)
    layers = [layer for layer in model.layers if layer.name in ("conv", "pool")]
    found = TracedModel(model, layers)(IMAGE)
    np.testing.assert_allclose(found.probabilities, predict(model, IMAGE[np.newaxis])[0], rtol=1e-5)
    for output, expected in zip(found.outputs, compute_outputs(model, layers, IMAGE[np.newaxis]), strict=True):
        np.testing.assert_allclose(output, expected[0], rtol=1e-4, atol=1e-5)
    assert model.layers[-1].get_config().get("activation", "softmax") == "softmax"


@pytest.mark.parametrize("kind", ["softmax activation", "softmax layer"])
def test_the_evidence_is_that_of_grad_cam(kind: str):
    """The map equals the one that `visualize` draws."""
    model = build(kind)
    traced = TracedModel(model, [])
    best = predict(model, IMAGE[np.newaxis]).argmax(axis=1)
    assert traced.target is not None
    assert not traced.is_exact
    maps = grad_cam(model, traced.target, IMAGE[np.newaxis], best)
    expected = resize_to_image(maps, receptive_axes(model)[traced.target.name], (12, 10))[0]
    np.testing.assert_allclose(traced(IMAGE).evidence, expected, rtol=1e-4, atol=1e-6)
    assert expected.any()


def test_the_evidence_of_averaged_maps_is_exact():
    """It is read off the maps and the last layer's weights, without a gradient."""
    model = build("averaged")
    traced = TracedModel(model, [])
    pair = find_averaged_layer(model)
    assert pair is not None
    assert traced.is_exact
    assert traced.target is pair[0]
    found = traced(IMAGE)
    assert found.evidence is not None
    assert found.evidence.shape == (12, 10)


def test_a_model_without_rows_and_columns_has_no_evidence():
    """The page then says so."""
    traced = TracedModel(build("dense"), [])
    assert traced.target is None
    assert traced(IMAGE).evidence is None
