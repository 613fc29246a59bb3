"""Faster operations for a model's layers and optimizer during training.

The model and its files do not change: names, weights and (except for rounding) results are those of Keras' layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import tensorflow as tf

from mnist_exp import registrations
from mnist_exp.model.keras_graph import Graph
from mnist_exp.training.keras_optimizer import FUSED_OPTIMIZERS

Tensor = Any  # tf.Tensor; TensorFlow ships no types

MONOTONIC = frozenset(
    ("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "sigmoid", "hard_sigmoid", "log_sigmoid", "tanh",
     "hard_tanh", "softplus", "softsign")
)  # fmt: skip
"""Activations that never decrease: they can be applied before or after max pooling, with the same result.

Piecewise linear ones give the same bits. The others decrease at some places by a rounding error.
"""


@contextmanager
def use_fused_layers(model: keras.Model) -> Iterator[None]:
    """Replace the operations of a model's layers and optimizer with faster equivalents.

    The model is restored at the end of the block. Functions traced inside it keep the faster operations.
    """
    graph = Graph(model)
    with ExitStack() as restore:

        def replace_class(target: Any, faster: type) -> None:
            restore.callback(setattr, target, "__class__", type(target))
            target.__class__ = faster

        for layer in model.layers:
            if _fits_fused_kernel(layer):
                replace_class(layer, FusedBatchNormalization)
            elif (before := _layer_to_activate(layer, graph)) is not None:
                replace_class(layer, ActivatedMaxPooling2D)
                restore.callback(setattr, before, "activation", before.activation)
                restore.callback(delattr, layer, "activation")
                layer.activation, before.activation = before.activation, keras.activations.linear
        if type(model.optimizer) in FUSED_OPTIMIZERS and not model.optimizer.amsgrad:
            replace_class(model.optimizer, FUSED_OPTIMIZERS[type(model.optimizer)])
        yield


class FusedBatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]
    """Batch normalization of (batch, height, width, channels) with one operation forward and one backward.

    Keras uses about twenty operations, in float32 whatever the layer's precision; they took 60 % of a step.
    The statistics are float32 here as well.
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
        """Compute the same result as Keras' layer. The mask is ignored, because image layers produce none."""
        learns = bool(training and self.trainable)
        channels = inputs.shape[-1]
        output = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma) if self.scale else tf.ones([channels]),
            offset=tf.convert_to_tensor(self.beta) if self.center else tf.zeros([channels]),
            mean=tf.zeros([0]) if learns else tf.convert_to_tensor(self.moving_mean),
            variance=tf.zeros([0]) if learns else tf.convert_to_tensor(self.moving_variance),
            epsilon=self.epsilon,
            is_training=learns,
        )
        if learns:
            # TensorFlow divides the variance by n - 1, Keras by n.
            count = tf.cast(tf.size(inputs) // channels, tf.float32)
            variance = output.batch_variance * (count - 1) / count
            for moving, found in ((self.moving_mean, output.batch_mean), (self.moving_variance, variance)):
                moving.assign(moving * self.momentum + found * (1 - self.momentum))
        return output.y


def _fits_fused_kernel(layer: keras.Layer) -> bool:
    return (
        type(layer) is keras.layers.BatchNormalization
        and layer.trainable  # on GPUs, a frozen layer has no deterministic gradient
        and layer.input.ndim == 4
        and layer.axis in (3, -1)
        and layer.compute_dtype in ("float32", "bfloat16")
        and not (layer.synchronized or layer.renorm)
    )


class ActivatedMaxPooling2D(keras.layers.MaxPooling2D):  # type: ignore[misc]
    """Max pooling followed by the previous layer's activation, which then has fewer values to compute."""

    activation: Any

    def call(self, inputs: Tensor) -> Tensor:
        """Compute the same values as pooling after the activation."""
        return self.activation(super().call(inputs))


def _layer_to_activate(pooling: keras.Layer, graph: Graph) -> keras.Layer | None:
    """Return the layer before a max pooling if its activation can be computed after the pooling, else None.

    The activation must be monotonic, and no other layer may use its values.
    """
    before = graph.input_of(pooling) if type(pooling) is keras.layers.MaxPooling2D else None
    fits = (
        before is not None
        and registrations.find("layer", type(before).__name__) is None  # it may not apply its activation last
        and getattr(getattr(before, "activation", None), "__name__", None) in MONOTONIC
        and graph.is_sole_consumer(pooling, before)
        and before.compute_dtype == pooling.compute_dtype
        and before.activity_regularizer is None
    )
    return before if fits else None
