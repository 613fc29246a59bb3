"""Repeat, Residual and Parallel: what they build, and what is told where they do not fit."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from mnist_exp.keras_spec.layer_specs import parse_layers
from mnist_exp.model.graph import apply_layers

CONV = {"type": "Conv2D", "filters": 4, "kernel_size": 3, "padding": "same"}


def build(layers: list[Any], shape: tuple[int, ...] = (8, 8, 4)) -> keras.Model:
    problems: list[tuple[str, str]] = []
    inputs = keras.Input(shape)
    outputs = apply_layers(parse_layers(layers).specs, inputs, lambda path, text: problems.append((path, text)))
    assert not problems
    return keras.Model(inputs, outputs)


def problems(layers: list[Any], shape: tuple[int, ...] = (8, 8, 4)) -> list[str]:
    """All problems, those that Keras finds last."""
    parsed = parse_layers(layers)
    found = [f"{fault.path}: {fault.message}" for fault in parsed.faults]
    apply_layers(parsed.specs, keras.Input(shape), lambda path, text: found.append(f"{path}: {text}"))
    return found


def names(model: keras.Model) -> list[str]:
    return [layer.name for layer in model.layers[1:]]


def test_repeat_writes_a_list_several_times():
    """With weights of their own; none for 0; names are counted on."""
    model = build([{"type": "Repeat", "times": 3, "layers": [CONV, "ReLU"]}, "Flatten"])
    assert names(model) == ["conv2d", "re_lu", "conv2d_1", "re_lu_1", "conv2d_2", "re_lu_2", "flatten"]
    assert len(model.weights) == 6
    assert names(build([{"type": "Repeat", "times": 0, "layers": [CONV]}, "Flatten"])) == ["flatten"]


def test_names_given_in_a_repetition_are_numbered():
    """Also in one inside another."""
    inner = {"type": "Repeat", "times": 2, "layers": [{**CONV, "name": "conv"}]}
    model = build([{"type": "Repeat", "times": 2, "layers": [inner]}, {**CONV, "name": "last"}])
    assert names(model) == ["conv", "conv_1", "conv_2", "conv_3", "last"]


def test_residual_adds_its_shortcut():
    """The input itself, or what a list of layers makes of it."""
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype("float32")
    model = build([{"type": "Residual", "layers": [{**CONV, "kernel_initializer": "zeros"}]}])
    np.testing.assert_allclose(model(images), images, atol=1e-6)
    halved = build(
        [
            {
                "type": "Residual",
                "layers": [{**CONV, "strides": 2, "kernel_initializer": "zeros"}],
                "shortcut": [{"type": "MaxPooling2D", "pool_size": 1, "strides": 2}],
            }
        ]
    )
    np.testing.assert_allclose(halved(images), images[:, ::2, ::2], atol=1e-6)


def test_parallel_merges_its_branches():
    """By any of Keras' merging layers, with its arguments; an empty branch is the input."""
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype("float32")
    branches = [[], [{"type": "Rescaling", "scale": 2.0}], [{"type": "Rescaling", "scale": -1.0}, None]]
    for merge, expected in (
        ("Concatenate", np.concatenate([images, 2 * images, -images], axis=-1)),
        ({"type": "Concatenate", "axis": 1}, np.concatenate([images, 2 * images, -images], axis=1)),
        ("Add", 2 * images),
        ("Average", images * 2 / 3),
        ("Maximum", np.maximum(2 * images, -images)),
        ("Minimum", np.minimum(2 * images, -images)),
        ("Multiply", -2 * images**3),
    ):
        model = build([{"type": "Parallel", "merge": merge, "branches": branches}])
        np.testing.assert_allclose(model(images), expected, rtol=1e-5, atol=1e-6)
    model = build([{"type": "Parallel", "branches": branches}])
    assert model.output_shape == (None, 8, 8, 12)
    model = build([{"type": "Parallel", "branches": [branches[0], None, branches[2]]}])  # one is left out
    np.testing.assert_allclose(model(images), np.concatenate([images, -images], axis=-1))


def test_a_list_ends_in_whole_precision():
    """Whatever the last entry is, in a model that computes in half precision."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        for last in (
            "ReLU",
            {"type": "Repeat", "times": 2, "layers": ["ReLU"]},
            {"type": "Residual", "layers": ["ReLU"]},
            {"type": "Parallel", "branches": [["ReLU"], ["ELU"]]},
        ):
            model = build([CONV, last, None])
            assert model.get_layer("conv2d").compute_dtype == "bfloat16"
            assert model.outputs[0].dtype == "float32"
    finally:
        keras.config.set_dtype_policy("float32")


POOL = {"type": "MaxPooling2D", "pool_size": 3}


@pytest.mark.parametrize(
    ("layers", "messages"),
    [
        ([{"type": "Repeat", "layers": [CONV]}], ["model.layers.0: Repeat needs times"]),
        ([{"type": "Repeat", "times": "2", "layers": [CONV]}], ["model.layers.0.times: expected a whole number of times, up to 1000, found '2'"]),
        ([{"type": "Repeat", "times": -1, "layers": [CONV]}], ["model.layers.0.times: expected a whole number of times, up to 1000, found -1"]),
        ([{"type": "Repeat", "times": 10**6, "layers": [CONV]}], ["model.layers.0.times: expected a whole number of times, up to 1000, found 1000000"]),
        ([{"type": "Residual", "layers": [CONV], "shortcut": False}], ["model.layers.0.shortcut: expected a list of layers, found False"]),
        ([{**CONV, "name": "preprocess_2"}], ["model.layers.0.name: must not begin with 'preprocess'"]),
        ([{"type": "Repeat", "time": 2, "layers": [CONV]}], ["model.layers.0.time: Repeat has no argument 'time' (did you mean 'times'?)"]),
        ([{"type": "Repeat", "times": 2, "layers": "ReLU"}], ["model.layers.0.layers: expected a list of layers, found 'ReLU'"]),
        ([{"type": "Repet", "times": 2, "layers": []}], ["model.layers.0.type: there is no layer 'Repet' (did you mean 'Repeat'?)"]),
        ([{"type": "Repeat", "times": 3, "layers": [POOL]}], ["model.layers.0.layers.0: MaxPooling2D's window 3×3 does not fit its 2×2 input (after model.layers.0.layers.0, MaxPooling2D), in turn 2 of 3 of model.layers.0"]),
        ([{"type": "Residual", "layers": [{**CONV, "filters": 5}]}], ["model.layers.0: the layers of Residual end in 8×8×5, its shortcut in 8×8×4"]),
        ([{"type": "Residual", "layers": [{**CONV, "fliters": 5}], "shortcut": ["Relu"]}],
         ["model.layers.0.layers.0.fliters: Conv2D has no argument 'fliters' (did you mean 'filters'?)", "model.layers.0.shortcut.0.type: there is no layer 'Relu' (did you mean 'ReLU'?)"]),
        ([{"type": "Parallel", "branches": [["ReLU"], None]}], ["model.layers.0.branches: expected two or more lists of layers"]),
        ([{"type": "Parallel", "branches": [["ReLU"]]}], ["model.layers.0.branches: expected two or more lists of layers"]),
        ([{"type": "Parallel", "branches": [["ReLU"], [POOL]]}], ["model.layers.0: Concatenate cannot merge branches of 8×8×4, 2×2×4"]),
        ([{"type": "Parallel", "branches": [["ReLU"], []], "merge": "Sum"}], ["model.layers.0.merge: there is no layer 'Sum'"]),
        ([{"type": "Parallel", "branches": [["ReLU"], ["Rleu"]], "merge": "Conv2D"}],
         ["model.layers.0.branches.1.0.type: there is no layer 'Rleu'", "model.layers.0.merge: Conv2D cannot be used in merge"]),
        ([POOL, POOL, {"type": "Parallel", "branches": [["Dens"], ["ReLU"]]}],
         ["model.layers.1: MaxPooling2D's window 3×3 does not fit its 2×2 input (after model.layers.0, MaxPooling2D)", "model.layers.2.branches.0.0.type: there is no layer 'Dens'", "model.layers.2.branches.0.0: Dense needs units"]),
        ([{"type": "Dropout", "rate": 7.0}, {"type": "BatchNormalization", "axis": 9}, {**CONV, "activation": "rleu", "use_bias": "x"}, POOL, POOL],
         ["model.layers.0.rate: ", "model.layers.1: BatchNormalization does not fit", "model.layers.2.activation: there is no activation 'rleu'",
          "model.layers.2.use_bias: must be true or false", "model.layers.4: MaxPooling2D's window 3×3 does not fit its 2×2 input"]),
        ([{"type": "Residual", "layers": [{**CONV, "filters": 5}]}, {"type": "Residual", "layers": [POOL]}],
         ["model.layers.0: the layers of Residual end in 8×8×5, its shortcut in 8×8×4", "model.layers.1: the layers of Residual end in 2×2×5, its shortcut in 8×8×5"]),
        ([{"type": "MaxPool2D", "pool": 2}], ["model.layers.0.type: there is no layer 'MaxPool2D' (did you mean 'MaxPooling2D'?)", "model.layers.0.pool: MaxPooling2D has no argument 'pool' (did you mean 'pool_size'?)"]),
        ([{**CONV, "kernel_size": "3x3", "padding": "sme", "kernel_regularizer": {"module": "os", "class_name": "L2", "config": {}}}],
         ["model.layers.0.kernel_size: must be a whole number", "model.layers.0.padding: must be valid or same, found 'sme' (did you mean 'same'?)", "model.layers.0.kernel_regularizer: expected a name, or a mapping of class_name and config"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_at_its_place(layers: list[Any], messages: list[str]):
    """By the override that reaches it, each mistake once, also after one that ended the graph."""
    found = sorted(set(problems(layers)))
    assert len(found) == len(messages)
    for message in messages:
        assert any(text.startswith(message) for text in found), found
