"""Knowledge distillation (Hinton, Vinyals and Dean, 2015): learn from the outputs of another model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from mnist_exp.config.schema import TrainConfig
from mnist_exp.model.build import POLICIES
from mnist_exp.model.preprocessing import is_preprocessing
from mnist_exp.model.saving import inner_layers
from mnist_exp.model.warm_start import load_donor
from mnist_exp.training.keras_logits import logits_of

_LEAST = 1e-30  # probability below which a logarithm is that of this number

Tensor = Any  # tf.Tensor; TensorFlow ships no types


def load_teacher(config: TrainConfig, precision: str) -> keras.Model | None:
    """Load the teacher, which takes raw pixels; None if the config has none. Raises `RequestError`.

    Args:
        config: A config that has passed `engine.keras_check.check`.
        precision: `float32` or `bfloat16`, for computations; preprocessing and output are float32.
    """
    return None if config.teacher is None else as_teacher(load_donor(Path(config.teacher)), precision)


def as_teacher(teacher: keras.Model, precision: str) -> keras.Model:
    """Change a loaded model so that it is not trained and computes in a precision, and return it."""
    teacher.trainable = False
    if precision != "float32":
        for layer in inner_layers(teacher):
            if _follows_precision(layer) and layer is not teacher.layers[-1]:
                layer.dtype_policy = keras.DTypePolicy(POLICIES[precision])
    return teacher


def _follows_precision(layer: keras.Layer) -> bool:
    """Return whether a layer may compute in another precision than float32, its own."""
    is_exact = is_preprocessing(layer) or isinstance(layer, (keras.layers.Softmax, keras.layers.Rescaling))
    return layer.dtype_policy.name == "float32" and not is_exact


def divergences(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Return the KL divergence of the student's softened outputs from the teacher's, for each image.

    Softened outputs are the softmax of the logits divided by the temperature. The outputs have the shape (batch,
    classes); the result has the shape (batch,) and is float32.
    """
    wanted, found = (tf.nn.log_softmax(_logits(outputs) / temperature) for outputs in (teacher, student))
    return tf.reduce_sum(tf.exp(wanted) * (wanted - found), axis=-1)


def _logits(outputs: Tensor) -> Tensor:
    """Return logits of class probabilities: those that Keras attached, or else the logarithms."""
    logits = logits_of(outputs)
    if logits is None:
        logits = tf.math.log(tf.maximum(tf.cast(outputs, tf.float32), _LEAST))
    return tf.cast(logits, tf.float32)
