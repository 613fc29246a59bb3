"""Models of plain Keras: preprocessing outside of the model is recognized, and logits are refused."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest

from mnist_exp.errors import RequestError
from mnist_exp.inference.outside_preprocessing import find_scaling
from mnist_exp.inference.scoring import inspect_classifier, predict, refuse_logits

# The class of an image is the place of its one white pixel.
IMAGES = (255 * np.eye(4, dtype=np.uint8)).reshape(4, 2, 2, 1).repeat(5, axis=0)


def classifier(factor: float, *inside: keras.Layer, activation: str | None = "softmax") -> keras.Model:
    """A model of pixels from 0 to 1, or to 1 / factor."""
    dense = keras.layers.Dense(4, activation=activation)
    model = keras.Sequential([keras.Input((2, 2, 1)), *inside, keras.layers.Flatten(), dense])
    weights = 4 * np.eye(4)
    weights[:, 0] -= 3.9  # on -1…1, the background counts for the first class
    dense.set_weights([factor * weights, np.zeros(4)])
    return model


def follow(advice: str, model: keras.Model) -> keras.Model:
    """Return what the expression in a message creates."""
    found = re.search(r"keras\.Sequential\(.*\]\)", advice)
    assert found is not None
    made: keras.Model = eval(found[0], {"keras": keras, "model": model})
    return made


def test_preprocessing_outside_of_a_model_is_recognized():
    """Following the advice makes it part of the model."""
    model = classifier(1)
    remark = find_scaling(model, IMAGES)
    assert "0…1" in remark
    whole = follow(remark, model)
    assert find_scaling(whole, IMAGES) == ""
    np.testing.assert_allclose(predict(whole, IMAGES), predict(model, IMAGES / np.float32(255)), atol=1e-6)


def test_images_of_one_class_are_enough():
    """A folder of images to classify may have no others."""
    assert "0…1" in find_scaling(classifier(1), IMAGES[-1:])


def test_few_images_do_not_tell_ranges_apart():
    """If a model is confident on both, both are named, and the advice is for the usual one."""
    dense = keras.layers.Dense(4, activation="softmax")
    model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), dense])
    dense.set_weights([4 * np.eye(4), np.zeros(4)])
    few, many = (find_scaling(model, images) for images in (IMAGES[-1:], IMAGES))
    assert "0…1 or -1…1" in few
    assert "Rescaling(0.0039215686, 0)" in few
    assert " or " not in many


@pytest.mark.parametrize("of_raw_pixels", [True, False])
def test_models_of_raw_pixels_are_not_suspected(of_raw_pixels: bool):
    """Whether they were trained on raw pixels, or scale them themselves."""
    model = classifier(1 / 255) if of_raw_pixels else classifier(1, keras.layers.Rescaling(1 / 255))
    assert find_scaling(model, IMAGES) == ""
    assert find_scaling(model, IMAGES[-1:]) == ""


def test_logits_are_refused_alike():
    """With the same sentence in all commands, whose advice works."""
    logits = classifier(1 / 255, activation=None)
    with pytest.raises(RequestError) as first:
        inspect_classifier(logits, "m.keras")
    with pytest.raises(RequestError) as second:
        refuse_logits(logits, "m.keras")
    assert str(first.value) == str(second.value)
    assert inspect_classifier(follow(str(first.value), logits), "m.keras") == ((2, 2, 1), 4)
