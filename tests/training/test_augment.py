"""Augmentation gives the terms of Keras' `ImageDataGenerator` the same meaning."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage
from scipy.stats import ks_2samp

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import AugConfig, TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.keras_spec.layer_faults import AUGMENTATIONS
from mnist_exp.training.augment import displacements, draw, draw_samples, make_augment, matrices, resample, warp

ImageDataGenerator = tf.keras.preprocessing.image.ImageDataGenerator
SHAPE = (28, 28, 1)
FILL_MODES = ("constant", "nearest", "reflect", "wrap")
NOTHING = {
    "rotation_range": 0.0, "width_shift_range": 0.0, "height_shift_range": 0.0, "shear_range": 0.0, "zoom_range": 0.0,
    "horizontal_flip": False, "vertical_flip": False, "elastic_alpha": 0.0, "elastic_sigma": 4.0,
    "fill_mode": "constant", "cval": 0.0, "layers": (),
}  # fmt: skip


def aug(**changes: Any) -> AugConfig:
    return AugConfig(name="test", **{**NOTHING, **changes})


def smooth_images(count: int) -> np.ndarray:
    """Return blobs that vanish at the border, so that the fill mode does not matter."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    images = []
    for _ in range(count):
        centres, spread = rng.uniform(10, 17, (3, 2)), rng.uniform(1.5, 2.2, 3)
        blobs = [
            np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / s**2)
            for (y, x), s in zip(centres, spread, strict=True)
        ]
        images.append(sum(blobs) * 80)
    return np.array(images, np.float32)[..., np.newaxis]


def keras_parameters(parameters: dict[str, Any], index: int) -> dict[str, Any]:
    """Return one of our draws in the terms of `ImageDataGenerator.apply_transform` (x is horizontal there too)."""
    p = {name: float(values[index]) for name, values in parameters.items()}
    return {
        "theta": np.degrees(p["theta"]), "tx": p["tx"], "ty": p["ty"], "shear": np.degrees(p["shear"]),
        "zx": p["zx"], "zy": p["zy"], "flip_horizontal": p["flip_horizontal"], "flip_vertical": p["flip_vertical"],
    }  # fmt: skip


EVERYTHING: dict[str, Any] = {
    "rotation_range": 40.0, "width_shift_range": 0.15, "height_shift_range": 0.1, "shear_range": 15.0,
    "zoom_range": (0.7, 1.2), "horizontal_flip": True, "vertical_flip": True,
}  # fmt: skip


def noise(count: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Return images whose neighbouring pixels are unrelated, also at the border."""
    return np.random.default_rng(0).uniform(0, 255, (count, *shape)).astype(np.float32)


@pytest.mark.parametrize("fill_mode", FILL_MODES)
def test_an_image_is_transformed_as_keras_would(fill_mode: str):
    """The same parameters give the same pixels, inside and outside the image, in every fill mode."""
    config = aug(**EVERYTHING, fill_mode=fill_mode, cval=200.0)
    images = noise(32, SHAPE)
    parameters = draw(config, SHAPE, len(images), seed=1, step=tf.constant(5))
    ours = resample(tf.constant(images), matrices(parameters, SHAPE), config).numpy()
    generator = ImageDataGenerator(fill_mode=fill_mode, cval=200.0)
    for index, image in enumerate(images):
        theirs = generator.apply_transform(image, keras_parameters(parameters, index))
        np.testing.assert_allclose(ours[index], theirs, atol=0.05)


@pytest.mark.parametrize("fill_mode", FILL_MODES)
@pytest.mark.parametrize("elastic", [False, True])
@pytest.mark.parametrize("shape", [(9, 13, 3), (2, 1, 1)])
def test_images_are_resampled_as_scipy_would(fill_mode: str, elastic: bool, shape: tuple[int, int, int]):
    """This holds far outside the image, for every shape, and for elastic resampling."""
    config = aug(rotation_range=180.0, width_shift_range=20.0, shear_range=20.0, zoom_range=(0.5, 4.0),
                 fill_mode=fill_mode, cval=200.0)  # fmt: skip
    images, still = noise(64, shape), tf.zeros((64, *shape[:2], 2))
    transforms = matrices(draw(config, shape, 64, seed=0, step=tf.constant(0)), shape)
    found = warp(images, transforms, still, config) if elastic else resample(images, transforms, config)
    for image, matrix, ours in zip(images, np.array(transforms, float), found.numpy(), strict=True):
        xx, xy, x, yx, yy, y = matrix[:6]
        for channel in range(shape[2]):
            theirs = ndimage.affine_transform(
                image[..., channel], [[yy, yx], [xy, xx]], [y, x], order=1, mode=fill_mode, cval=200.0
            )
            np.testing.assert_allclose(ours[..., channel], theirs, atol=0.05)


@pytest.mark.parametrize("fill_mode", FILL_MODES)
@pytest.mark.parametrize("pixels", [3.0, 27.0, 28.0, 60.0])
def test_images_are_shifted_by_whole_pixels_as_scipy_would(fill_mode: str, pixels: float):
    """Coordinates lie exactly on the border or on a multiple of the period."""
    config = aug(width_shift_range=(pixels, pixels), fill_mode=fill_mode, cval=200.0)
    images = noise(8, SHAPE)
    parameters = draw(config, SHAPE, 8, seed=0, step=tf.constant(0))
    found = resample(tf.constant(images), matrices(parameters, SHAPE), config).numpy()
    for image, shift, ours in zip(images, parameters["tx"].numpy(), found, strict=True):
        theirs = ndimage.affine_transform(
            image[..., 0], np.eye(2), [0, shift], order=1, mode=fill_mode, cval=200.0
        )
        np.testing.assert_allclose(ours[..., 0], theirs, atol=1e-3)


def test_each_term_alone_is_keras_term():
    """Rotation, both shifts, shear, zoom and both flips are tested separately."""
    images = smooth_images(4)
    for term, value in EVERYTHING.items():
        config = aug(**{term: value})
        parameters = draw(config, SHAPE, len(images), seed=2, step=tf.constant(0))
        ours = resample(tf.constant(images), matrices(parameters, SHAPE), config).numpy()
        generator = ImageDataGenerator(fill_mode="constant")
        for index, image in enumerate(images):
            theirs = generator.apply_transform(image, keras_parameters(parameters, index))
            np.testing.assert_allclose(ours[index], theirs, atol=0.05, err_msg=term)


@pytest.mark.parametrize(
    "changes",
    [
        EVERYTHING,
        {"width_shift_range": 3.0, "height_shift_range": 2.0},
        {"width_shift_range": (0.05, 0.2), "height_shift_range": (1.0, 4.0)},
        {"zoom_range": 0.3, "rotation_range": 10.0},
        {"width_shift_range": 4, "height_shift_range": 2},
    ],
)
def test_the_transforms_are_distributed_as_keras_are(changes: dict[str, Any]):
    """4,000 draws of each parameter have the same distribution (Kolmogorov and Smirnov, p > 0.001)."""
    config = aug(**changes)
    count = 4000
    ours = draw(config, SHAPE, count, seed=0, step=tf.constant(0))
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in changes.items()}
    generator = ImageDataGenerator(**lists)
    drawn = [generator.get_random_transform(SHAPE, seed=index) for index in range(count)]
    # Keras draws the horizontal shift from the height's range, against its own documentation.
    swapped = {"tx": "ty", "ty": "tx"}
    for name in ("theta", "tx", "ty", "shear", "zx", "zy", "flip_horizontal", "flip_vertical"):
        theirs = np.array([parameters[swapped.get(name, name)] for parameters in drawn], float)
        mine = ours[name].numpy().astype(float)
        mine = np.degrees(mine) if name in ("theta", "shear") else mine
        test = ks_2samp(np.round(mine, 4), np.round(theirs, 4), method="asymp")
        assert test.pvalue > 0.001, (name, test)


def test_parameters_are_independent():
    """Zooms, shifts and angle of an image do not depend on each other."""
    drawn = draw(aug(**EVERYTHING), SHAPE, 4000, seed=0, step=tf.constant(0))
    correlations = np.corrcoef(np.stack([values.numpy() for values in drawn.values()]))
    assert np.abs(correlations - np.eye(len(drawn))).max() < 0.08


def test_draws_follow_from_seed_and_step():
    """They are reproducible, and differ for another step or seed."""
    augment, other = (make_augment(aug(**EVERYTHING), SHAPE, seed) for seed in (1, 2))
    assert augment is not None
    assert other is not None
    images = tf.constant(smooth_images(8))
    first = augment(images, tf.constant(3)).numpy()
    assert np.array_equal(augment(images, tf.constant(3)), first)
    assert not np.array_equal(augment(images, tf.constant(4)), first)
    assert not np.array_equal(other(images, tf.constant(3)), first)


def test_no_augmentation_costs_nothing():
    """`aug=none` adds no operation."""
    assert make_augment(aug(), SHAPE, 0) is None
    assert make_augment(compose_checked(Request("train", ("aug=none",)), TrainConfig)[0].aug, SHAPE, 0) is None


def test_cval_fills_pixels_from_outside():
    """In constant mode, pixels from outside the image are `cval`."""
    config = aug(width_shift_range=(10.0, 10.0), cval=200.0)
    images = np.zeros((16, *SHAPE), np.uint8)
    for image in draw_samples(config, images, seed=0, count=2)[1]:
        columns = image[..., 0].mean(axis=0)
        assert sorted(np.unique(columns)) == [0, 200]
        assert (columns == 200).sum() == 10


def test_width_is_horizontal_and_height_vertical():
    """They follow Keras' documentation (its own class swaps them)."""
    image = np.zeros((1, 9, 7, 1), np.float32)
    image[0, 4, 3] = 1
    for term, axis in (("height_shift_range", 0), ("width_shift_range", 1)):
        config = aug(**{term: (2.0, 2.0)})
        parameters = draw(config, (9, 7, 1), 1, seed=0, step=tf.constant(0))
        moved = np.argwhere(resample(tf.constant(image), matrices(parameters, (9, 7, 1)), config)[0, ..., 0] == 1)
        assert abs(moved[0] - [4, 3]).tolist() == [2 * (axis == 0), 2 * (axis == 1)]


def test_the_centre_stays_where_it_is():
    """Rotation, shear, zoom and flips keep the centre, also of images that are not square."""
    image = np.zeros((64, 9, 7, 1), np.float32)
    image[:, 4, 3] = 1
    config = aug(rotation_range=180.0, shear_range=30.0, zoom_range=(0.5, 1.0), horizontal_flip=True)
    parameters = draw(config, (9, 7, 1), 64, seed=0, step=tf.constant(0))
    turned = resample(tf.constant(image), matrices(parameters, (9, 7, 1)), config).numpy()
    np.testing.assert_allclose(turned[:, 4, 3, 0], 1, atol=1e-5)


def test_displacements_are_as_strong_and_as_smooth_as_asked_for():
    """Directions and images are independent; alpha scales, and sigma correlates neighbours."""
    config = aug(elastic_alpha=30.0, elastic_sigma=3.0)
    field = displacements(config, (40, 40, 1), 64, seed=0, step=tf.constant(0)).numpy()
    assert field.shape == (64, 40, 40, 2)
    twice = displacements(aug(elastic_alpha=60.0, elastic_sigma=3.0), (40, 40, 1), 64, 0, tf.constant(0)).numpy()
    np.testing.assert_allclose(twice, 2 * field, rtol=1e-5)
    x, y = field[:, 10:30, 10:30, 0], field[:, 10:30, 10:30, 1]
    assert abs(np.corrcoef(x.ravel(), y.ravel())[0, 1]) < 0.1
    # Uniform noise of variance 1/3, smoothed with a Gaussian: variance 1 / (3 · 4π σ²).
    assert x.std() == pytest.approx(30 / np.sqrt(3 * 4 * np.pi * 9), rel=0.05)
    # The correlation at a distance d is exp(-d² / 4σ²).
    assert np.corrcoef(x[:, :, :-3].ravel(), x[:, :, 3:].ravel())[0, 1] == pytest.approx(np.exp(-1 / 4), abs=0.04)
    other = displacements(config, (40, 40, 1), 64, seed=0, step=tf.constant(1)).numpy()
    assert abs(np.corrcoef(field.ravel(), other.ravel())[0, 1]) < 0.1


def test_a_displaced_pixel_is_read_from_where_it_came():
    """Elastic distortion displaces pixels before the affine transform."""
    image = np.arange(5 * 6, dtype=np.float32).reshape(1, 5, 6, 1)
    field = np.zeros((1, 5, 6, 2), np.float32)
    field[0, 2, 3] = (1.5, -1)  # x, y
    identity = tf.constant([[1.0, 0, 0, 0, 1, 0, 0, 0]])
    found = warp(tf.constant(image), identity, tf.constant(field), aug(elastic_alpha=1.0)).numpy()
    assert found[0, 2, 3, 0] == pytest.approx((image[0, 1, 4, 0] + image[0, 1, 5, 0]) / 2)
    found[0, 2, 3, 0] = image[0, 2, 3, 0]
    np.testing.assert_allclose(found, image)


# Each of Keras' layers that aug.layers takes, with arguments that change a coloured image.
LAYERS: dict[str, dict[str, Any]] = {
    "AutoContrast": {}, "Equalization": {}, "Solarization": {"addition_factor": 0.3, "threshold_factor": 0.5},
    "GaussianNoise": {"stddev": 0.1}, "RandomBrightness": {"factor": 0.3}, "RandomColorDegeneration": {"factor": 0.7},
    "RandomColorJitter": {"brightness_factor": 0.3, "contrast_factor": 0.3}, "RandomContrast": {"factor": 0.5},
    "RandomErasing": {"factor": 1.0}, "RandomFlip": {}, "RandomGaussianBlur": {"factor": 1.0},
    "RandomGrayscale": {"factor": 0.5}, "RandomHue": {"factor": 0.5, "value_range": [0, 255]},
    "RandomInvert": {"factor": 0.5}, "RandomPerspective": {"factor": 0.9}, "RandomPosterization": {"factor": [1, 8]},
    "RandomRotation": {"factor": 0.1}, "RandomSaturation": {"factor": 0.7, "value_range": [0, 255]},
    "RandomSharpness": {"factor": 0.7}, "RandomShear": {"x_factor": 0.3}, "RandomTranslation": {"height_factor": 0.2, "width_factor": 0.2},
    "RandomZoom": {"height_factor": 0.3}, "RandAugment": {"factor": 0.3},
}  # fmt: skip
THE_SAME_FOR_EVERY_IMAGE = {"AutoContrast", "Equalization", "Solarization"}


@pytest.mark.parametrize("kind", sorted(AUGMENTATIONS))
def test_keras_layers_draw_from_seed_and_step(kind: str):
    """In a compiled step with unknown batch size, a step always has the same draws for each image."""
    config = aug(layers=({"type": kind, **LAYERS[kind]},))
    image = np.random.default_rng(0).integers(0, 256, (1, 12, 14, 3)).astype(np.float32)
    images = tf.constant(np.repeat(image, 10, axis=0))

    def compiled(seed: int) -> Any:
        signature = [tf.TensorSpec([None, 12, 14, 3]), tf.TensorSpec([], tf.int64)]
        return tf.function(make_augment(config, (12, 14, 3), seed), input_signature=signature)

    def changed(augment: Any, step: int) -> np.ndarray:
        return augment(images, tf.constant(step, tf.int64)).numpy()

    augment = compiled(1)
    first = changed(augment, 3)
    assert first.shape == images.shape
    assert not np.array_equal(first, images)
    assert np.array_equal(changed(augment, 3), first)
    assert np.array_equal(changed(compiled(1), 3), first)
    if kind not in THE_SAME_FOR_EVERY_IMAGE:
        assert not np.array_equal(changed(augment, 4), first)
        assert not np.array_equal(changed(compiled(2), 3), first)
        assert len({row.tobytes() for row in first}) > 1


@pytest.mark.parametrize("kind", sorted(AUGMENTATIONS))
def test_layers_leave_pixels_between_black_and_white(kind: str):
    """Strong noise is clipped, like the result of every other layer."""
    arguments = {**LAYERS[kind], **({"stddev": 1.0} if kind == "GaussianNoise" else {})}
    augment = make_augment(aug(layers=({"type": kind, **arguments},)), (12, 14, 3), 0)
    assert augment is not None
    images = np.random.default_rng(0).choice(np.array([0, 5, 128, 250, 255], np.float32), (16, 12, 14, 3))
    changed = augment(tf.constant(images), tf.constant(0, tf.int64)).numpy()
    assert changed.min() >= 0
    assert changed.max() <= 255


def test_rand_augment_has_the_limits_that_the_documentation_names():
    """Shifts and rotations have one direction, and a small factor leaves two grey levels."""
    layer = keras.layers.RandAugment(factor=0.1)
    images = np.zeros((64, 21, 21, 1), np.float32)
    images[:, 10, 16] = 255
    rows, columns = np.mgrid[:21, :21]

    def centres(changed: Any) -> tuple[np.ndarray, np.ndarray]:
        weights = (np.array(changed) / np.sum(changed, axis=(1, 2), keepdims=True))[..., 0]
        return (weights * rows).sum(axis=(1, 2)) - 10, (weights * columns).sum(axis=(1, 2)) - 10

    down, right = centres(layer.random_translation(images, training=True))
    assert (down > -1e-3).all()
    assert (right > 6 - 1e-3).all()
    down, right = centres(layer.random_rotation(images, training=True))
    assert (np.degrees(np.arctan2(-down, right)) > -1).all()
    assert (np.degrees(np.arctan2(-down, right)) < 37).all()
    levels = layer.random_posterization(np.arange(256, dtype=np.float32).reshape(1, 16, 16, 1), training=True)
    assert len(np.unique(levels)) == 2


def test_layers_come_after_the_affine_transform_and_can_be_left_out():
    """A null entry is skipped; noise is relative to the value range."""
    images = tf.fill((4, 20, 20, 1), 100.0)
    noise = make_augment(aug(layers=(None, {"type": "GaussianNoise", "stddev": 0.1})), (20, 20, 1), 0)
    assert noise is not None
    assert noise(images, tf.constant(0)).numpy().std() == pytest.approx(25.5, rel=0.1)
    assert make_augment(aug(layers=(None,)), SHAPE, 0) is None
    both = aug(width_shift_range=(5.0, 5.0), layers=({"type": "RandomBrightness", "factor": [0.4, 0.4]},))
    shifted = draw_samples(both, np.zeros((8, 20, 20, 1), np.uint8), seed=0, count=1)[0]
    assert (shifted == 102).all()  # what came in from outside was black, and has become lighter too


def test_a_batch_of_known_size_is_distorted_too():
    """TensorFlow's graph optimizer would drop axes with a more obvious way of indexing."""
    augment = make_augment(aug(rotation_range=15.0, elastic_alpha=30.0), (28, 28, 1), 0)
    assert augment is not None
    images, step = tf.random.stateless_uniform((16, 28, 28, 1), (0, 1)), tf.constant(3, tf.int64)
    compiled = tf.function(augment)(images, step)
    assert np.allclose(compiled, augment(images, step), atol=1e-5)


def test_elastic_noise_is_independent_of_the_affine_draws():
    """In one step, the displacements and the affine parameters come from different random streams."""
    count = 2000
    config = aug(rotation_range=180.0, elastic_alpha=1.0, elastic_sigma=0.01)  # so narrow that it smooths nothing
    noise = displacements(config, (2, 2, 1), count, seed=3, step=tf.constant(5)).numpy().ravel()[:count]
    angles = draw(config, (2, 2, 1), count, seed=3, step=tf.constant(5))["theta"].numpy()
    assert noise.std() == pytest.approx(1 / np.sqrt(3), rel=0.05)
    assert abs(np.corrcoef(noise, angles)[0, 1]) < 0.1
