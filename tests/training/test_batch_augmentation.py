"""The batches of a training run: which steps are augmented, and how images and targets are mixed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import beta, ks_2samp

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.training.augment import draw_samples, make_augment
from mnist_exp.training.batch_augmentation import make_batch_augment
from mnist_exp.training.mixing import draw_kept, make_mix

STEPS = 10


def setting(*overrides: str) -> TrainConfig:
    words = ("data=digits", "model=linear", *overrides)
    return compose_checked(Request("train", words), TrainConfig)[0]


def compiled(config: TrainConfig) -> Any:
    signature = [tf.TensorSpec([None, 28, 28, 1]), tf.TensorSpec([], tf.int64)]
    augment = make_batch_augment(config, STEPS)
    return tf.function(lambda x, step: augment(x, one_hot(tf.shape(x)[0]), step), input_signature=signature)


def one_hot(count: Any) -> Any:
    return tf.one_hot(tf.range(count) % 10, 10)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28, 1)).astype(np.float32)


@pytest.mark.parametrize(
    "word", ["aug=elastic", *(f"aug.layers=[{{type: {kind}}}]" for kind in ("RandomFlip", "RandAugment"))]
)
def test_augmentation_stops_after_a_fraction_of_the_steps(word: str):
    """Until then, batches are augmented as without `until`; from then on, they are unchanged."""
    config = setting(word, "aug.until=0.3")
    always, stopping = make_augment(config.aug, config.data.shape, config.seed), compiled(config)
    assert always is not None
    for step in range(STEPS):
        expected = always(images(6), tf.constant(step, tf.int64)).numpy() if step < 3 else images(6)
        changed, targets = stopping(images(6), tf.constant(step, tf.int64))
        np.testing.assert_allclose(changed, expected, atol=1e-3)
        assert np.array_equal(targets, one_hot(6))
        assert (step < 3) != np.array_equal(expected, images(6))


@pytest.mark.parametrize(("until", "branches"), [("null", 0), ("1.0", 0), ("0.9", 1)])
def test_only_a_run_that_stops_augmentation_has_a_branch_in_its_graph(until: str, branches: int):
    """Without `until`, a step costs what it did before."""
    graph = compiled(setting("aug=shift", f"aug.until={until}")).get_concrete_function().graph
    assert sum(operation.type in ("If", "StatelessIf") for operation in graph.get_operations()) == branches


ONE_HOT = "training.loss=categorical_crossentropy"
MIXTURES = [("aug.mixup=0.2",), ("aug.cutmix=1.0",), ("aug.mixup=0.4", "aug.cutmix=1.0")]


@pytest.mark.parametrize("words", MIXTURES)
def test_targets_are_mixed_as_the_images_are(words: tuple[str, ...]):
    """The share of a class in an image's targets is the share of its pixels, also if the image is not square."""
    mix = make_mix(setting(ONE_HOT, *words).aug, seed=0)
    assert mix is not None
    white = np.zeros((10, 7, 12, 1), np.float32)
    white[3] = 255
    mixed, targets = mix(tf.constant(white), one_hot(10), tf.constant(4, tf.int64))
    np.testing.assert_allclose(np.mean(mixed, axis=(1, 2, 3)) / 255, targets[:, 3], atol=1e-5)
    np.testing.assert_allclose(np.sum(targets, axis=1), 1, atol=1e-6)
    assert np.flatnonzero(np.max(targets, axis=0) > 0).tolist() == list(range(10))
    assert np.count_nonzero(targets[:, 3]) <= 2  # the image itself and its partner


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 100.0])
def test_the_shares_of_mixup_have_a_beta_distribution(alpha: float):
    """Kolmogorov and Smirnov find no difference in 4,000 draws (p > 0.001); each pixel has the same share.

    Shares are rounded, because those of small parameters are closer to 1 than float32 can represent.
    """
    kept = draw_kept(setting(ONE_HOT, f"aug.mixup={alpha}").aug, (28, 28), 4000, tf.constant([1, 2]))
    assert kept.shape == (4000, 1, 1, 1)
    shares = beta(alpha, alpha).rvs(4000, random_state=0)
    assert ks_2samp(np.round(kept.numpy().ravel(), 4), np.round(shares, 4), method="asymp").pvalue > 0.001


def test_cutmix_pastes_one_rectangle():
    """Its centre is anywhere in the image, so its edge may cut it; its sides have the proportions of the image."""
    kept = draw_kept(setting(ONE_HOT, "aug.cutmix=1").aug, (20, 40), 4000, tf.constant([1, 2])).numpy()[..., 0]
    assert set(np.unique(kept)) == {0, 1}
    inside = kept == 0
    heights, widths = inside.any(axis=2).sum(axis=1), inside.any(axis=1).sum(axis=1)
    assert np.array_equal(heights * widths, inside.sum(axis=(1, 2)))  # no other pixels
    whole = ~(inside[:, [0, -1]].any(axis=(1, 2)) | inside[:, :, [0, -1]].any(axis=(1, 2)))
    np.testing.assert_allclose(widths[whole], 2 * heights[whole], atol=2)
    # Without cut edges, the mean area would be that of the uniform distribution, 0.5.
    assert 0.25 < inside.mean() < 0.5
    np.testing.assert_allclose(inside.mean(axis=0), inside.mean(axis=0)[::-1, ::-1], atol=0.06)


def test_both_methods_mix_half_of_the_images_each():
    """A whole image keeps either a share of all pixels or all of some pixels."""
    both = setting(ONE_HOT, "aug.mixup=1", "aug.cutmix=1").aug
    kept = draw_kept(both, (28, 28), 2000, tf.constant([1, 2])).numpy()
    is_mixup = (kept > 0).all(axis=(1, 2, 3)) & (kept < 1).all(axis=(1, 2, 3))
    assert is_mixup.mean() == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("words", MIXTURES)
def test_mixtures_follow_from_seed_and_step(words: tuple[str, ...]):
    """They are reproducible, differ for another step or seed, and end with augmentation."""
    config = setting(ONE_HOT, *words, "aug.until=0.5")
    other = compiled(setting(ONE_HOT, *words, "seed=1"))

    def mixed(augment: Any, step: int) -> np.ndarray:
        return augment(images(8), tf.constant(step, tf.int64))[0].numpy()

    first = mixed(compiled(config), 3)
    assert np.array_equal(mixed(compiled(config), 3), first)
    assert not np.array_equal(mixed(compiled(config), 4), first)
    assert not np.array_equal(mixed(other, 3), first)
    assert np.array_equal(mixed(compiled(config), 5), images(8))


def test_pictures_show_mixtures():
    """Augmented samples are mixed as in training."""
    black_and_white = np.repeat(np.array([0, 255], np.uint8), 28 * 28).reshape(2, 28, 28, 1)
    samples = draw_samples(setting(ONE_HOT, "aug.mixup=1").aug, black_and_white, seed=0, count=3)
    assert all(0 < sample.mean() < 255 for sample in samples)
    assert len({sample.tobytes() for sample in samples}) == 3
