"""Keras' own image augmentation layers (`aug.layers`) and their random draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from mnist_exp.keras_spec.layer_specs import LayerSpec, Spec
from mnist_exp.model.keras_errors import ArgumentError, first_sentence
from mnist_exp.model.layers import make_layer

# An upper bound on the random draws of a layer in one step.
_DRAWS_PER_STEP = 256


def make_layers(specs: Sequence[Spec]) -> list[keras.Layer]:
    """Create the layers of `aug.layers`. Raises `ArgumentError`."""
    return [make_augmentation(spec) for spec in specs if isinstance(spec, LayerSpec)]


def make_augmentation(spec: LayerSpec) -> keras.Layer:
    """Create an augmentation layer in float32. Raises `ArgumentError` for values that Keras rejects."""
    layer = make_layer(spec)
    layer.dtype_policy = keras.DTypePolicy("float32")
    return layer


def try_augmentation(layer: keras.Layer, shape: tuple[int, ...]) -> None:
    """Apply a layer to two images of a shape. Raises `ArgumentError` if that fails or changes their size."""
    kind = type(layer).__name__
    try:
        changed = change(layer, np.full((2, *shape), 128, np.float32))
    except Exception as error:  # any type: without this check, the error would be raised in training
        size = "×".join(map(str, shape))
        raise ArgumentError(f"{kind} cannot process images of {size}: {first_sentence(error)}") from error
    if tuple(changed.shape) != (2, *shape):
        raise ArgumentError(f"{kind} changes the size of images to {'×'.join(map(str, changed.shape[1:]))}")


def change(layer: keras.Layer, images: Any) -> Any:
    """Apply a layer to images (batch, height, width, channels) with values from 0 to 255.

    Noise is clipped: Keras' `GaussianNoise` is meant for features and does not clip, but all other layers that
    `aug.layers` accepts do, and image files have no pixels below black or above white. In `model.layers`, where it
    adds noise to features, `GaussianNoise` behaves as in Keras.
    """
    if isinstance(layer, keras.layers.GaussianNoise):  # its `stddev` is for values from 0 to 1
        return keras.ops.clip(layer(images / 255, training=True) * 255, 0, 255)
    return layer(images, training=True)


def seed_layer(layer: keras.Layer, seed: int, index: int, step: Any) -> None:
    """Make the layer's next draws depend only on `seed`, its `index` in the list, and `step` (int64 scalar)."""
    states = [variable for variable in layer.variables if variable.path.endswith("seed_generator_state")]
    for number, state in enumerate(states):
        word = int(np.random.SeedSequence([seed, index, number]).generate_state(1)[0])
        count = keras.ops.cast(step, state.dtype) * _DRAWS_PER_STEP
        state.assign(keras.ops.stack([keras.ops.cast(word, state.dtype), count]))
