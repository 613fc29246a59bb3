"""Values of layer arguments that Keras uses without checking them, or rejects in its own terms."""

from __future__ import annotations

from typing import Any

import pytest

from mnist_exp.keras_spec.arguments import argument_faults


@pytest.mark.parametrize(
    ("kind", "arguments", "key"),
    [
        ("RandAugment", {"num_ops": 1.5}, "num_ops"),
        ("RandAugment", {"num_ops": 2.0}, "num_ops"),
        ("RandAugment", {"num_ops": 0}, "num_ops"),
        ("Equalization", {"bins": -3}, "bins"),
        ("RandomPosterization", {"factor": 1.5}, "factor"),
        ("RandomGaussianBlur", {"kernel_size": 1.5}, "kernel_size"),
        ("Conv2D", {"filters": 4, "kernel_size": [3, 1.5]}, "kernel_size"),
        ("Conv2D", {"filters": 4, "kernel_size": 3, "groups": 1.5}, "groups"),
        ("Cropping2D", {"cropping": [[1, 1], [0, 0.5]]}, "cropping"),
        ("DepthwiseConv2D", {"kernel_size": 3, "depth_multiplier": 0.5}, "depth_multiplier"),
    ],
)
def test_numbers_that_must_be_integers(kind: str, arguments: dict[str, Any], key: str):
    """The fault is found without Keras, at the argument."""
    [fault] = argument_faults("layers", kind, arguments)
    assert (fault.code, fault.path) == ("wrong-type", key)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("RandAugment", {"num_ops": 3, "factor": 0.5}),
        ("RandomPosterization", {"factor": [1, 8]}),
        ("RandomGaussianBlur", {"kernel_size": [3, 5]}),
        ("Conv2D", {"filters": 32.0, "kernel_size": [3, 1], "strides": 2}),
        ("Cropping2D", {"cropping": [[1, 1], [0, 2]]}),
        ("GroupNormalization", {"groups": -1}),
    ],
)
def test_numbers_that_keras_accepts(kind: str, arguments: dict[str, Any]):
    """They have no fault."""
    assert list(argument_faults("layers", kind, arguments)) == []
