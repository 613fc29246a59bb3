"""Random affine transforms of a batch, composed into one matrix and one resampling per image.

Terms, distributions and order of composition are those of Keras' `ImageDataGenerator`: rotation, shift, shear,
zoom about the image's centre, then flips. Two slips of that class (Keras 3.15) are not repeated: its
`width_shift_range` moves images vertically and its `height_shift_range` horizontally, and images that are not
square turn about a point beside their centre.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mnist_exp.config.schema import AugConfig
from mnist_exp.data.dataset import Images

Tensor = Any  # tf.Tensor; TensorFlow ships no types
Augment = Callable[[Tensor, Tensor], Tensor]


def make_augment(config: AugConfig, shape: tuple[int, int, int], seed: int) -> Augment | None:
    """A function of images (batch, height, width, channels), float32, and the step number (int64 scalar).

    The draws are a function of `seed` and the step alone. None where nothing is ever changed.
    """
    if config.is_identity:
        return None

    def augment(images: Tensor, step: Tensor) -> Tensor:
        parameters = draw(config, shape, tf.shape(images)[0], seed, step)
        return resample(images, matrices(parameters, shape), config)

    return augment


def draw(
    config: AugConfig, shape: tuple[int, int, int], count: Tensor, seed: int, step: Tensor
) -> dict[str, Tensor]:
    """Parameters of `count` transforms, each of shape (count,): `theta` and `shear` in radians, the shifts
    `tx` (horizontal) and `ty` in pixels, the zooms `zx` (horizontal) and `zy`, and the flips 0 or 1.
    """
    key = tf.stack([tf.constant(seed, tf.int64), tf.cast(step, tf.int64)])
    uniform = tf.unstack(tf.random.stateless_uniform([8, count], key), num=8)

    def symmetric(unit: Tensor, limit: float) -> Tensor:
        return (2 * unit - 1) * limit

    def shift(unit: Tensor, wanted: float | tuple[float, ...], size: int) -> Tensor:
        if isinstance(wanted, int) and wanted > 0:
            wanted = tuple(range(wanted))
        if isinstance(wanted, tuple):
            # One of the values, to either side: the unit interval is cut into 2 × n cells.
            signed = [sign * value for value in wanted for sign in (-1, 1)]
            cell = tf.minimum(tf.cast(unit * len(signed), tf.int32), len(signed) - 1)
            limit = max(wanted)
            pixels = tf.gather(tf.constant(signed, tf.float32), cell)
        else:
            limit = wanted
            pixels = symmetric(unit, wanted)
        return pixels * size if limit < 1 else pixels

    low, high = config.zoom
    height, width, _ = shape
    return {
        "theta": symmetric(uniform[0], math.radians(config.rotation_range)),
        "tx": shift(uniform[1], config.width_shift_range, width),
        "ty": shift(uniform[2], config.height_shift_range, height),
        "shear": symmetric(uniform[3], math.radians(config.shear_range)),
        "zx": low + (high - low) * uniform[4],
        "zy": low + (high - low) * uniform[5],
        "flip_horizontal": tf.cast(uniform[6] < (0.5 if config.horizontal_flip else 0.0), tf.float32),
        "flip_vertical": tf.cast(uniform[7] < (0.5 if config.vertical_flip else 0.0), tf.float32),
    }


def matrices(parameters: dict[str, Tensor], shape: tuple[int, int, int]) -> Tensor:
    """From an output pixel (x, y) to the input pixel it is read from: (count, 8), as TensorFlow's
    `ImageProjectiveTransformV3` takes them, (xx, xy, x offset, yx, yy, y offset, 0, 0).
    """
    p = parameters
    cos, sin = tf.cos(p["theta"]), tf.sin(p["theta"])
    shear_cos, shear_sin = tf.cos(p["shear"]), tf.sin(p["shear"])
    # rotation · shift · shear · zoom · flip, about the centre
    horizontal, vertical = p["zx"] * (1 - 2 * p["flip_horizontal"]), p["zy"] * (1 - 2 * p["flip_vertical"])
    xx, xy = cos * horizontal, (-cos * shear_sin - sin * shear_cos) * vertical
    yx, yy = sin * horizontal, (-sin * shear_sin + cos * shear_cos) * vertical
    height, width, _ = shape
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    offset_x = cos * p["tx"] - sin * p["ty"] + centre_x - xx * centre_x - xy * centre_y
    offset_y = sin * p["tx"] + cos * p["ty"] + centre_y - yx * centre_x - yy * centre_y
    zero = tf.zeros_like(cos)
    return tf.stack([xx, xy, offset_x, yx, yy, offset_y, zero, zero], axis=1)


def resample(images: Tensor, transforms: Tensor, config: AugConfig) -> Tensor:
    """Read each output pixel from where its matrix says, by bilinear interpolation."""
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=tf.shape(images)[1:3],
        fill_value=tf.constant(config.cval, tf.float32),
        interpolation="BILINEAR",
        fill_mode=config.fill_mode.upper(),
    )


def samples(config: AugConfig, images: Images, seed: int, count: int) -> list[Images]:
    """What augmentation makes of images, `count` times; for looking at."""
    augment = make_augment(config, images.shape[1:], seed)
    if augment is None:
        return [images] * count
    batch = tf.cast(images, tf.float32)
    drawn = [augment(batch, tf.constant(step, tf.int64)) for step in range(count)]
    return [np.rint(np.clip(images, 0, 255)).astype(np.uint8) for images in drawn]
