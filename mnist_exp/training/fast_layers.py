"""Cheaper ways to compute the same, for the layers of a model that is being trained.

What a model is, and what is saved of it, does not change: names, weights and results (up to rounding) are those of
Keras' own layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import tensorflow as tf

Tensor = Any  # tf.Tensor; TensorFlow ships no types

MONOTONIC = frozenset(
    ("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "sigmoid", "hard_sigmoid", "log_sigmoid", "tanh",
     "hard_tanh", "softplus", "softsign")
)  # fmt: skip
"""Activations that never decrease: the greatest value of a window is the same before and after them."""


@contextmanager
def fused(model: keras.Model) -> Iterator[None]:
    """Let a model's layers and its optimizer compute the same by cheaper operations, where there are such.

    Afterwards it is as it was. What is compiled meanwhile stays cheap.
    """
    with ExitStack() as afterwards:

        def become(thing: Any, cheaper: type) -> None:
            afterwards.callback(setattr, thing, "__class__", type(thing))
            thing.__class__ = cheaper

        for layer in model.layers:
            if _fits_fused_kernel(layer):
                become(layer, FusedBatchNormalization)
            elif _can_activate(layer):
                become(layer, ActivatedMaxPooling2D)
                before = layer.input._keras_history.operation
                afterwards.callback(setattr, before, "activation", before.activation)
                afterwards.callback(delattr, layer, "activation")
                layer.activation, before.activation = before.activation, keras.activations.linear
        if _fits_fused_update(model.optimizer):
            become(model.optimizer, FUSED_OPTIMIZERS[type(model.optimizer)])
        yield


class FusedBatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]
    """Batch normalization of (batch, height, width, channels) in one operation each way.

    Keras composes it of about twenty, in float32 whatever the layer computes in; that was 60 % of the time of a
    step of a batch-norm net. The statistics are float32 here as well.
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
        """As in Keras' own; masks do not occur in a list of image layers."""
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
            # TensorFlow's variance is that of n - 1, Keras' that of n.
            count = tf.cast(tf.size(inputs) // channels, tf.float32)
            variance = output.batch_variance * (count - 1) / count
            for moving, found in ((self.moving_mean, output.batch_mean), (self.moving_variance, variance)):
                moving.assign(moving * self.momentum + found * (1 - self.momentum))
        return output.y


def _fits_fused_kernel(layer: keras.Layer) -> bool:
    return (
        type(layer) is keras.layers.BatchNormalization
        and layer.trainable  # on GPUs, what is frozen has no deterministic gradient
        and layer.input.ndim == 4
        and layer.axis in (3, -1)
        and layer.compute_dtype in ("float32", "bfloat16")
        and not (layer.synchronized or layer.renorm)
    )


class ActivatedMaxPooling2D(keras.layers.MaxPooling2D):  # type: ignore[misc]
    """Max pooling and then the activation of the layer before it, on fewer values."""

    activation: Any

    def call(self, inputs: Tensor) -> Tensor:
        """The same as pooling what was activated."""
        return self.activation(super().call(inputs))


def _can_activate(pooling: keras.Layer) -> bool:
    """Whether the layer before a pooling has a monotonic activation, and nothing else takes its output."""
    if type(pooling) is not keras.layers.MaxPooling2D:
        return False
    before = pooling.input._keras_history.operation
    return (
        getattr(getattr(before, "activation", None), "__name__", None) in MONOTONIC
        and len(before._outbound_nodes) == len(before._inbound_nodes) == len(pooling._inbound_nodes) == 1
        and before.compute_dtype == pooling.compute_dtype
        and before.activity_regularizer is None
    )


class FusedAdam(keras.optimizers.Adam):  # type: ignore[misc]
    """Adam's update of a variable in one operation instead of twelve, each of which goes through memory."""

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        """By the same formula."""
        index = self._get_variable_index(variable)
        step = tf.cast(tf.convert_to_tensor(self.iterations) + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(tf.constant(self.beta_1, variable.dtype), step),
            beta2_power=tf.pow(tf.constant(self.beta_2, variable.dtype), step),
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=float(self.beta_1),
            beta2=float(self.beta_2),
            epsilon=float(self.epsilon),
            grad=tf.cast(gradient, variable.dtype),
        )


class FusedAdamW(FusedAdam, keras.optimizers.AdamW):  # type: ignore[misc]
    """The same, after Keras' own decay of the weights."""


FUSED_OPTIMIZERS = {keras.optimizers.Adam: FusedAdam, keras.optimizers.AdamW: FusedAdamW}


def _fits_fused_update(optimizer: keras.Optimizer) -> bool:
    return type(optimizer) in FUSED_OPTIMIZERS and not optimizer.amsgrad
