"""What happens inside a model: its layers' outputs, and which places speak for a class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from mnist_exp.analysis.layer_selection import designed
from mnist_exp.analysis.receptive_field import Axes, Axis
from mnist_exp.data.dataset import Images

Floats = npt.NDArray[np.float32]
# What may stand between the average and the scores, or the scores and the output, and changes none of them.
_PASSING = ("Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise", "Identity", "Flatten", "Reshape")


def outputs_of(model: keras.Model, layers: Sequence[keras.Layer], images: Images) -> list[Floats]:
    """What each of the layers puts out for raw images (n, height, width, channels), as when the model predicts."""
    if not layers:
        return []
    found = keras.Model(model.input, [layer.output for layer in layers])(images, training=False)
    outputs = found if isinstance(found, (list, tuple)) else [found]  # Keras unpacks a list of one
    return [np.asarray(keras.ops.convert_to_numpy(output), np.float32) for output in outputs]


def is_spatial(layer: keras.Layer) -> bool:
    """Whether a layer puts out rows, columns and channels, and more than one place."""
    shape = layer.output.shape
    return len(shape) == 4 and shape[1] * shape[2] > 1


def averaged(model: keras.Model) -> tuple[keras.Layer, Floats | None] | None:
    """The layer whose maps are averaged (`GlobalAveragePooling2D`) into the classes' scores, and the weights
    (channels, classes) of the dense layer between, if there is one; None for a net of another shape.
    """
    operation, kernel = model.output._keras_history.operation, None
    while True:
        kind = type(operation).__name__
        activation = getattr(getattr(operation, "activation", None), "__name__", None)
        if kind == "GlobalAveragePooling2D":
            return operation.input._keras_history.operation, kernel
        if kind == "Dense" and kernel is None and activation in ("linear", "softmax"):
            kernel = np.asarray(keras.ops.convert_to_numpy(operation.kernel), np.float32)
        elif kind not in _PASSING and not (
            kernel is None
            and (kind == "Softmax" or (kind == "Activation" and activation in ("linear", "softmax")))
        ):
            return None
        operation = operation.input._keras_history.operation


def last_spatial(model: keras.Model) -> list[keras.Layer]:
    """The last layer that all paths go through and whose maps are as large as the last convolution's.

    Where paths go their own ways until nothing has rows and columns, the last such layer of each.
    """
    layers = designed(model)
    spatial = [layer for layer in _bottlenecks(layers) if is_spatial(layer)]
    convolved = [
        layer.output.shape[1:3] for layer in layers if "Conv" in type(layer).__name__ and is_spatial(layer)
    ]
    as_large = [layer for layer in spatial if layer.output.shape[1:3] == convolved[-1]] if convolved else spatial
    return (as_large or spatial)[-1:] or _last_of_each_path(layers)


def _last_of_each_path(layers: Sequence[keras.Layer]) -> list[keras.Layer]:
    """Of each path, the last layer whose maps are as large as its last convolution's."""
    by_name = {layer.name: layer for layer in layers}
    before = {layer.name: [by_name[name] for name in _feeding(layer) if name in by_name] for layer in layers}
    feeds_spatial = {one.name for layer in layers if is_spatial(layer) for one in before[layer.name]}
    found = []
    for end in (layer for layer in layers if is_spatial(layer) and layer.name not in feeds_spatial):
        path = [end]
        while len(earlier := before[path[-1].name]) == 1 and is_spatial(earlier[0]):
            path += earlier
        convolved = [layer.output.shape[1:3] for layer in path if "Conv" in type(layer).__name__]
        size = next(iter(convolved), end.output.shape[1:3])
        found.append(next(layer for layer in path if layer.output.shape[1:3] == size))
    return found


def _bottlenecks(layers: Sequence[keras.Layer]) -> list[keras.Layer]:
    """Layers, in the order of computation, after which only their own output is still needed."""
    last_use = {name: number for number, layer in enumerate(layers) for name in _feeding(layer)}
    of_others = set(last_use) - {layer.name for layer in layers}  # the pixels, which a shortcut may need again
    found, needed_until = [], max((last_use[name] for name in of_others), default=0)
    for number, layer in enumerate(layers):
        if needed_until <= number:
            found.append(layer)
        needed_until = max(needed_until, last_use.get(layer.name, number))
    return found


def _feeding(layer: keras.Layer) -> list[str]:
    """The names of the layers whose outputs a layer takes."""
    tensors = layer.input if isinstance(layer.input, list) else [layer.input]
    return [tensor._keras_history.operation.name for tensor in tensors]


def class_activation(maps: Floats, kernel: Floats | None, classes: npt.NDArray[np.int64]) -> Floats:
    """How much each place adds to the score of an image's class: (n, rows, columns).

    The mean over the places is the score, but for a bias. Zhou et al., "Learning Deep Features for Discriminative
    Localization" (2016). `maps` and `kernel` are those of the layer that `averaged` finds.
    """
    per_class = maps if kernel is None else maps @ kernel
    return per_class[np.arange(len(maps)), :, :, classes]


def grad_cam(model: keras.Model, layer: keras.Layer, images: Images, classes: npt.NDArray[np.int64]) -> Floats:
    """Where a layer's maps speak for an image's class: (n, rows, columns), none below 0.

    Selvaraju et al., "Grad-CAM" (2017): the maps, weighted by the mean gradient of the class's score, before the
    softmax: behind it, a sure answer has none.
    """
    pixels = tf.convert_to_tensor(images, tf.float32)
    with _scores(model) as scores, tf.GradientTape() as tape:
        tape.watch(pixels)
        maps, found = keras.Model(model.input, [layer.output, scores])(pixels, training=False)
        wanted = tf.gather(found, classes, axis=1, batch_dims=1)
    gradients = tape.gradient(wanted, maps, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
    return np.asarray(tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1)), np.float32)


@contextmanager
def _scores(model: keras.Model) -> Iterator[Any]:
    """The classes' scores, before a softmax that the model ends in."""
    operation = model.output._keras_history.operation
    while type(operation).__name__ in _PASSING:
        operation = operation.input._keras_history.operation
    if type(operation).__name__ == "Softmax" and operation.output is model.output:
        yield operation.input
    elif getattr(getattr(operation, "activation", None), "__name__", None) == "softmax":
        softmax, operation.activation = operation.activation, keras.activations.linear
        try:
            yield model.output
        finally:
            operation.activation = softmax
    else:
        yield model.output


def laid_over(maps: Floats, axes: Axes, shape: tuple[int, int]) -> Floats:
    """Maps (n, rows, columns) at the size of the image: each unit at the middle of what it sees, linear between,
    and fading to the edges of what the outermost ones see.

    `axes` are those of the layer's output, as `receptive_axes` tells them.
    """
    if 1 in axes and axes[1].of == 1:
        maps, axes = maps.swapaxes(1, 2), {1: axes[2], 2: axes[1]} if 2 in axes else {2: axes[1]}
    for number, size in enumerate(shape, start=1):
        spread = _spread(maps.shape[number], axes.get(number), size)
        maps = np.moveaxis(np.tensordot(maps, spread, axes=(number, 0)), -1, number).astype(np.float32)
    return maps


def _spread(units: int, axis: Axis | None, pixels: int) -> npt.NDArray[np.float64]:
    """The share that each unit has in each pixel, (units, pixels)."""
    seen = [None if axis is None else axis.seen(unit, inside=False) for unit in range(units)]
    spans = [span for span in seen if span is not None]
    if len(spans) < units:  # all see everything
        spans = [(unit * pixels // units, (unit + 1) * pixels // units - 1) for unit in range(units)]
    middles = [spans[0][0] - 1, *np.mean(spans, axis=1), spans[-1][1] + 1]
    return np.stack([np.interp(np.arange(pixels), middles, [0, *one, 0]) for one in np.eye(units)])
