"""Compute probabilities, class activation and layer outputs for one image, in one traced call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mnist_exp.analysis.activations import (
    Floats,
    class_activation,
    class_scores,
    find_averaged_layer,
    last_spatial_layers,
    resize_to_image,
)
from mnist_exp.analysis.receptive_field import receptive_axes
from mnist_exp.data.dataset import Images


@dataclass(frozen=True)
class Responses:
    """A model's responses to an image."""

    probabilities: Floats
    """Shape (classes,); NaN or an infinity for a model that overflows."""
    evidence: Floats | None
    """The evidence for the most probable class, (height, width); None if no layer has rows and columns."""
    outputs: Sequence[Floats]
    """The output of each layer, without the batch axis."""


class TracedModel:
    """A model traced for one image at a time: a call takes a few milliseconds."""

    def __init__(self, model: keras.Model, layers: Sequence[keras.Layer]) -> None:
        """Trace the model.

        Args:
            model: A functional model from raw images to class probabilities.
            layers: The layers whose outputs are returned; not the one that returns the probabilities.
        """
        exact = find_averaged_layer(model)
        self.target = exact[0] if exact else next(iter(last_spatial_layers(model)), None)
        """The layer that the class activation map is computed at; None if no layer has rows and columns."""
        self.is_exact = exact is not None
        """Whether the maps are exact (CAM) rather than based on gradients (Grad-CAM)."""
        self._kernel = exact[1] if exact else None
        self._shape = model.input_shape[1:3]
        self._axes = receptive_axes(model)[self.target.name] if self.target is not None else {}
        self._compute = self._trace(model, layers)
        self(np.zeros(model.input_shape[1:], np.uint8))  # the first call is slow

    def _trace(self, model: keras.Model, layers: Sequence[keras.Layer]) -> Any:
        needs_gradient = self.target is not None and not self.is_exact
        targets = [self.target] if self.target is not None else []
        signature = [tf.TensorSpec([1, *model.input_shape[1:]], tf.float32)]
        with class_scores(model) as (scores, normalize):
            inner = keras.Model(model.input, [scores, *(layer.output for layer in [*targets, *layers])])

            def compute(pixels: Any) -> tuple[Any, Any, list[Any]]:
                if not needs_gradient:
                    found, *outputs = _listed(inner(pixels, training=False))
                    return normalize(found), outputs[: len(targets)], outputs[len(targets) :]
                with tf.GradientTape() as tape:
                    tape.watch(pixels)
                    found, maps, *outputs = _listed(inner(pixels, training=False))
                    best = tf.reduce_max(found, axis=1)
                gradients = tape.gradient(best, maps, unconnected_gradients=tf.UnconnectedGradients.ZERO)
                weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
                return normalize(found), [tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1))], outputs

            # Trace now: outside the block, the softmax is part of the layer again.
            return tf.function(compute, input_signature=signature, autograph=False).get_concrete_function()

    def __call__(self, image: Images) -> Responses:
        """Return the responses to raw pixels (height, width, channels)."""
        found, evidence, outputs = self._compute(tf.constant(image[np.newaxis], tf.float32))
        probabilities = np.asarray(found, np.float32)[0]
        return Responses(probabilities, self._evidence(evidence, probabilities), [_array(one) for one in outputs])

    def _evidence(self, computed: Sequence[Any], probabilities: Floats) -> Floats | None:
        if not computed:
            return None
        maps = _array(computed[0])[np.newaxis]
        if self.is_exact:
            maps = class_activation(maps, self._kernel, np.array([probabilities.argmax()]))
        resized: Floats = resize_to_image(maps, self._axes, self._shape)[0]
        return resized


def _listed(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]  # Keras unwraps a list of one


def _array(tensor: Any) -> Floats:
    """Return a tensor of one image as an array without the batch axis; NaN and infinities become numbers."""
    array: Floats = np.asarray(tensor, np.float32)[0]  # slicing a tensor would take 0.1 ms
    return array if np.isfinite(array).all() else np.nan_to_num(array)
