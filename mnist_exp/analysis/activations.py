"""Layer outputs, and class activation maps: the parts of an image that contribute to a class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from mnist_exp.analysis.receptive_field import Axes, Axis
from mnist_exp.data.dataset import Images
from mnist_exp.keras_spec.layer_types import traits
from mnist_exp.model.keras_graph import Graph
from mnist_exp.model.layer_selection import designed_layers

Floats = npt.NDArray[np.float32]


def compute_outputs(model: keras.Model, layers: Sequence[keras.Layer], images: Images) -> list[Floats]:
    """Return each layer's output for raw images (n, height, width, channels), computed in inference mode."""
    if not layers:
        return []
    found = keras.Model(model.input, [layer.output for layer in layers])(images, training=False)
    outputs = found if isinstance(found, (list, tuple)) else [found]  # Keras unwraps a list of one
    return [np.asarray(keras.ops.convert_to_numpy(output), np.float32) for output in outputs]


def is_spatial(layer: keras.Layer) -> bool:
    """Return whether a layer's output has rows, columns and channels, and more than one position."""
    shape = layer.output.shape
    return len(shape) == 4 and shape[1] * shape[2] > 1


def find_averaged_layer(model: keras.Model) -> tuple[keras.Layer, Floats | None] | None:
    """Find the layer whose maps are averaged into the class scores by a `GlobalAveragePooling2D`.

    Returns:
        The layer and the kernel (channels, classes) of the dense layer after the average; the kernel is None if
        there is no dense layer. If the model does not end this way, None instead of the pair.
    """
    graph, kernel = Graph(model), None
    layer = graph.source(model.output)
    while layer is not None:
        kind = type(layer).__name__
        if kind == "GlobalAveragePooling2D":
            source = graph.input_of(layer)
            return None if source is None else (source, kernel)
        if kind == "Dense" and kernel is None and _activation(layer) in ("linear", "softmax"):
            kernel = np.asarray(keras.ops.convert_to_numpy(layer.kernel), np.float32)
        elif not (traits(layer).is_inert or (kernel is None and _keeps_order(layer))):
            return None
        layer = graph.input_of(layer)
    return None


def _activation(layer: keras.Layer) -> str | None:
    return getattr(getattr(layer, "activation", None), "__name__", None)


def _keeps_order(layer: keras.Layer) -> bool:
    """Return whether a layer after the class scores is a softmax or a linear activation."""
    kind = type(layer).__name__
    return kind == "Softmax" or (kind == "Activation" and _activation(layer) in ("linear", "softmax"))


def last_spatial_layers(model: keras.Model) -> list[keras.Layer]:
    """Return the last layer that lies on all paths and whose maps are as large as the last convolution's.

    If the paths merge only after the last layer with rows and columns, return the last such layer of each path.
    """
    graph, layers = Graph(model), designed_layers(model)
    spatial = [layer for layer in _bottlenecks(graph, layers) if is_spatial(layer)]
    convolved = [layer.output.shape[1:3] for layer in layers if traits(layer).is_convolution and is_spatial(layer)]
    as_large = [layer for layer in spatial if layer.output.shape[1:3] == convolved[-1]] if convolved else spatial
    return (as_large or spatial)[-1:] or _last_of_each_path(graph, layers)


def _last_of_each_path(graph: Graph, layers: Sequence[keras.Layer]) -> list[keras.Layer]:
    """Return, for each path, the last layer whose maps are as large as its last convolution's."""
    before = {layer.name: [one for one in graph.inputs_of(layer) if one in layers] for layer in layers}
    feeds_spatial = {one.name for layer in layers if is_spatial(layer) for one in before[layer.name]}
    found = []
    for end in (layer for layer in layers if is_spatial(layer) and layer.name not in feeds_spatial):
        path = [end]
        while len(earlier := before[path[-1].name]) == 1 and is_spatial(earlier[0]):
            path += earlier
        convolved = [layer.output.shape[1:3] for layer in path if traits(layer).is_convolution]
        size = next(iter(convolved), end.output.shape[1:3])
        found.append(next(layer for layer in path if layer.output.shape[1:3] == size))
    return found


def _bottlenecks(graph: Graph, layers: Sequence[keras.Layer]) -> list[keras.Layer]:
    """Return, in computation order, each layer whose output is the only one that later layers need."""
    last_use = {source.name: number for number, layer in enumerate(layers) for source in graph.inputs_of(layer)}
    of_others = set(last_use) - {layer.name for layer in layers}  # the pixels, which a shortcut may need again
    found, needed_until = [], max((last_use[name] for name in of_others), default=0)
    for number, layer in enumerate(layers):
        if needed_until <= number:
            found.append(layer)
        needed_until = max(needed_until, last_use.get(layer.name, number))
    return found


def class_activation(maps: Floats, kernel: Floats | None, classes: npt.NDArray[np.int64]) -> Floats:
    """Compute how much each position adds to the score of an image's class.

    The mean over all positions is the score without its bias. See Zhou et al., "Learning Deep Features for
    Discriminative Localization" (2016).

    Args:
        maps: The output (n, rows, columns, channels) of the layer that `find_averaged_layer` returns.
        kernel: The kernel that `find_averaged_layer` returns.
        classes: The class of each image.

    Returns:
        An array (n, rows, columns).
    """
    per_class = maps if kernel is None else maps @ kernel
    return per_class[np.arange(len(maps)), :, :, classes]


def grad_cam(model: keras.Model, layer: keras.Layer, images: Images, classes: npt.NDArray[np.int64]) -> Floats:
    """Compute where a layer's maps contribute to an image's class (Selvaraju et al., "Grad-CAM", 2017).

    The maps are weighted by the mean gradient of the class score. The score is taken before the softmax, as the
    gradient of a confident prediction vanishes after it.

    Returns:
        An array (n, rows, columns) without negative values.
    """
    pixels = tf.convert_to_tensor(images, tf.float32)
    with class_scores(model) as (scores, _), tf.GradientTape() as tape:
        tape.watch(pixels)
        maps, found = keras.Model(model.input, [layer.output, scores])(pixels, training=False)
        wanted = tf.gather(found, classes, axis=1, batch_dims=1)
    gradients = tape.gradient(wanted, maps, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
    return np.asarray(tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1)), np.float32)


@contextmanager
def class_scores(model: keras.Model) -> Iterator[tuple[Any, Callable[[Any], Any]]]:
    """Yield the class scores before the model's final softmax, and the function from scores to probabilities."""
    graph = Graph(model)
    layer = graph.source(model.output)
    while layer is not None and traits(layer).is_inert:
        layer = graph.input_of(layer)
    if layer is not None and type(layer).__name__ == "Softmax" and layer.output is model.output:
        yield layer.input, keras.activations.softmax
    elif layer is not None and _activation(layer) == "softmax":
        softmax, layer.activation = layer.activation, keras.activations.linear
        try:
            yield model.output, softmax
        finally:
            layer.activation = softmax
    else:
        yield model.output, keras.activations.linear


def resize_to_image(maps: Floats, axes: Axes, shape: tuple[int, int]) -> Floats:
    """Resize maps (n, rows, columns) to the size of the image.

    Each unit is placed at the centre of its receptive field. Values are interpolated linearly between units and
    fade to zero at the edges of the outermost receptive fields.

    Args:
        maps: Values of a layer's units.
        axes: That layer's entry in `receptive_axes`.
        shape: The rows and columns of the image.
    """
    if 1 in axes and axes[1].of == 1:
        maps, axes = maps.swapaxes(1, 2), {1: axes[2], 2: axes[1]} if 2 in axes else {2: axes[1]}
    for number, size in enumerate(shape, start=1):
        spread = _spread(maps.shape[number], axes.get(number), size)
        maps = np.moveaxis(np.tensordot(maps, spread, axes=(number, 0)), -1, number).astype(np.float32)
    return maps


@lru_cache(maxsize=16)  # the demo page asks for the same one after each stroke
def _spread(units: int, axis: Axis | None, pixels: int) -> npt.NDArray[np.float64]:
    """Return the weight of each unit in each pixel, shape (units, pixels)."""
    ordered = axis if axis is not None and not axis.is_uneven else None
    known = [ordered.span(unit, inside=False) if ordered else None for unit in range(units)]
    spans = [span for span in known if span is not None]
    if len(spans) < units:  # the receptive fields cover the whole image or are unevenly spaced
        spans = [(unit * pixels // units, (unit + 1) * pixels // units - 1) for unit in range(units)]
    middles = [spans[0][0] - 1, *np.mean(spans, axis=1), spans[-1][1] + 1]
    return np.stack([np.interp(np.arange(pixels), middles, [0, *one, 0]) for one in np.eye(units)])
