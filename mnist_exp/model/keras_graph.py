"""The connections between the layers of a Keras model, found by the identity of tensors."""

from __future__ import annotations

from typing import Any

import keras

Tensor = Any  # keras.KerasTensor


class Graph:
    """The connections between the layers of a functional model in which each layer is called once.

    A tensor that no layer of the model returns (in a nested or shared layer, which configs cannot make) has no
    source.
    """

    def __init__(self, model: keras.Model) -> None:
        self._outputs = list(model.outputs)
        self._sources = {id(layer.output): layer for layer in model.layers}
        self._consumers: dict[str, list[keras.Layer]] = {layer.name: [] for layer in model.layers}
        for layer in model.layers:
            for source in self.inputs_of(layer):
                self._consumers[source.name].append(layer)

    def source(self, tensor: Tensor) -> keras.Layer | None:
        """Return the layer that produces a tensor; None if no layer does."""
        return self._sources.get(id(tensor))

    def inputs_of(self, layer: keras.Layer) -> list[keras.Layer]:
        """Return the layers that feed the given layer, in the order of its inputs."""
        if isinstance(layer, keras.layers.InputLayer):
            return []
        sources = [self.source(tensor) for tensor in input_tensors(layer)]
        return [source for source in sources if source is not None]

    def input_of(self, layer: keras.Layer) -> keras.Layer | None:
        """Return the layer that feeds the given layer, or None if it does not have exactly one input layer."""
        inputs = self.inputs_of(layer)
        return inputs[0] if len(inputs) == 1 else None

    def is_sole_consumer(self, layer: keras.Layer, source: keras.Layer) -> bool:
        """Return whether only the given layer takes the output of `source`."""
        is_output = any(output is source.output for output in self._outputs)
        return not is_output and self._consumers[source.name] == [layer]


def input_tensors(layer: keras.Layer) -> list[Tensor]:
    """Return a layer's input tensors, as a list even if there is only one."""
    return list(layer.input) if isinstance(layer.input, (list, tuple)) else [layer.input]


def functional_graph(model: keras.Model) -> keras.Model:
    """Return a classifier as a functional graph from its images to its scores.

    A `Sequential` model is copied, because each of its layers is called once while the model is built up and once
    for the whole: `layer.output` would be a tensor of another graph.
    """
    graph = keras.Model(model.inputs[0], model.outputs[0])
    if not isinstance(model, keras.Sequential):
        return graph
    copy = keras.models.clone_model(graph)
    copy.set_weights(model.get_weights())
    return copy
