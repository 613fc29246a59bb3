"""Scoring a saved model gives Keras' own figures, and loading one runs none of its code."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.data.dataset import Part
from mnist_exp.inference import scoring


def test_the_test_loss_includes_the_penalties_of_the_layers():
    """The loss equals that of Keras' `evaluate`, including the regularizers' share."""
    config, _ = compose_checked(Request("train", ("data=digits", "model=linear")), TrainConfig)
    penalty = keras.regularizers.L2(0.1)
    model = keras.Sequential([
        keras.Input((4, 4, 1)), keras.layers.Flatten(),
        keras.layers.Dense(3, activation="softmax", kernel_regularizer=penalty),
    ])  # fmt: skip
    model.compile(loss="sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    part = Part(rng.integers(0, 2, (40, 4, 4, 1)).astype(np.uint8), (np.arange(40) % 3).astype(np.uint8))
    assert float(sum(model.losses)) > 0.1
    expected = model.evaluate(part.images.astype("float32"), part.labels, verbose=0)
    assert scoring.score(model, part, config.training).metrics["loss"] == pytest.approx(expected, rel=1e-5)


def test_code_in_a_model_file_is_not_run(tmp_path: Path):
    """A `.keras` file that contains a Python function is refused."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x + 1)])
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="safe_mode"):
        scoring.load(tmp_path / "model.keras")
