"""Repeat, Residual and Parallel: the models that they build, and the problems that they report."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from support.golden import Golden

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
    """Return all problems; those that Keras finds come last."""
    parsed = parse_layers(layers)
    found = [f"{fault.path}: {fault.message}" for fault in parsed.faults]
    apply_layers(parsed.specs, keras.Input(shape), lambda path, text: found.append(f"{path}: {text}"))
    return found


def names(model: keras.Model) -> list[str]:
    return [layer.name for layer in model.layers[1:]]


def test_repeat_writes_a_list_several_times():
    """Each repetition has its own weights and numbered names; 0 repetitions add no layers."""
    model = build([{"type": "Repeat", "times": 3, "layers": [CONV, "ReLU"]}, "Flatten"])
    assert names(model) == ["conv2d", "re_lu", "conv2d_1", "re_lu_1", "conv2d_2", "re_lu_2", "flatten"]
    assert len(model.weights) == 6
    assert names(build([{"type": "Repeat", "times": 0, "layers": [CONV]}, "Flatten"])) == ["flatten"]


def test_names_given_in_a_repetition_are_numbered():
    """This also holds for nested repetitions."""
    inner = {"type": "Repeat", "times": 2, "layers": [{**CONV, "name": "conv"}]}
    model = build([{"type": "Repeat", "times": 2, "layers": [inner]}, {**CONV, "name": "last"}])
    assert names(model) == ["conv", "conv_1", "conv_2", "conv_3", "last"]


def test_residual_adds_its_shortcut():
    """The shortcut is the input itself or the output of a list of layers."""
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
    """Any of Keras' merging layers can be used, with its arguments; an empty branch passes the input on."""
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
    """The last layer computes in float32, even if the model computes in half precision."""
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
    ("layers", "places"),
    [
        ([{"type": "Repeat", "layers": [CONV]}], ["model.layers.0:"]),
        ([{"type": "Repeat", "times": "2", "layers": [CONV]}], ["model.layers.0.times:"]),
        ([{"type": "Repeat", "times": -1, "layers": [CONV]}], ["model.layers.0.times:"]),
        ([{"type": "Repeat", "times": 10**6, "layers": [CONV]}], ["model.layers.0.times:"]),
        ([{"type": "Residual", "layers": [CONV], "shortcut": False}], ["model.layers.0.shortcut:"]),
        ([{**CONV, "name": "preprocess_2"}], ["model.layers.0.name:"]),
        ([{"type": "Repeat", "time": 2, "layers": [CONV]}], ["model.layers.0.time:"]),
        ([{"type": "Repeat", "times": 2, "layers": "ReLU"}], ["model.layers.0.layers:"]),
        ([{"type": "Repet", "times": 2, "layers": []}], ["model.layers.0.type:"]),
        ([{"type": "Repeat", "times": 3, "layers": [POOL]}], ["model.layers.0.layers.0:"]),
        ([{"type": "Residual", "layers": [{**CONV, "filters": 5}]}], ["model.layers.0:"]),
        ([{"type": "Residual", "layers": [{**CONV, "fliters": 5}], "shortcut": ["Relu"]}],
         ["model.layers.0.layers.0.fliters:", "model.layers.0.shortcut.0.type:"]),
        ([{"type": "Parallel", "branches": [["ReLU"], None]}], ["model.layers.0.branches:"]),
        ([{"type": "Parallel", "branches": [["ReLU"]]}], ["model.layers.0.branches:"]),
        ([{"type": "Parallel", "branches": [["ReLU"], [POOL]]}], ["model.layers.0:"]),
        ([{"type": "Parallel", "branches": [["ReLU"], []], "merge": "Sum"}], ["model.layers.0.merge:"]),
        ([{"type": "Parallel", "branches": [["ReLU"], ["Rleu"]], "merge": "Conv2D"}],
         ["model.layers.0.branches.1.0.type:", "model.layers.0.merge:"]),
        ([POOL, POOL, {"type": "Parallel", "branches": [["Dens"], ["ReLU"]]}],
         ["model.layers.1:", "model.layers.2.branches.0.0.type:", "model.layers.2.branches.0.0:"]),
        ([{"type": "Dropout", "rate": 7.0}, {"type": "BatchNormalization", "axis": 9}, {**CONV, "activation": "rleu", "use_bias": "x"}, POOL, POOL],
         ["model.layers.0.rate:", "model.layers.1:", "model.layers.2.activation:",
          "model.layers.2.use_bias:", "model.layers.4:"]),
        ([{"type": "Residual", "layers": [{**CONV, "filters": 5}]}, {"type": "Residual", "layers": [POOL]}],
         ["model.layers.0:", "model.layers.1:"]),
        ([{"type": "MaxPool2D", "pool": 2}], ["model.layers.0.type:", "model.layers.0.pool:"]),
        ([{**CONV, "kernel_size": "3x3", "padding": "sme", "kernel_regularizer": {"module": "os", "class_name": "L2", "config": {}}}],
         ["model.layers.0.kernel_size:", "model.layers.0.padding:", "model.layers.0.kernel_regularizer:"]),
    ],
)  # fmt: skip
def test_each_faulty_layer_is_reported_once_at_its_place(layers: list[Any], places: list[str], golden: Golden):
    """Also after a layer whose fault leaves the shape of its output unknown."""
    found = sorted(set(problems(layers)))
    assert [f"{text.partition(':')[0]}:" for text in found] == sorted(places)
    golden("\n".join(found))
