"""The weights of a layer as filters: what it looks for at each place."""

from __future__ import annotations

import math
from dataclasses import dataclass

import keras
import numpy as np
import numpy.typing as npt

from mnist_exp.model.preprocessing import is_preprocessing

# Between an image and a dense layer: what leaves every value where it was.
_IN_PLACE = frozenset(
    {
        *(
            "Activation",
            "ActivityRegularization",
            "AlphaDropout",
            "BatchNormalization",
            "Dropout",
            "ELU",
            "Flatten",
        ),
        *("GaussianDropout", "GaussianNoise", "Identity", "LeakyReLU", "PReLU", "ReLU", "Reshape", "Rescaling"),
    }
)


@dataclass(frozen=True)
class Filters:
    """Kernels (rows, columns, inputs, outputs); 1×1 where the weights have no place in an image."""

    name: str
    """What Keras calls these weights."""
    weights: npt.NDArray[np.float32]
    reads_colours: bool
    """Whether its inputs are the image's red, green and blue."""

    @property
    def is_spatial(self) -> bool:
        """Whether there is something to see but a matrix of inputs and outputs."""
        return bool(self.weights.shape[0] * self.weights.shape[1] > 1)


def filters_of(layer: keras.Layer) -> list[Filters]:
    """A layer's kernels, none for a layer without. A dense layer's, on what was an image, have its shape."""
    found = []
    for weight in layer.weights:
        if "kernel" in weight.name and len(weight.shape) > 1:
            kernel = _as_kernel(layer, weight.name, np.asarray(keras.ops.convert_to_numpy(weight), np.float32))
            found.append(Filters(weight.name, kernel, kernel.shape[2] == 3 and _reads_image(layer)))
    return found


def _reads_image(layer: keras.Layer) -> bool:
    operation = layer.input._keras_history.operation
    if isinstance(operation, keras.layers.Flatten):
        operation = operation.input._keras_history.operation
    return isinstance(operation, keras.layers.InputLayer) or is_preprocessing(operation)


def _as_kernel(layer: keras.Layer, name: str, weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    kind = type(layer).__name__
    if weight.ndim == 4:
        if "Transpose" in kind:
            return weight.swapaxes(2, 3)
        is_depthwise = kind == "DepthwiseConv2D" or name == "depthwise_kernel"
        return weight.reshape(*weight.shape[:2], 1, -1) if is_depthwise else weight
    if weight.ndim == 3 and ("Conv1D" in kind):  # steps × inputs
        if "Transpose" in kind:
            weight = weight.swapaxes(1, 2)
        if kind == "DepthwiseConv1D" or name == "depthwise_kernel":
            return weight.reshape(len(weight), 1, 1, -1)
        return weight[:, :, np.newaxis, :]
    outputs = weight.shape[-1]
    shape = _flattened(layer) if kind == "Dense" else None
    if shape is not None:
        return weight.reshape(*shape, outputs)
    return weight.reshape(1, 1, -1, outputs)


def _flattened(layer: keras.Layer) -> tuple[int, int, int] | None:
    """The rows, columns and channels that a dense layer's inputs were; None where they were no image."""
    tensor = layer.input
    if tensor.ndim != 2:
        return None
    while tensor.ndim == 2:
        operation = tensor._keras_history.operation
        if type(operation).__name__ not in _IN_PLACE or isinstance(operation.input, list):
            return None
        tensor = operation.input
    size = tensor.shape[1:]
    shape = (size[0], size[1], size[2]) if len(size) == 3 else (*size, 1) if len(size) == 2 else None
    return shape if shape is not None and math.prod(shape) == layer.input.shape[1] else None
