"""Recognize a model that lacks its preprocessing: it was trained on scaled pixels, but is given raw ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from mnist_exp.data.dataset import Images
from mnist_exp.inference.scoring import predict

_SCALINGS: Mapping[str, tuple[float, float]] = {"0…1": (1 / 255, 0.0), "-1…1": (1 / 127.5, -1.0)}
"""The factor and the offset by which pixels are scaled, by the range that results."""
_SOME = 64  # images
_TELLING = 8  # minimum number of images for choosing between the two ranges by confidence
_SURE = 0.5  # minimum mean confidence on scaled pixels; about 1 / classes if the model was trained on raw ones
_ALIKE = 0.5  # share of images whose class is the same with and without scaling
_SEEN = 0.1  # minimum mean difference of a class's probability between a scaled image and a black one


def find_scaling(model: keras.Model, images: Images) -> str:
    """Return a warning if a model recognizes a sample of images when they are scaled; empty if it does not.

    A model trained on raw pixels does not: scaled images look almost black to it.

    Args:
        model: A model from images to class probabilities.
        images: Raw pixels, 0…255.
    """
    some = images[np.linspace(0, len(images) - 1, min(_SOME, len(images))).astype(int)]
    classes = predict(model, some).argmax(axis=1)
    # Any, because `predict` takes floats, too.
    with_black: Any = np.concatenate([some, np.zeros_like(some[:1])]).astype(np.float32)
    confidence: dict[str, float] = {}
    for name, (factor, offset) in _SCALINGS.items():
        *scaled, black = predict(model, with_black * np.float32(factor) + np.float32(offset))
        sure, chosen = float(np.max(scaled, axis=1).mean()), np.argmax(scaled, axis=1)
        seen = float(np.abs(scaled - black).max(axis=1).mean())
        if sure > _SURE and seen >= _SEEN and (chosen == classes).mean() >= _ALIKE:
            confidence[name] = sure
    if not confidence:
        return ""
    # With few images, confidence is not reliable: name both ranges, the usual one first.
    best = max(confidence, key=lambda name: confidence[name]) if len(some) >= _TELLING else next(iter(confidence))
    others = [name for name in confidence if name != best] if len(some) < _TELLING else []
    named = " or ".join([best, *others])
    factor, offset = _SCALINGS[best]
    return (
        f"the model was probably trained on pixels of {named}, but is given 0…255, as its preprocessing is not "
        f"part of it; keras.Sequential([keras.Input({model.input_shape[1:]}), "
        f"keras.layers.Rescaling({factor:.8g}, {offset:g}), model]) adds it"
    )
