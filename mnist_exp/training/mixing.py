"""Mix the images and the targets of a batch: MixUp (Zhang et al., 2018) and CutMix (Yun et al., 2019).

Keras' own layers are not used. In Keras 3.15, `CutMix` weighs labels by the area of its box before the box is
rounded to pixels, which is wrong by up to 0.23 for images of 8×8 pixels, and takes no parameter above 1. `MixUp`
draws wrong shares if its parameter is small: with 0.01, 18 % are exactly 0.5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mnist_exp.config.schema import AugConfig

Tensor = Any  # tf.Tensor; TensorFlow ships no types
Mix = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

_STREAM = 1  # separates these random draws from those of other augmentation


def make_mix(config: AugConfig, seed: int) -> Mix | None:
    """Return a function that mixes a batch, or None if `config` mixes nothing.

    The function takes images (batch, height, width, channels) and one-hot targets (batch, classes), both float32,
    and the step number (int64 scalar). Its random draws depend only on `seed` and the step. Each image is mixed
    with the one before it: the order of an epoch is random, so this is a random partner.
    """
    if not config.mixes:
        return None
    word = int(np.random.SeedSequence([seed, _STREAM]).generate_state(1, np.uint64)[0] >> 1)

    def mix(images: Tensor, targets: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        kept = draw_kept(
            config, images.shape[1:3], tf.shape(images)[0], tf.stack([tf.constant(word, tf.int64), step])
        )
        share = tf.reduce_mean(kept, axis=[1, 2, 3])[:, None]
        return _blend(images, kept), _blend(targets, share)

    return mix


def draw_kept(config: AugConfig, size: tuple[int, int], count: Tensor, key: Tensor) -> Tensor:
    """Draw how much each pixel of an image keeps of its value, from 0 to 1; the rest comes from its partner.

    With both methods, half of the images are mixed by each.

    Args:
        config: The parameters `mixup` and `cutmix`, of which at least one is positive.
        size: The height and width of the images.
        count: The number of images.
        key: The random key, two integers.

    Returns:
        Shape (batch, height, width, 1) or, with MixUp alone, (batch, 1, 1, 1).
    """
    keys = tf.unstack(tf.random.split(key, num=4))
    if not config.cutmix:
        return _beta(config.mixup, count, keys[0])[:, None, None, None]
    side = tf.sqrt(1 - _beta(config.cutmix, count, keys[1]))[:, None]  # as a fraction of the image's
    centres = tf.random.stateless_uniform([2, count, 1], keys[2])
    rows, columns = (
        tf.abs((np.arange(pixels, dtype=np.float32) + 0.5) / pixels - centre) < side / 2
        for pixels, centre in zip(size, (centres[0], centres[1]), strict=True)
    )
    outside = 1 - tf.cast(rows[:, :, None, None] & columns[:, None, :, None], tf.float32)
    if not config.mixup:
        return outside
    is_mixup = tf.random.stateless_uniform([count, 1, 1, 1], keys[3]) < 0.5
    return tf.where(is_mixup, _beta(config.mixup, count, keys[0])[:, None, None, None], outside)


def _beta(alpha: float, count: Tensor, key: Tensor) -> Tensor:
    """Draw `count` numbers from the Beta distribution with both parameters equal to `alpha`.

    It is the share of one of two gamma variables in their sum. These are computed as logarithms, because float32
    cannot represent the small values that a small `alpha` leads to.
    """
    of_gamma, of_power = tf.unstack(tf.random.split(key, num=2))
    gamma = tf.random.stateless_gamma([2, count], of_gamma, alpha + 1)
    logarithms = tf.math.log(gamma) + tf.math.log1p(-tf.random.stateless_uniform([2, count], of_power)) / alpha
    return tf.sigmoid(logarithms[0] - logarithms[1])


def _blend(values: Tensor, kept: Tensor) -> Tensor:
    return kept * values + (1 - kept) * tf.roll(values, 1, axis=0)
