"""Augment batches: affine and elastic transforms in a single resampling per image, then Keras' own layers.

Terms, distributions and order of composition follow Keras' `ImageDataGenerator`: rotation, shift, shear and zoom
about the image's centre, then flips. `fill_mode` and `cval` have the same meaning as there and in SciPy's
`affine_transform`: `constant` does not blend the border with `cval`, and in `wrap`, the first and
last pixels of adjacent copies coincide. Two bugs of that class in Keras 3.15 are not reproduced: it swaps
`width_shift_range` and `height_shift_range`, and rotates non-square images about a point that is not their centre.

Elastic distortion follows Simard, Steinkraus and Platt (2003): uniform random displacements are smoothed with a
Gaussian of `elastic_sigma` pixels and multiplied by `elastic_alpha`. Keras' own `RandomElasticTransform` is not
used because it moves pixels only along the diagonal (Keras 3.15 draws both directions from one seed).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mnist_exp.config.schema import AugConfig
from mnist_exp.data.dataset import Images
from mnist_exp.training.keras_augment import change, make_layers, seed_layer
from mnist_exp.training.mixing import make_mix

Tensor = Any  # tf.Tensor; TensorFlow ships no types
Augment = Callable[[Tensor, Tensor], Tensor]


def make_augment(config: AugConfig, shape: tuple[int, int, int], seed: int) -> Augment | None:
    """Return a function that augments a batch, or None if `config` changes nothing.

    The function takes images (batch, height, width, channels), float32, and the step number (int64 scalar). Its
    random draws depend only on `seed` and the step.
    """
    if not config.resamples and not config.layers.specs:
        return None
    layers = make_layers(config.layers.specs)

    def augment(images: Tensor, step: Tensor) -> Tensor:
        count = tf.shape(images)[0]
        if config.resamples:
            transforms = matrices(draw(config, shape, count, seed, step), shape)
            if config.elastic_alpha:
                images = warp(images, transforms, displacements(config, shape, count, seed, step), config)
            else:
                images = resample(images, transforms, config)
        for index, layer in enumerate(layers):
            seed_layer(layer, seed, index, step)
            images = change(layer, images)
        return images

    return augment


def draw(
    config: AugConfig, shape: tuple[int, int, int], count: Tensor, seed: int, step: Tensor
) -> dict[str, Tensor]:
    """Draw the parameters of `count` transforms.

    Returns:
        Tensors of shape (count,): the angles `theta` and `shear` in radians, the shifts `tx` (horizontal) and `ty`
        in pixels, the zoom factors `zx` (horizontal) and `zy`, and `flip_horizontal` and `flip_vertical` (0 or 1).
    """
    key = tf.stack([tf.constant(seed, tf.int64), tf.cast(step, tf.int64)])
    uniform = tf.unstack(tf.random.stateless_uniform([8, count], key), num=8)

    def symmetric(unit: Tensor, limit: float) -> Tensor:
        return (2 * unit - 1) * limit

    def shift(unit: Tensor, wanted: float | tuple[float, ...], size: int) -> Tensor:
        if isinstance(wanted, int) and wanted > 0:
            wanted = tuple(range(wanted))
        if isinstance(wanted, tuple):
            # Pick a value and a sign: the unit interval is divided into 2 × n cells.
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
    """Compute the matrices that map an output pixel (x, y) to the input pixel it is read from.

    Returns:
        Shape (count, 8), in the layout of TensorFlow's `ImageProjectiveTransformV3`: xx, xy, x offset, yx, yy,
        y offset, 0, 0.
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
    """Resample images with bilinear interpolation, given one matrix per image."""
    height, width = images.shape[1:3]
    if config.fill_mode == "wrap":  # TensorFlow's period differs from SciPy's
        return warp(images, transforms, tf.zeros([1, height, width, 2]), config)
    resampled = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=tf.shape(images)[1:3],
        fill_value=tf.constant(config.cval, tf.float32),
        interpolation="BILINEAR",
        fill_mode=config.fill_mode.upper(),
    )
    resampled = tf.ensure_shape(resampled, [None, *images.shape[1:]])  # the operation loses the static shape
    if config.fill_mode != "constant":
        return resampled
    x, y = tf.range(width, dtype=tf.float32)[None, None, :], tf.range(height, dtype=tf.float32)[None, :, None]
    to_centre = tf.constant([0, 0, (width - 1) / 2, 0, 0, (height - 1) / 2, 0, 0], tf.float32)
    return fill_outside(resampled, *sources(transforms - to_centre, x, y), config)


def sources(transforms: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coordinates (x, y) that output pixels are read from, each of shape (count, height, width).

    Args:
        transforms: One matrix per image.
        x: The columns of the output pixels, in a shape that broadcasts to (count, height, width).
        y: The rows of the output pixels, likewise.
    """
    # Not `[:, i, None, None]`: with a static batch size, TensorFlow 2.21 simplifies it to `[:, i]` of the stack.
    xx, xy, offset_x, yx, yy, offset_y = (transforms[:, i][:, None, None] for i in range(6))
    # If x is a row and y a column, the parentheses leave only one full-size addition.
    return xx * x + (xy * y + offset_x), yx * x + (yy * y + offset_y)


def fill_outside(images: Tensor, from_centre_x: Tensor, from_centre_y: Tensor, config: AugConfig) -> Tensor:
    """Set pixels whose source lies outside the image to `cval`; the sources are given relative to its centre."""
    height, width = images.shape[1:3]
    inside = (tf.abs(from_centre_x) <= (width - 1) / 2) & (tf.abs(from_centre_y) <= (height - 1) / 2)
    return tf.where(inside[..., None], images, tf.constant(config.cval, tf.float32))


def displacements(
    config: AugConfig, shape: tuple[int, int, int], count: Tensor, seed: int, step: Tensor
) -> Tensor:
    """Draw elastic displacements (x, y) for each output pixel, in pixels: shape (count, height, width, 2)."""
    height, width, _ = shape
    key = tf.stack([tf.constant(seed, tf.int64), -1 - tf.cast(step, tf.int64)])  # negative: never a key of `draw`
    field = tf.random.stateless_uniform([count, height, width, 2], key, -1.0, 1.0)
    reach = math.ceil(3 * config.elastic_sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / config.elastic_sigma) ** 2)
    kernel = np.tile((weights / weights.sum()).astype(np.float32)[:, None, None, None], (1, 1, 2, 1))
    for along in (kernel, kernel.transpose(1, 0, 2, 3)):
        field = tf.nn.depthwise_conv2d(field, along, [1, 1, 1, 1], "SAME")
    return config.elastic_alpha * field


def warp(images: Tensor, transforms: Tensor, moved: Tensor, config: AugConfig) -> Tensor:
    """Resample images as `resample` does, but displace each output pixel before applying the image's matrix."""
    height, width, channels = images.shape[1:]
    x = tf.range(width, dtype=tf.float32)[None, None, :] + moved[..., 0]
    y = tf.range(height, dtype=tf.float32)[None, :, None] + moved[..., 1]
    source_x, source_y = sources(transforms, x, y)
    inside_x, inside_y = fold(source_x, width, config.fill_mode), fold(source_y, height, config.fill_mode)
    left, top = tf.floor(inside_x), tf.floor(inside_y)
    along_x, along_y = (inside_x - left)[..., None], (inside_y - top)[..., None]
    flat = tf.reshape(images, [-1, height * width, channels])

    def at(column: Tensor, row: Tensor) -> Tensor:
        column = tf.minimum(tf.cast(column, tf.int32), width - 1)
        row = tf.minimum(tf.cast(row, tf.int32), height - 1)
        return tf.gather(flat, row * width + column, batch_dims=1)

    upper = at(left, top) * (1 - along_x) + at(left + 1, top) * along_x
    lower = at(left, top + 1) * (1 - along_x) + at(left + 1, top + 1) * along_x
    resampled = upper * (1 - along_y) + lower * along_y
    if config.fill_mode != "constant":
        return resampled
    return fill_outside(resampled, source_x - (width - 1) / 2, source_y - (height - 1) / 2, config)


def fold(place: Tensor, size: int, fill_mode: str) -> Tensor:
    """Map coordinates outside the image to the ones inside that a fill mode reads instead, as in SciPy."""
    if fill_mode == "reflect":  # d c b a | a b c d | d c b a
        place = tf.math.floormod(place, 2.0 * size)
        place = tf.where(place < size, place, 2.0 * size - 1 - place)
    elif fill_mode == "wrap":  # a b c | d = a b c | d = a b c
        period = max(size - 1.0, 1.0)
        below = place + period * (tf.floor(-place / period) + 1)
        above = place - period * tf.floor(place / period)
        place = tf.where(place < 0, below, tf.where(place > size - 1, above, place))
    return tf.clip_by_value(place, 0.0, size - 1.0)


def draw_samples(config: AugConfig, images: Images, seed: int, count: int) -> list[Images]:
    """Return `count` augmented versions of the images, for display."""
    augment, mix = make_augment(config, images.shape[1:], seed), make_mix(config, seed)
    batch = tf.cast(images, tf.float32)
    samples = []
    for step in map(tf.constant, np.arange(count, dtype=np.int64)):
        drawn = batch if augment is None else augment(batch, step)
        drawn = drawn if mix is None else mix(drawn, tf.zeros([len(images), 1]), step)[0]
        samples.append(np.rint(np.clip(drawn, 0, 255)).astype(np.uint8))
    return samples
