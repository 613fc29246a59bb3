"""The architecture card has the counts that one gets by hand; design advice names layers."""

from __future__ import annotations

import math
import re
from typing import Any

import keras
import pytest
import tensorflow as tf
from support.cli import Cli

from mnist_exp.analysis.design_advice import advice
from mnist_exp.analysis.summary import as_markdown, card, multiply_adds
from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import ModelConfig, TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.keras_spec.layer_types import TRAITS
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
    """The counts of each layer equal those counted by hand, for any preprocessing."""
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
    """Only layers that multiply by weights have multiply-adds."""
    model = net(layers=[*before, layer, "Flatten", {"type": "Dense", "units": 10}, "Softmax"])
    assert card(model)[len(before) + 1].multiply_adds == expected


def multiplications_of(layer: keras.Layer, shape: tuple[int, ...]) -> int:
    """Count the multiplications by weights in the TensorFlow operations that a layer executes for one image."""
    tf.config.run_functions_eagerly(True)  # Keras wraps grouped convolutions in functions of their own
    try:
        traced = tf.function(layer).get_concrete_function(tf.TensorSpec((1, *shape)))
    finally:
        tf.config.run_functions_eagerly(False)
    count = 0
    for operation in traced.graph.get_operations():
        if operation.type not in MULTIPLYING:
            continue
        first, second = (tuple(tensor.shape) for tensor in list(operation.inputs)[-2:])
        output = tuple(operation.outputs[0].shape)
        match operation.type:
            case "MatMul":
                count += math.prod(output) * first[0 if operation.get_attr("transpose_a") else 1]
            case "BatchMatMulV2":
                count += math.prod(output) * first[-2 if operation.get_attr("adj_x") else -1]
            case "Einsum":
                terms = re.split(",|->", operation.get_attr("equation").decode())
                kernel = max(terms[:2], key=lambda term: "." not in term)
                sizes = dict(zip(kernel, second if kernel == terms[1] else first, strict=True))
                count += math.prod(output) * math.prod(sizes[letter] for letter in set(kernel) - set(terms[2]))
            case "Conv2D":
                count += math.prod(output) * math.prod(second[:3])
            case "DepthwiseConv2dNative":
                count += math.prod(output) * math.prod(second[:2])
            case "Conv2DBackpropInput":  # the inputs are the output's shape, the kernel and the gradient
                count += math.prod(second) * math.prod(first[:3])
    return count


MULTIPLYING = {"MatMul", "BatchMatMulV2", "Einsum", "Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput"}
SEQUENCE, IMAGE = (9, 4), (11, 9, 4)
KERNELS: dict[str, list[tuple[tuple[int, ...], dict[str, Any]]]] = {
    "Conv1D": [(SEQUENCE, {"filters": 6, "kernel_size": 3, "padding": padding}) for padding in ("same", "causal")],
    "Conv2D": [
        (IMAGE, {"filters": 6, "kernel_size": (3, 2), "strides": 2}),
        (IMAGE, {"filters": 6, "kernel_size": 3, "groups": 2, "padding": "same"}),
        # TensorFlow pads dilated convolutions to multiples of the dilation: here, it need not.
        ((12, 10, 4), {"filters": 6, "kernel_size": 3, "dilation_rate": 2}),
    ],
    "Conv1DTranspose": [(SEQUENCE, {"filters": 6, "kernel_size": 3, "strides": 2})],
    "Conv2DTranspose": [(IMAGE, {"filters": 6, "kernel_size": (3, 2), "strides": 2, "padding": "same"})],
    "DepthwiseConv1D": [(SEQUENCE, {"kernel_size": 3, "depth_multiplier": 2})],
    "DepthwiseConv2D": [(IMAGE, {"kernel_size": 3, "strides": 2, "depth_multiplier": 2})],
    "SeparableConv1D": [(SEQUENCE, {"filters": 6, "kernel_size": 3, "depth_multiplier": 2})],
    "SeparableConv2D": [(IMAGE, {"filters": 6, "kernel_size": (3, 2), "strides": 2})],
    "Dense": [((7,), {"units": 5}), (IMAGE, {"units": 5})],
    "EinsumDense": [
        ((299,), {"equation": "...x,xy->...y", "output_shape": 10}),
        (IMAGE, {"equation": "...x,xy->...y", "output_shape": 5}),
        (IMAGE, {"equation": "ab...,bc->ac...", "output_shape": (5, None, None)}),
        (IMAGE, {"equation": "abcd,cde->abe", "output_shape": (None, 5)}),
    ],
    "GRU": [(SEQUENCE, {"units": 5, "unroll": True})],
    "LSTM": [(SEQUENCE, {"units": 5, "unroll": True})],
    "SimpleRNN": [(SEQUENCE, {"units": 5, "unroll": True})],
}
ARGUMENTS = {
    "Activation": {"activation": "relu"}, "Cropping1D": {"cropping": 1}, "Dropout": {"rate": 0.1},
    "AlphaDropout": {"rate": 0.1}, "GaussianDropout": {"rate": 0.1}, "GaussianNoise": {"stddev": 0.1},
    "GroupNormalization": {"groups": 2}, "Permute": {"dims": (2, 1)}, "RepeatVector": {"n": 2},
    "AveragePooling1D": {"pool_size": 2}, "AveragePooling2D": {"pool_size": 2}, "SpatialDropout1D": {"rate": 0.1},
    "SpatialDropout2D": {"rate": 0.1}, "Rescaling": {"scale": 2.0}, "Reshape": {"target_shape": (-1,)},
}  # fmt: skip


@pytest.mark.parametrize("kind", [name for name, traits in TRAITS.items() if traits.listed])
def test_multiply_adds_are_those_of_the_operations(kind: str):
    """Every allowed layer's count equals that of the TensorFlow operations it executes."""
    assert (kind in KERNELS) == (TRAITS[kind].kernel is not None)
    shape = (7,) if kind == "RepeatVector" else IMAGE if "2D" in kind else SEQUENCE
    for given, arguments in KERNELS.get(kind, [(shape, ARGUMENTS.get(kind, {}))]):
        layer = getattr(keras.layers, kind)(**arguments)
        keras.Sequential([keras.Input(given), layer])
        assert multiply_adds(layer) == multiplications_of(layer, given), arguments


def test_an_ellipsis_does_not_evade_the_budget(cli: Cli):
    """`budget.max_macs` also counts an `EinsumDense` with an ellipsis in its equation."""
    layers = "model.layers=[Flatten,{type: EinsumDense, equation: '...x,xy->...y', output_shape: 10}, Softmax]"
    assert "7,840" in cli("check", "data=digits", layers, "budget.max_macs=7839", status=2).err
    cli("check", "data=digits", layers, "budget.max_macs=7840")


def test_the_card_describes_each_layer():
    """Each row has name, type, output, parameters, multiply-adds, share, field and memory."""
    text = as_markdown(net("model=lenet5x5"), batch_size=128).splitlines()
    assert text[2] == "| pixels | InputLayer | 28×28×1 | 0 | 0 | 0.0 % | 1 | 1 | 0 | 0.4 MiB |"
    assert text[5] == "| conv2d_1 | Conv2D | 14×14×64 | 51,264 | 10,035,200 | 75.8 % | 14 | 2 | -6 | 6.1 MiB |"
    total = next(line for line in text if line.startswith("| total"))
    assert "| 179,882 |" in total


POOL = "MaxPooling2D"
WIDE = {"type": "Conv2D", "filters": 16, "kernel_size": 3, "padding": "same"}
DENSE = {"type": "Dense", "units": 10}


@pytest.mark.parametrize(
    ("layers", "remarks"),
    [
        ([WIDE, WIDE, "GlobalAveragePooling2D", DENSE, "Softmax"], ["global_average_pooling2d pools units that see 5×5 of 28×28 pixels"]),
        ([WIDE, POOL, WIDE, WIDE, POOL, WIDE, WIDE, WIDE, "GlobalAveragePooling2D", DENSE, "Softmax"], ["max_pooling2d follows a single convolution"]),
        ([POOL, WIDE, WIDE, POOL, WIDE, WIDE, WIDE, "GlobalAveragePooling2D", DENSE, "Softmax"], ["max_pooling2d is the first layer"]),
        ([WIDE, WIDE, POOL, "Flatten", DENSE, "Softmax"], ["max_pooling2d is right before the output", "dense holds"]),
        ([{**WIDE, "filters": 32}, {**WIDE, "filters": 4}, WIDE, WIDE, {**WIDE, "strides": 4}, WIDE, WIDE, "GlobalAveragePooling2D", DENSE, "Softmax"], ["conv2d_1 reduces 32 channels to 4"]),
        ([CONV, WIDE, POOL, WIDE, WIDE, POOL, WIDE, WIDE, "GlobalAveragePooling2D", DENSE, "Softmax"], ["conv2d has no padding"]),
        ([WIDE, WIDE, "Flatten", {"type": "Dense", "units": 64}, DENSE, "Softmax"], ["dense holds 99.6 % of the parameters"]),
        ([WIDE, WIDE, POOL, WIDE, WIDE, POOL, WIDE, WIDE, "GlobalAveragePooling2D", DENSE, "Softmax"], []),
    ],
)  # fmt: skip
def test_design_advice_names_the_layer(layers: list[Any], remarks: list[str]):
    """Each remark names the layer and gives a reason; a sound design gets none."""
    found = advice(net(layers=layers))
    assert len(found) == len(remarks), found
    for remark, start in zip(found, remarks, strict=True):
        assert remark.startswith(start)
        assert len(remark) > len(start) + 20
