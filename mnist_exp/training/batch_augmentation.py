"""Augment the batches of a training run, until the step at which the config ends augmentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mnist_exp.config.schema import TrainConfig
from mnist_exp.training.augment import make_augment
from mnist_exp.training.mixing import make_mix

Tensor = Any  # tf.Tensor; TensorFlow ships no types


def count_augmented_steps(config: TrainConfig, steps: int) -> int:
    """Return how many of a run's steps are augmented, counted from its first; `aug.until` ends augmentation."""
    return steps if config.aug.until is None else round(config.aug.until * steps)


def make_batch_augment(
    config: TrainConfig, steps: int
) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return a function that augments a batch of a run with `steps` steps: its images, then mixtures of them.

    It takes images (batch, height, width, channels), float32, their targets, and the step number (int64 scalar).
    """
    augment = make_augment(config.aug, config.data.shape, config.seed)
    mix = make_mix(config.aug, config.seed)
    stop = count_augmented_steps(config, steps)

    def always(images: Tensor, targets: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        if augment is not None:
            images = augment(images, step)
        return (images, targets) if mix is None else mix(images, targets, step)

    def until(images: Tensor, targets: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        mixed: tuple[Tensor, Tensor] = tf.cond(
            step < stop, lambda: always(images, targets, step), lambda: (images, targets)
        )
        return mixed

    return always if stop == steps or config.aug.is_identity else until
