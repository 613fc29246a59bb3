"""Layers are connected by the identity of their tensors; fails first if Keras makes new tensors on access."""

from __future__ import annotations

from pathlib import Path

import keras
import pytest

from mnist_exp.config.hydra_adapter import conf_folder
from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.model.build import build
from mnist_exp.model.keras_graph import Graph, input_tensors
from mnist_exp.model.preprocessing import Statistics

MODELS = sorted(path.stem for path in (conf_folder() / "model").glob("*.yaml"))


@pytest.mark.parametrize("name", MODELS)
def test_sources_are_those_that_keras_remembers(name: str):
    """In every built-in model, each edge is the one that Keras records on the tensor."""
    config, _ = compose_checked(Request("train", ("data=digits", f"model={name}")), TrainConfig)
    model = build(config, Statistics(), "float32")
    graph = Graph(model)
    assert graph.source(model.output) is model.output._keras_history.operation
    for layer in model.layers:
        expected = [tensor._keras_history.operation for tensor in input_tensors(layer)]
        if isinstance(layer, keras.layers.InputLayer):
            assert graph.inputs_of(layer) == []
        else:
            assert graph.inputs_of(layer) == expected
            for source in expected:
                sole = len(source._outbound_nodes) == 1
                assert graph.is_sole_consumer(layer, source) == sole


def test_a_loaded_model_has_the_same_graph(tmp_path: Path):
    """The graph survives saving and loading, also for a layer with two inputs."""
    inputs = keras.Input((4,), name="pixels")
    x = keras.layers.Dense(4, name="dense")(inputs)
    outputs = keras.layers.Add(name="add")([inputs, x])
    keras.Model(inputs, outputs).save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    graph = Graph(model)
    add, dense, pixels = (model.get_layer(name) for name in ("add", "dense", "pixels"))
    assert graph.inputs_of(add) == [pixels, dense]
    assert graph.input_of(add) is None
    assert graph.input_of(dense) is pixels
    assert graph.is_sole_consumer(add, dense)
    assert not graph.is_sole_consumer(dense, pixels)


def test_an_output_of_the_model_is_consumed_by_the_caller():
    """A layer whose output the model returns has no sole consumer."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(4, name="hidden")(inputs)
    model = keras.Model(inputs, [hidden, keras.layers.Dense(2, name="end")(hidden)])
    assert not Graph(model).is_sole_consumer(model.get_layer("end"), model.get_layer("hidden"))


def test_a_tensor_from_inside_a_nested_model_has_no_source():
    """Inner layers of nested models, which configs cannot make, are not part of the graph."""
    inner_input = keras.Input((4,))
    inner = keras.Model(inner_input, keras.layers.Dense(3)(inner_input), name="inner")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inner(inputs)))
    assert Graph(model).input_of(model.layers[-1]) is None
