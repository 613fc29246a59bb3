"""Keras' own image-augmentation layers, as `aug.layers` lists them, and their random draws."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from mnist_exp.keras_spec.layer_types import ArgumentError
from mnist_exp.model.keras_errors import first_sentence
from mnist_exp.model.layers import make_layer

# More than any layer draws in a step.
_DRAWS_PER_STEP = 256


def make_layers(entries: tuple[Any, ...]) -> list[keras.Layer]:
    """The layers of `aug.layers`, computing in float32; a `null` entry is left out. Raises `ArgumentError`."""
    return [make_augmentation(entry) for entry in entries if entry is not None]


def make_augmentation(entry: Any) -> keras.Layer:
    """The layer of an entry whose names were checked. Raises `ArgumentError` for values it does not take."""
    layer = make_layer(entry)
    layer.dtype_policy = keras.DTypePolicy("float32")
    return layer


def try_augmentation(layer: keras.Layer, shape: tuple[int, ...]) -> None:
    """Let a layer change two images of a shape. Raises `ArgumentError` where it cannot."""
    kind = type(layer).__name__
    try:
        changed = change(layer, np.full((2, *shape), 128, np.float32))
    except Exception as error:  # whatever Keras raises: it is about to be asked in earnest
        size = "×".join(map(str, shape))
        raise ArgumentError(f"{kind} does not fit images of {size}: {first_sentence(error)}") from error
    if tuple(changed.shape) != (2, *shape):
        raise ArgumentError(f"{kind} makes images of another size: {'×'.join(map(str, changed.shape[1:]))}")


def change(layer: keras.Layer, images: Any) -> Any:
    """What a layer makes of images (batch, height, width, channels), 0…255."""
    if isinstance(layer, keras.layers.GaussianNoise):  # its deviation is one of values 0…1
        return layer(images / 255, training=True) * 255
    return layer(images, training=True)


def seed_layer(layer: keras.Layer, seed: int, index: int, step: Any) -> None:
    """Make the layer's next draws a function of `seed`, its `index` in the list, and `step` (int64 scalar)."""
    states = [variable for variable in layer.variables if variable.path.endswith("seed_generator_state")]
    for number, state in enumerate(states):
        word = int(np.random.SeedSequence([seed, index, number]).generate_state(1)[0])
        count = keras.ops.cast(step, state.dtype) * _DRAWS_PER_STEP
        state.assign(keras.ops.stack([keras.ops.cast(word, state.dtype), count]))
