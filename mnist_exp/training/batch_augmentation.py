"""Augment the batches of a training run, until the step at which the config ends augmentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mnist_exp.config.schema import TrainConfig
from mnist_exp.training.augment import make_augment

Tensor = Any  # tf.Tensor; TensorFlow ships no types


def count_augmented_steps(config: TrainConfig, steps: int) -> int:
    """Return how many of a run's steps are augmented, counted from its first; `aug.until` ends augmentation."""
    return steps if config.aug.until is None else round(config.aug.until * steps)


def make_batch_augment(config: TrainConfig, steps: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function that augments a batch of a run with `steps` steps.

    It takes images (batch, height, width, channels), float32, and the step number (int64 scalar).
    """
    augment = make_augment(config.aug, config.data.shape, config.seed)
    stop = count_augmented_steps(config, steps)

    def augment_until(images: Tensor, step: Tensor) -> Tensor:
        if augment is None:
            return images
        if stop == steps:
            return augment(images, step)
        return tf.cond(step < stop, lambda: augment(images, step), lambda: images)

    return augment_until
