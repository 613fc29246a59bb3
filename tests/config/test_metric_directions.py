"""The directions of metrics agree with what Keras computes."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from support.device import set_up_tensorflow

from mnist_exp.config.metric_directions import direction_of
from mnist_exp.keras_spec.signatures import snake_case

# Metrics without targets, for which neither end is better, and classes from which others are derived.
WITHOUT_DIRECTION = {"Mean", "MeanMetricWrapper", "Metric", "Sum"}


def metric_classes() -> dict[str, type]:
    set_up_tensorflow()
    import keras

    found = inspect.getmembers(keras.metrics, inspect.isclass)
    return {name: kind for name, kind in found if name not in WITHOUT_DIRECTION}


def test_every_metric_of_keras_has_a_direction():
    """The metrics without a direction are listed explicitly."""
    names = [snake_case(name) for name in metric_classes()]
    assert [name for name in names if direction_of(f"val/{name}") is None] == []
    assert all(direction_of(snake_case(name)) is None for name in WITHOUT_DIRECTION)


def test_directions_agree_with_kerass_values():
    """Correct probabilities give a better value than wrong ones."""
    rng = np.random.default_rng(0)
    targets = np.eye(3, dtype="float32")[rng.integers(0, 3, 60)]
    right = 0.1 + 0.7 * targets
    values = {
        "precision_at_recall": {"recall": 0.5}, "recall_at_precision": {"precision": 0.5},
        "sensitivity_at_specificity": {"specificity": 0.5}, "specificity_at_sensitivity": {"sensitivity": 0.5},
        "mean_io_u": {"num_classes": 3}, "io_u": {"num_classes": 3, "target_class_ids": [0, 1]},
        "one_hot_mean_io_u": {"num_classes": 3}, "one_hot_io_u": {"num_classes": 3, "target_class_ids": [0, 1]},
    }  # fmt: skip
    wrong = np.roll(right, 1, axis=1)
    for name, kind in metric_classes().items():
        called = snake_case(name)
        labels = (
            targets.argmax(axis=1) if name.startswith("Sparse") or called in ("mean_io_u", "io_u") else targets
        )
        found = []
        for probabilities in (right, wrong):
            given = probabilities.argmax(axis=1) if called in ("mean_io_u", "io_u") else probabilities
            given = np.round(given) if name == "Accuracy" else given
            settings = {"k": 1} if "TopK" in name else values.get(called, {})
            metric = kind(**settings)
            metric.update_state(labels, given)
            found.append(float(np.mean(metric.result())))
        assert found[0] != found[1], name
        assert direction_of(f"test/{called}") == ("max" if found[0] > found[1] else "min"), name


@pytest.mark.parametrize("metric", ["val/my_score", "test/mean", "sum"])
def test_an_unknown_metric_has_no_direction(metric: str):
    """The direction is not guessed from the name."""
    assert direction_of(metric) is None
