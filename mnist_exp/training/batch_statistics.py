"""Re-estimate the moving statistics of batch normalization for averaged weights.

The statistics that training collects belong to the weights before averaging. With them, an average over many steps
is at chance level as long as the weights still change quickly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mnist_exp.config.schema import TrainConfig
from mnist_exp.data.dataset import Part
from mnist_exp.training.augment import make_augment

IMAGES = 4096
"""The largest number of images that the statistics are estimated from."""

Tensor = Any  # tf.Tensor; TensorFlow ships no types


def compile_statistics(model: keras.Model, train: Part, config: TrainConfig) -> Callable[[], None]:
    """Compile a function that estimates the statistics of batch normalization for the model's current weights.

    They are the means over the first batches of the first epoch, computed as in training: with dropout and, unless
    `aug.until` ends it before training ends, with augmentation. They depend only on the weights and the state of
    the random layers. The function does nothing if no weights are averaged, or no batch normalization is trained.
    """
    layers = [layer for layer in model.layers if _collects_statistics(layer)]
    if not config.training.averages or not layers:
        return lambda: None
    size = min(config.training.batch_size, len(train))
    count = max(1, min(IMAGES, len(train)) // size)
    order = np.random.default_rng([config.seed, 0]).permutation(len(train))[: count * size]
    batches = train.images[order].reshape(count, size, *train.images.shape[1:])
    augment = make_augment(config.aug, config.data.shape, config.seed) if config.aug.until is None else None

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[
            tf.TensorSpec(batches.shape[1:], tf.uint8),
            tf.TensorSpec([], tf.int64),
            tf.TensorSpec([], tf.float32),
        ],
        autograph=False,
    )
    def observe(images: Tensor, step: Tensor, momentum: Tensor) -> None:
        """Update the statistics. The layers' momentum is replaced only while this function is traced."""
        batch = tf.cast(images, tf.float32)
        if augment is not None:
            batch = augment(batch, step)
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.momentum = momentum
        model(batch, training=True)
        for layer, kept in zip(layers, momenta, strict=True):
            layer.momentum = kept

    def estimate() -> None:
        for step, images in enumerate(batches):
            # With this momentum, the moving average is the mean of all batches so far.
            observe(tf.constant(images), tf.constant(step, tf.int64), tf.constant(step / (step + 1), tf.float32))

    return estimate


def _collects_statistics(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
