"""Modify the internals of Keras' optimizers. Only this module relies on their private members.

`tests/training/test_keras_optimizer.py` fails first if a new version of Keras renames or changes them.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

Tensor = Any  # tf.Tensor; TensorFlow ships no types


def skip_gradient_reduction(optimizer: keras.Optimizer) -> None:
    """Make an optimizer use gradients as they are, without summing them over devices.

    There is only one device, and TensorFlow would keep the graph that Keras traces for the sum until the process
    ends.
    """
    optimizer._all_reduce_sum_gradients = list


class FusedAdam(keras.optimizers.Adam):  # type: ignore[misc]
    """Adam with one operation per variable instead of twelve that each read and write memory."""

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        """Update a variable with Keras' formula."""
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
    """AdamW with one operation per variable, after Keras' own weight decay."""


FUSED_OPTIMIZERS = {keras.optimizers.Adam: FusedAdam, keras.optimizers.AdamW: FusedAdamW}
