"""The batches of a training run: which steps are augmented, and how images and targets are mixed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.training.augment import make_augment
from mnist_exp.training.batch_augmentation import make_batch_augment

STEPS = 10


def setting(*overrides: str) -> TrainConfig:
    words = ("data=digits", "model=linear", *overrides)
    return compose_checked(Request("train", words), TrainConfig)[0]


def compiled(config: TrainConfig) -> Any:
    signature = [tf.TensorSpec([None, 28, 28, 1]), tf.TensorSpec([], tf.int64)]
    return tf.function(make_batch_augment(config, STEPS), input_signature=signature)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28, 1)).astype(np.float32)


@pytest.mark.parametrize(
    "word", ["aug=elastic", *(f"aug.layers=[{{type: {kind}}}]" for kind in ("RandomFlip", "RandomInvert"))]
)
def test_augmentation_stops_after_a_fraction_of_the_steps(word: str):
    """Until then, batches are augmented as without `until`; from then on, they are unchanged."""
    config = setting(word, "aug.until=0.3")
    always, stopping = make_augment(config.aug, config.data.shape, config.seed), compiled(config)
    assert always is not None
    for step in range(STEPS):
        expected = always(images(6), tf.constant(step, tf.int64)).numpy() if step < 3 else images(6)
        np.testing.assert_allclose(stopping(images(6), tf.constant(step, tf.int64)), expected, atol=1e-3)
        assert (step < 3) != np.array_equal(expected, images(6))


@pytest.mark.parametrize(("until", "branches"), [("null", 0), ("1.0", 0), ("0.9", 1)])
def test_only_a_run_that_stops_augmentation_has_a_branch_in_its_graph(until: str, branches: int):
    """Without `until`, a step costs what it did before."""
    graph = compiled(setting("aug=shift", f"aug.until={until}")).get_concrete_function().graph
    assert sum(operation.type in ("If", "StatelessIf") for operation in graph.get_operations()) == branches
