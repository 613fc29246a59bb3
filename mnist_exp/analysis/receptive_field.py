"""Receptive fields: which rows and columns of the image a unit of a layer can see.

An axis knows, for each of its indices, which indices of the axis before it are read; what is seen of the image
follows by going back. So it is exact for strides, dilation, padding, transposed convolutions and merges alike.
Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks" (Distill, 2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

Reads = Callable[[int], range]
Seen = tuple[int, int] | None

# Layers whose unit at a place reads the input at that place alone.
_POINTWISE = frozenset(
    {
        *("Activation", "ActivityRegularization", "AlphaDropout", "Dropout", "ELU", "GaussianDropout"),
        *("GaussianNoise", "Identity", "LeakyReLU", "PReLU", "RMSNormalization", "ReLU", "Rescaling"),
        *("SpatialDropout1D", "SpatialDropout2D"),
    }
)
_REPEATS = 60  # a multiple of all small numbers
_MERGES = frozenset({"Add", "Average", "Maximum", "Minimum", "Multiply"})


@dataclass(eq=False)
class Axis:
    """An axis of a layer's output: the rows or the columns of an image, or the steps of a sequence."""

    length: int
    before: tuple[Axis, ...] = ()
    reads: Reads = range  # never asked where nothing is before
    """Which indices of the axis before an index reads; they may lie outside of it."""
    of: int = 0
    """Which axis of the image this is: 0 its rows, 1 its columns."""
    _seen: dict[tuple[int, bool], Seen] = field(default_factory=dict, repr=False)

    def seen(self, index: int, *, inside: bool = True) -> Seen:
        """The first and the last row (or column) of the image that an index sees; None where it sees nothing.

        With `inside=False`, as if the image and every layer went on without end: padding counts as seen.
        """
        if not self.before:
            return (index, index)
        key = (index, inside)
        if key not in self._seen:
            # All that are read, not the outermost alone: with dilation an inner one may see further.
            spans = [
                span
                for axis in self.before
                for i in self.reads(index)
                if (not inside or 0 <= i < axis.length) and (span := axis.seen(i, inside=inside))
            ]
            self._seen[key] = (min(low for low, _ in spans), max(high for _, high in spans)) if spans else None
        return self._seen[key]


@dataclass(frozen=True)
class Field:
    """The receptive field along one axis of the image: units `stride` apart see `size` pixels each.

    `start` is the first pixel that the first unit sees, negative where it sees padding. A `size` of None is all.
    """

    size: int | None
    stride: float
    start: int


Axes = dict[int, Axis]
"""A tensor's axes (1 is the first after the batch) along which its units see different parts of the image.

Along an axis of the image that none of them stands for, every unit sees all of it.
"""


def receptive_axes(model: keras.Model) -> dict[str, Axes]:
    """The axes of each layer's output, by the layer's name."""
    by_tensor: dict[int, Axes] = {}
    by_layer: dict[str, Axes] = {}
    for layer in model.layers:
        outputs = layer.output
        if isinstance(layer, keras.layers.InputLayer):
            shape = outputs.shape
            axes = {axis: Axis(shape[axis], of=axis - 1) for axis in (1, 2)}
        else:
            inputs = layer.input if isinstance(layer.input, list) else [layer.input]
            axes = _after(layer, [by_tensor[id(tensor)] for tensor in inputs], inputs)
        by_tensor[id(outputs)] = by_layer[layer.name] = axes
    return by_layer


def fields(axes: Axes) -> tuple[Field, Field]:
    """The receptive field of a layer's units along the rows and the columns of the image."""
    found = [Field(None, 0, 0), Field(None, 0, 0)]
    for axis in axes.values():
        # Neighbours may see different numbers of pixels after upsampling; all repeats after a while.
        spans = [span for unit in range(_REPEATS) if (span := axis.seen(unit, inside=False))]
        last = axis.seen(_REPEATS, inside=False)
        assert spans
        assert last
        size = max(high - low + 1 for low, high in spans)
        found[axis.of] = Field(size, (last[0] - spans[0][0]) / _REPEATS, spans[0][0])
    return found[0], found[1]


def seen_by(
    axes: Axes, unit: tuple[int, int], image: tuple[int, int], *, inside: bool = True
) -> tuple[Seen, Seen]:
    """The rows, and the columns, that a unit (row, column) of a layer's output sees of an image of that size: the
    first and the last. `inside` is that of `Axis.seen`.
    """
    found: list[Seen] = [(0, size - 1) for size in image]
    for number, axis in axes.items():
        found[axis.of] = axis.seen(unit[number - 1], inside=inside)
    return found[0], found[1]


def _after(layer: keras.Layer, inputs: Sequence[Axes], tensors: Sequence[Any]) -> Axes:
    kind = type(layer).__name__
    before, shape = inputs[0], layer.output.shape
    rank = len(shape)

    def along(reads: Callable[[int, int], Reads]) -> Axes:
        """`reads(number, length)` for each axis: its number among the spatial ones, and its input's length."""
        return {
            number: Axis(shape[number], (axis,), reads(number - 1, axis.length), axis.of)
            for number, axis in before.items()
            if number < rank - 1
        }

    if kind in _POINTWISE:
        return before
    if kind in _MERGES or (kind == "Concatenate" and layer.axis in (-1, rank - 1)):
        return _union(inputs)
    if kind in ("Softmax", "UnitNormalization", "LayerNormalization", "BatchNormalization"):
        return _without(before, _normalized(layer, rank))
    if kind == "Dense":
        return {number: axis for number, axis in before.items() if number < rank - 1}
    if kind == "Permute":
        return {new: before[old] for new, old in enumerate(layer.dims, start=1) if old in before}
    if kind == "Reshape":
        return _reshaped(before, tensors[0].shape, shape)
    if hasattr(layer, "kernel_size") or hasattr(layer, "pool_size"):
        return along(lambda number, length: _window(layer, kind, number, length, shape[number + 1]))
    if kind.startswith("UpSampling"):
        sizes = _pair(layer.size)
        interpolates = getattr(layer, "interpolation", "nearest") != "nearest"
        return {} if interpolates else along(lambda number, _: lambda i: _only(i // sizes[number]))
    if kind.startswith(("ZeroPadding", "Cropping")):
        amounts = layer.padding if kind.startswith("Zero") else layer.cropping
        shifts = [pair[0] if isinstance(pair, (tuple, list)) else pair for pair in amounts]
        if rank == 3:
            shifts = [amounts[0]]
        sign = -1 if kind.startswith("Zero") else 1
        return along(lambda number, _: lambda i: _only(i + sign * shifts[number]))
    # Flatten, global pooling, recurrent layers, EinsumDense, GroupNormalization and the like: everything.
    return {}


def _window(layer: keras.Layer, kind: str, number: int, length: int, outputs: int) -> Reads:
    """A convolution's or a pooling's window along an axis."""
    size = _pair(layer.kernel_size if hasattr(layer, "kernel_size") else layer.pool_size)[number]
    stride = _pair(layer.strides)[number]
    dilation = _pair(getattr(layer, "dilation_rate", 1))[number]
    span = dilation * (size - 1) + 1
    if "Transpose" in kind:
        # Backwards: an output is read from wherever a convolution with these strides would write it to.
        padding = max((length - 1) * stride + span - outputs, 0) // 2 if layer.padding == "same" else 0
        return lambda i: range(math.ceil((i + padding - span + 1) / stride), (i + padding) // stride + 1)
    if layer.padding == "same":
        padding = max((outputs - 1) * stride + span - length, 0) // 2
    else:
        padding = span - 1 if layer.padding == "causal" else 0
    return lambda i: range(i * stride - padding, i * stride - padding + span, dilation)


def _only(index: int) -> range:
    return range(index, index + 1)


def _normalized(layer: keras.Layer, rank: int) -> set[int]:
    """The axes over which a layer computes one number, so that its units see all of them."""
    if type(layer).__name__ == "BatchNormalization":
        return set()
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    return {axis % rank for axis in axes}


def _without(before: Axes, gone: set[int]) -> Axes:
    return {number: axis for number, axis in before.items() if number not in gone}


def _union(inputs: Sequence[Axes]) -> Axes:
    """What any of the merged tensors sees; an axis that is not there in one of them is seen whole."""
    shared = set(inputs[0]).intersection(*inputs[1:])
    merged = {}
    for number in sorted(shared):
        axes = tuple(each[number] for each in inputs)
        if len({axis.of for axis in axes}) == 1:
            merged[number] = axes[0] if len(set(map(id, axes))) == 1 else Axis(
                axes[0].length, axes, _only, axes[0].of
            )  # fmt: skip
    return merged


def _reshaped(before: Axes, old: Sequence[int], new: Sequence[int]) -> Axes:
    """Axes that come before anything that is taken apart or put together stay what they are."""
    kept = {}
    for number in range(1, min(len(old), len(new)) - 1):
        if old[number] != new[number]:
            break
        if number in before:
            kept[number] = before[number]
    return kept


def _pair(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)
