"""The kernels of a layer as filters that can be drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import keras
import numpy as np
import numpy.typing as npt

from mnist_exp.keras_spec.layer_types import traits
from mnist_exp.model.keras_graph import Graph
from mnist_exp.model.preprocessing import is_preprocessing


@dataclass(frozen=True)
class Filters:
    """Kernels (rows, columns, inputs, outputs); 1×1 for non-spatial weights."""

    name: str
    """Keras' name for these weights."""
    weights: npt.NDArray[np.float32]
    reads_colours: bool
    """Whether the inputs are the image's red, green and blue."""

    @property
    def is_spatial(self) -> bool:
        """Whether the kernel is larger than 1×1."""
        return bool(self.weights.shape[0] * self.weights.shape[1] > 1)


def list_filters(layer: keras.Layer, model: keras.Model) -> list[Filters]:
    """Return a layer's kernels. If a dense layer reads a flattened image, its kernel has the image's shape."""
    graph, filters = Graph(model), []
    for weight in layer.weights:
        if "kernel" in weight.name and len(weight.shape) > 1:
            values = np.asarray(keras.ops.convert_to_numpy(weight), np.float32)
            kernel = _as_kernel(layer, weight.name, values, graph)
            filters.append(Filters(weight.name, kernel, kernel.shape[2] == 3 and _reads_image(layer, graph)))
    return filters


def _reads_image(layer: keras.Layer, graph: Graph) -> bool:
    source = graph.input_of(layer)
    if isinstance(source, keras.layers.Flatten):
        source = graph.input_of(source)
    return source is None or isinstance(source, keras.layers.InputLayer) or is_preprocessing(source)


def _as_kernel(
    layer: keras.Layer, name: str, weight: npt.NDArray[np.float32], graph: Graph
) -> npt.NDArray[np.float32]:
    kernel = traits(layer).kernel
    if traits(layer).is_convolution:
        is_depthwise = kernel == "depthwise" or name == "depthwise_kernel"
        if kernel == "transposed":
            weight = weight.swapaxes(-1, -2)
        if weight.ndim == 4:
            return weight.reshape(*weight.shape[:2], 1, -1) if is_depthwise else weight
        return weight.reshape(len(weight), 1, 1, -1) if is_depthwise else weight[:, :, np.newaxis, :]
    outputs = weight.shape[-1]
    shape = _image_shape(layer, graph) if kernel == "dense" else None
    return weight.reshape(*(shape or (1, 1, -1)), outputs)


def _image_shape(layer: keras.Layer, graph: Graph) -> tuple[int, int, int] | None:
    """Return the rows, columns and channels of the image that was flattened into a dense layer's input."""
    tensor = layer.input
    if tensor.ndim != 2:
        return None
    while tensor.ndim == 2:
        source = graph.source(tensor)
        if (
            source is None
            or isinstance(source, keras.layers.InputLayer)
            or traits(source).reads not in ("position", "reshaped")
        ):
            return None
        tensor = source.input
    size = tensor.shape[1:]
    shape = (size[0], size[1], size[2]) if len(size) == 3 else (*size, 1) if len(size) == 2 else None
    return shape if shape is not None and math.prod(shape) == layer.input.shape[1] else None
