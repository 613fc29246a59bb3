"""Receptive fields: the rows and columns of the image that a unit of a layer depends on.

For each axis of a layer's output, an index is mapped to the indices that it reads along the previous layer's axis.
Following these maps back to the image is exact for strides, dilation, padding, transposed convolutions and merges
alike. For a few fields, only an upper bound is known (`Axis.is_bound`): those after upsampling by cubic or Lanczos
kernels and, if branches are concatenated along one axis of the image, those along the other axis.

See Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks" (Distill, 2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import keras

from mnist_exp.keras_spec.layer_types import traits
from mnist_exp.model.keras_graph import input_tensors

Reads = Callable[[int], Sequence[int]]
"""Maps an index to the indices that it reads on an earlier axis; they may lie outside that axis."""
Span = tuple[int, int] | None

_REPEATS = 60  # a multiple of all numbers up to 6


@dataclass(eq=False)
class Axis:
    """An axis of a layer's output: the rows or the columns of an image, or the steps of a sequence."""

    length: int
    before: tuple[tuple[Axis, Reads], ...] = ()
    """The earlier axes that this one reads, each with its index map; empty for an axis of the image itself."""
    of: int = 0
    """The axis of the image: 0 for its rows, 1 for its columns."""
    enlarges: bool = False
    """Whether units may depend on fewer pixels than `before` suggests."""
    joins: bool = False
    """Whether the axes in `before` are joined end to end along this one, rather than superimposed."""
    _spans: dict[tuple[int, bool], Span] = field(default_factory=dict, repr=False)

    @property
    def is_bound(self) -> bool:
        """Whether `span` may return more pixels than a unit depends on, but never fewer."""
        return self.enlarges or any(axis.is_bound for axis, _ in self.before)

    @property
    def is_uneven(self) -> bool:
        """Whether the spacing and sizes of the fields vary along the axis, except in a short repeating pattern."""
        return self.joins or any(axis.is_uneven for axis, _ in self.before)

    def span(self, index: int, *, inside: bool = True) -> Span:
        """Return the first and last row (or column) of the image in an index's receptive field.

        Args:
            index: An index of this axis.
            inside: If False, treat the image and every layer as unbounded, so that padding counts.

        Returns:
            None if the index depends only on padding.
        """
        if not self.before:
            return (index, index)
        key = (index, inside)
        if key not in self._spans:
            # Follow all indices, not only the outermost: with dilation, an inner one may reach further.
            spans = [
                span
                for axis, reads in self.before
                for i in reads(index)
                if (not inside or 0 <= i < axis.length) and (span := axis.span(i, inside=inside))
            ]
            self._spans[key] = (min(low for low, _ in spans), max(high for _, high in spans)) if spans else None
        return self._spans[key]


@dataclass(frozen=True)
class Field:
    """The receptive field of a layer's units along one axis of the image.

    `size` is in pixels, or None for the whole image. `stride` is the distance between the fields of neighbouring
    units. `start` is the first pixel of the first unit's field, negative if that lies in the padding.
    """

    size: int | None
    stride: float
    start: int
    is_bound: bool = False
    """Whether `size` is only an upper bound."""


Axes = dict[int, Axis]
"""The axes of a tensor (1 is the first after the batch) along which the receptive fields of its units differ.

Along an axis of the image that is missing here, the receptive field of every unit is the whole image.
"""


def receptive_axes(model: keras.Model) -> dict[str, Axes]:
    """Return the axes of each layer's output, keyed by layer name.

    After a nested or shared layer, whose output `Graph` cannot follow, every unit is taken to see the whole image.
    """
    by_tensor: dict[int, Axes] = {}
    by_layer: dict[str, Axes] = {}
    for layer in model.layers:
        outputs = layer.output
        if isinstance(layer, keras.layers.InputLayer):
            shape = outputs.shape
            axes = {axis: Axis(shape[axis], of=axis - 1) for axis in (1, 2)}
        else:
            inputs = input_tensors(layer)
            axes = _after(layer, [by_tensor.get(id(tensor), {}) for tensor in inputs], inputs)
        by_tensor[id(outputs)] = by_layer[layer.name] = axes
    return by_layer


def fields(axes: Axes) -> tuple[Field, Field]:
    """Return the receptive field of a layer's units along the rows and the columns of the image."""
    along = [Field(None, 0, 0), Field(None, 0, 0)]
    for axis in axes.values():
        # After upsampling, the fields of neighbours may differ in size, in a repeating pattern.
        units = range(axis.length if axis.is_uneven else _REPEATS)
        spans = [span for unit in units if (span := axis.span(unit, inside=False))]
        last = axis.span(_REPEATS, inside=False)
        assert spans
        assert last
        size = max(high - low + 1 for low, high in spans)
        stride = spans[1 % len(spans)][0] - spans[0][0] if axis.is_uneven else (last[0] - spans[0][0]) / _REPEATS
        along[axis.of] = Field(size, stride, spans[0][0], axis.is_bound or axis.is_uneven)
    return along[0], along[1]


def field_of_unit(
    axes: Axes, unit: tuple[int, int], image: tuple[int, int], *, inside: bool = True
) -> tuple[Span, Span]:
    """Return the first and last row, and the first and last column, in a unit's receptive field.

    Args:
        axes: The layer's entry in `receptive_axes`.
        unit: The unit's row and column in the layer's output.
        image: The rows and columns of the image.
        inside: As in `Axis.span`.
    """
    spans: list[Span] = [(0, size - 1) for size in image]
    for number, axis in axes.items():
        spans[axis.of] = axis.span(unit[number - 1], inside=inside)
    return spans[0], spans[1]


def _after(layer: keras.Layer, inputs: Sequence[Axes], tensors: Sequence[Any]) -> Axes:
    """Return the axes of a layer's output, from those of its inputs."""
    before, shape, rank = inputs[0], layer.output.shape, len(layer.output.shape)
    match traits(layer).reads:
        case "position":
            return before
        case "features":
            return _without(before, {rank - 1})
        case "axes":
            axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
            return _without(before, {axis % rank for axis in axes})
        case "inputs":
            joined = getattr(layer, "axis", -1) % rank
            return _union(inputs) if joined == rank - 1 else _joined(inputs, tensors, joined)
        case "permuted":
            return {new: before[old] for new, old in enumerate(layer.dims, start=1) if old in before}
        case "reshaped":
            return _reshaped(before, tensors[0].shape, shape)
        case "window" | "transposed window":
            return _along(before, shape, lambda number, length: _window(layer, number, length, shape[number + 1]))
        case "scaled":
            return _scaled(layer, before, shape)
        case "padded":
            return _shifted(layer.padding, -1, before, shape)
        case "cropped":
            return _shifted(layer.cropping, 1, before, shape)
        case _:
            return {}


def _along(before: Axes, shape: Sequence[int], reads: Callable[[int, int], Reads]) -> Axes:
    """Return a new axis for each spatial axis of the input.

    Args:
        before: The axes of the input.
        shape: The shape of the output.
        reads: Takes the number of a spatial axis, from 0, and its length in the input.
    """
    return {
        number: Axis(shape[number], ((axis, reads(number - 1, axis.length)),), axis.of)
        for number, axis in before.items()
        if number < len(shape) - 1
    }


def _scaled(layer: keras.Layer, before: Axes, shape: Sequence[int]) -> Axes:
    """Return the axes of an upsampling layer's output; they are exact for `nearest` and `bilinear`."""
    sizes = _pair(layer.size)
    reach = _REACH.get(getattr(layer, "interpolation", "nearest"))

    def reads(number: int, length: int) -> Reads:
        if reach == 0:
            return lambda i: _only(i // sizes[number])
        return lambda i: _kernel(i, sizes[number], reach, length)

    axes = _along(before, shape, reads)
    return {number: replace(axis, enlarges=reach not in (0, 1)) for number, axis in axes.items()}


_REACH = {"nearest": 0, "bilinear": 1, "bicubic": 2, "lanczos3": 3, "lanczos5": 5}
"""The number of pixels that an interpolation reads on either side of a position."""


def _kernel(index: int, size: int, reach: int | None, length: int) -> range:
    """Return the indices within `reach` of an index's centre on an axis that is enlarged by `size`.

    If the reach is unknown, return all indices.
    """
    if reach is None:
        return range(length)
    # The centre is at `twice` / (2 × size). A pixel exactly at the reach has weight 0.
    twice = 2 * index + 1 - size
    return range((twice - 2 * size * reach) // (2 * size) + 1, -((-twice - 2 * size * reach) // (2 * size)))


def _shifted(amounts: Sequence[Any], sign: int, before: Axes, shape: Sequence[int]) -> Axes:
    """Return the axes of a padded or cropped input, each shifted by the amount at its start."""
    shifts = [amounts[0]] if len(shape) == 3 else [_pair(amount)[0] for amount in amounts]
    return _along(before, shape, lambda number, _: lambda i: _only(i + sign * shifts[number]))


def _window(layer: keras.Layer, number: int, length: int, outputs: int) -> Reads:
    """Return a function from an output index to the indices that a convolution or pooling reads on an axis."""
    size = _pair(layer.kernel_size if hasattr(layer, "kernel_size") else layer.pool_size)[number]
    stride = _pair(layer.strides)[number]
    dilation = _pair(getattr(layer, "dilation_rate", 1))[number]
    span = dilation * (size - 1) + 1
    if traits(layer).reads == "transposed window":
        # The inverse of a convolution: an output reads each input whose window would contain that output.
        padding = max((length - 1) * stride + span - outputs, 0) // 2 if layer.padding == "same" else 0
        return lambda i: [
            j
            for j in range(math.ceil((i + padding - span + 1) / stride), (i + padding) // stride + 1)
            if (i + padding - j * stride) % dilation == 0
        ]
    if layer.padding == "same":
        padding = max((outputs - 1) * stride + span - length, 0) // 2
    else:
        padding = span - 1 if layer.padding == "causal" else 0
    return lambda i: range(i * stride - padding, i * stride - padding + span, dilation)


def _only(index: int) -> range:
    return range(index, index + 1)


def _without(before: Axes, gone: set[int]) -> Axes:
    return {number: axis for number, axis in before.items() if number not in gone}


def _union(inputs: Sequence[Axes]) -> Axes:
    """Return the axes that all merged tensors have; along the others, every unit depends on the whole image."""
    shared = set(inputs[0]).intersection(*inputs[1:])
    merged = {}
    for number in sorted(shared):
        axes = tuple(each[number] for each in inputs)
        if len({axis.of for axis in axes}) == 1:
            merged[number] = axes[0] if len(set(map(id, axes))) == 1 else Axis(
                axes[0].length, tuple((axis, _only) for axis in axes), axes[0].of
            )  # fmt: skip
    return merged


def _joined(inputs: Sequence[Axes], tensors: Sequence[Any], number: int) -> Axes:
    """Return the axes of tensors that are concatenated along an axis of the image.

    Each unit depends on a single tensor. Along the concatenated axis, its index determines which one; along the
    others, the fields of all tensors bound its field.
    """
    merged = {n: replace(axis, enlarges=True) for n, axis in _union(inputs).items() if n != number}
    axes = [each.get(number) for each in inputs]
    known = [axis for axis in axes if axis is not None]
    if len(known) < len(axes) or len({axis.of for axis in known}) > 1:
        return merged
    lengths = [int(tensor.shape[number]) for tensor in tensors]
    before, start = [], 0
    for place, (axis, length) in enumerate(zip(known, lengths, strict=True)):
        # The first and the last tensor continue beyond the borders.
        first = -math.inf if place == 0 else start
        end = math.inf if place == len(known) - 1 else start + length
        before.append((axis, partial(_part, start=start, first=first, end=end)))
        start += length
    merged[number] = Axis(start, tuple(before), known[0].of, joins=True)
    return dict(sorted(merged.items()))


def _part(index: int, start: int, first: float, end: float) -> range:
    return _only(index - start) if first <= index < end else range(0)


def _reshaped(before: Axes, old: Sequence[int], new: Sequence[int]) -> Axes:
    """Return the leading axes that a new shape keeps."""
    kept = {}
    for number in range(1, min(len(old), len(new)) - 1):
        if old[number] != new[number]:
            break
        if number in before:
            kept[number] = before[number]
    return kept


def _pair(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)
