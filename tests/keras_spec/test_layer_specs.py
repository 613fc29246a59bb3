"""Limits of lists of layers."""

from __future__ import annotations

from typing import Any

import pytest

from mnist_exp.keras_spec.layer_specs import MOST_LAYERS, parse_augmentations, parse_layers


def repeat(times: int, *layers: Any) -> dict[str, Any]:
    return {"type": "Repeat", "times": times, "layers": list(layers)}


@pytest.mark.parametrize(
    ("layers", "count"),
    [
        (["Flatten"] * 20_000, "20,000"),
        ([repeat(1000, repeat(1000, "ReLU"))], "1,000,000"),
        ([repeat(300, {"type": "Residual", "layers": ["ReLU", "ReLU", "ReLU"]})], "1,200"),
        ([repeat(400, {"type": "Parallel", "branches": [["ReLU"], ["ReLU"]], "merge": "Add"})], "1,200"),
    ],
)
def test_too_many_layers_are_refused_without_keras(layers: list[Any], count: str):
    """Repeated and nested ones are counted."""
    [fault] = parse_layers(layers).faults
    assert (fault.code, fault.path) == ("out-of-range", "model.layers")
    assert fault.message.endswith(f"found {count}")


def test_too_many_augmentations_are_refused():
    """This holds for aug.layers, too."""
    [fault] = parse_augmentations(["RandomFlip"] * (MOST_LAYERS + 1)).faults
    assert (fault.code, fault.path) == ("out-of-range", "aug.layers")


def test_deep_models_are_accepted():
    """Up to the limit."""
    assert (
        parse_layers(
            [repeat(MOST_LAYERS - 3, "ReLU"), "Flatten", {"type": "Dense", "units": 10}, "Softmax"]
        ).faults
        == ()
    )
