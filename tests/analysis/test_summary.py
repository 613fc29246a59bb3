"""The architecture card: counts as by hand, and the remarks of an adviser."""

from __future__ import annotations

from typing import Any

import pytest

from mnist_exp.analysis.design_advice import advice
from mnist_exp.analysis.summary import as_markdown, card
from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import ModelConfig, TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.model.build import build
from mnist_exp.model.preprocessing import Statistics


def net(*overrides: str, layers: list[Any] | None = None) -> Any:
    config, _ = compose_checked(Request("train", ("data=digits", *overrides)), TrainConfig)
    if layers is not None:
        config = config.model_copy(update={"model": ModelConfig(name="test", layers=tuple(layers))})
    return build(config, Statistics(), "float32")


# By hand: places × weights of a kernel, layer by layer.
BY_HAND = {
    "linear": [784 * 10],
    "pyramid": [
        22 * 28 * 32 * 7 * 1 * 1, 22 * 22 * 32 * 7 * 32,
        9 * 9 * (9 * 32 + 32 * 16), 7 * 7 * (9 * 16 + 16 * 16), 3 * 3 * 16 * 10,
    ],
    "vgg_bn": [26**2 * 9 * 32, 24**2 * 9 * 32 * 32, 10**2 * 9 * 32 * 64, 8**2 * 9 * 64 * 64, 1024 * 256, 256 * 10],
    "shallow": [26**2 * 9 * 32, 5408 * 128, 128 * 10],
    "bottleneck": [
        784 * 9 * 16, 784 * 9 * 16 * 24, 784 * 9 * 24 * 32, 784 * 9 * 32 * 48, 784 * 9 * 48 * 64, 784 * 64 * 10,
        14 * 14 * 10 * 10,
    ],
    "lenet5x5": [784 * 25 * 32, 196 * 25 * 32 * 64, 49 * 25 * 64 * 32, 288 * 256, 256 * 10],
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_multiply_adds_are_those_counted_by_hand(name: str):
    """Layer by layer, whatever the preprocessing."""
    for preprocess in ("unit", "zca"):
        rows = card(net(f"model={name}", f"preprocess={preprocess}"))
        assert [row.multiply_adds for row in rows if row.multiply_adds] == BY_HAND[name]


CONV = {"type": "Conv2D", "filters": 4, "kernel_size": 3}


@pytest.mark.parametrize(
    ("layer", "before", "expected"),
    [
        ({**CONV, "groups": 2}, [CONV], 24 * 24 * 9 * 2 * 4),
        ({"type": "Conv2DTranspose", "filters": 4, "kernel_size": 3, "strides": 2}, [CONV], 26 * 26 * 9 * 4 * 4),
        ({"type": "DepthwiseConv2D", "kernel_size": 3, "depth_multiplier": 2}, [CONV], 24 * 24 * 9 * 4 * 2),
        ({"type": "Dense", "units": 7}, [CONV], 26 * 26 * 4 * 7),
        ({"type": "LSTM", "units": 5}, [{"type": "Reshape", "target_shape": [28, 28]}], 28 * 4 * 5 * (28 + 5)),
        ({"type": "EinsumDense", "equation": "abc,cd->abd", "output_shape": [28, 5]}, [{"type": "Reshape", "target_shape": [28, 28]}], 28 * 28 * 5),
        ("BatchNormalization", [CONV], 0),
        ("MaxPooling2D", [CONV], 0),
    ],
)  # fmt: skip
def test_multiply_adds_of_every_kind_of_layer(layer: Any, before: list[Any], expected: int):
    """Of those that multiply with weights; the others count nothing."""
    model = net(layers=[*before, layer, "Flatten", {"type": "Dense", "units": 10}, "Softmax"])
    assert card(model)[len(before) + 1].multiply_adds == expected


def test_the_card_tells_everything_of_a_layer():
    """Name, type, output, parameters, multiply-adds, share, field, memory; totals at the end."""
    text = as_markdown(net("model=lenet5x5"), batch_size=128).splitlines()
    assert text[2] == "| pixels | InputLayer | 28×28×1 | 0 | 0 | 0% | 1 | 1 | 0 | 0.4 MiB |"
    assert text[5] == "| conv2d_1 | Conv2D | 14×14×64 | 51,264 | 10,035,200 | 75% | 14 | 2 | -6 | 6.1 MiB |"
    total = next(line for line in text if line.startswith("| total"))
    assert "| 179,882 |" in total


POOL = "MaxPooling2D"
WIDE = {"type": "Conv2D", "filters": 16, "kernel_size": 3, "padding": "same"}
DENSE = {"type": "Dense", "units": 10}


@pytest.mark.parametrize(
    ("layers", "remarks"),
    [
        ([WIDE, WIDE, "GlobalAveragePooling2D", DENSE, "Softmax"], ["global_average_pooling2d pools what sees 5×5 of 28×28 pixels"]),
        ([WIDE, POOL, WIDE, WIDE, POOL, WIDE, WIDE, WIDE, "GlobalAveragePooling2D", DENSE, "Softmax"], ["max_pooling2d comes after a single convolution"]),
        ([POOL, WIDE, WIDE, POOL, WIDE, WIDE, WIDE, "GlobalAveragePooling2D", DENSE, "Softmax"], ["max_pooling2d is next to the input"]),
        ([WIDE, WIDE, POOL, "Flatten", DENSE, "Softmax"], ["max_pooling2d_1"[:13] + " is next to the output", "dense holds"]),
        ([{**WIDE, "filters": 32}, {**WIDE, "filters": 4}, WIDE, WIDE, {**WIDE, "strides": 4}, WIDE, WIDE, "GlobalAveragePooling2D", DENSE, "Softmax"], ["conv2d_1 has 4 channels after 32"]),
        ([CONV, WIDE, POOL, WIDE, WIDE, POOL, WIDE, WIDE, "GlobalAveragePooling2D", DENSE, "Softmax"], ["conv2d is unpadded"]),
        ([WIDE, WIDE, "Flatten", {"type": "Dense", "units": 64}, DENSE, "Softmax"], ["dense holds 99% of the parameters"]),
        ([WIDE, WIDE, POOL, WIDE, WIDE, POOL, WIDE, WIDE, "GlobalAveragePooling2D", DENSE, "Softmax"], []),
    ],
)  # fmt: skip
def test_remarks_are_made_where_they_belong(layers: list[Any], remarks: list[str]):
    """Each with its layer and its reason, and none on a sound design."""
    found = advice(net(layers=layers))
    assert len(found) == len(remarks), found
    for remark, start in zip(found, remarks, strict=True):
        assert remark.startswith(start)
        assert len(remark) > len(start) + 20
