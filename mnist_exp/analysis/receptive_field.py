"""Receptive fields: the rows and columns of the image that a unit of a layer depends on.

Each axis of a layer's output maps an index to the indices of the previous axis that it reads. Following these maps
back to the image is exact for strides, dilation, padding, transposed convolutions and merges alike.
Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks" (Distill, 2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from mnist_exp.keras_spec.traits import traits
from mnist_exp.model.keras_graph import input_tensors

Reads = Callable[[int], range]
Seen = tuple[int, int] | None

_REPEATS = 60  # a multiple of all numbers up to 6


@dataclass(eq=False)
class Axis:
    """An axis of a layer's output: the rows or the columns of an image, or the steps of a sequence."""

    length: int
    before: tuple[Axis, ...] = ()
    reads: Reads = range  # not called for an axis of the image itself
    """Maps an index to the indices that it reads on the axes before, which may lie outside of these."""
    of: int = 0
    """The axis of the image: 0 for its rows, 1 for its columns."""
    _seen: dict[tuple[int, bool], Seen] = field(default_factory=dict, repr=False)

    def seen(self, index: int, *, inside: bool = True) -> Seen:
        """Return the first and last row (or column) of the image in an index's receptive field.

        Args:
            index: An index of this axis.
            inside: If False, treat the image and every layer as unbounded, so that padding counts.

        Returns:
            None if the index depends on no pixel, only on padding.
        """
        if not self.before:
            return (index, index)
        key = (index, inside)
        if key not in self._seen:
            # All indices that are read, not only the outermost: with dilation, an inner one may reach further.
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
    """The receptive field of a layer's units along one axis of the image.

    `size` is in pixels, or None for the whole image. `stride` is the distance between the fields of neighbouring
    units. `start` is the first pixel of the first unit's field, negative if that lies in the padding.
    """

    size: int | None
    stride: float
    start: int


Axes = dict[int, Axis]
"""The axes of a tensor (1 is the first after the batch) along which the receptive fields of its units differ.

Along an axis of the image that is missing here, the receptive field of every unit is the whole image.
"""


def receptive_axes(model: keras.Model) -> dict[str, Axes]:
    """Return the axes of each layer's output, by the layer's name."""
    by_tensor: dict[int, Axes] = {}
    by_layer: dict[str, Axes] = {}
    for layer in model.layers:
        outputs = layer.output
        if isinstance(layer, keras.layers.InputLayer):
            shape = outputs.shape
            axes = {axis: Axis(shape[axis], of=axis - 1) for axis in (1, 2)}
        else:
            inputs = input_tensors(layer)
            axes = _after(layer, [by_tensor[id(tensor)] for tensor in inputs], inputs)
        by_tensor[id(outputs)] = by_layer[layer.name] = axes
    return by_layer


def fields(axes: Axes) -> tuple[Field, Field]:
    """Return the receptive field of a layer's units along the rows and the columns of the image."""
    found = [Field(None, 0, 0), Field(None, 0, 0)]
    for axis in axes.values():
        # After upsampling, the fields of neighbours may differ in size, in a pattern that repeats.
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
    """Return the first and last row, and the first and last column, in a unit's receptive field.

    Args:
        axes: The layer's entry in `receptive_axes`.
        unit: The unit's row and column in the layer's output.
        image: The rows and columns of the image.
        inside: As in `Axis.seen`.
    """
    found: list[Seen] = [(0, size - 1) for size in image]
    for number, axis in axes.items():
        found[axis.of] = axis.seen(unit[number - 1], inside=inside)
    return found[0], found[1]


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
            return _union(inputs) if getattr(layer, "axis", -1) in (-1, rank - 1) else {}
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
        number: Axis(shape[number], (axis,), reads(number - 1, axis.length), axis.of)
        for number, axis in before.items()
        if number < len(shape) - 1
    }


def _scaled(layer: keras.Layer, before: Axes, shape: Sequence[int]) -> Axes:
    if getattr(layer, "interpolation", "nearest") != "nearest":
        return {}
    sizes = _pair(layer.size)
    return _along(before, shape, lambda number, _: lambda i: _only(i // sizes[number]))


def _shifted(amounts: Sequence[Any], sign: int, before: Axes, shape: Sequence[int]) -> Axes:
    """Shift each axis by the amount that is padded or cropped at its start."""
    shifts = [amounts[0]] if len(shape) == 3 else [_pair(amount)[0] for amount in amounts]
    return _along(before, shape, lambda number, _: lambda i: _only(i + sign * shifts[number]))


def _window(layer: keras.Layer, number: int, length: int, outputs: int) -> Reads:
    """Return a function from an output index to the indices that a convolution or pooling reads on an axis."""
    size = _pair(layer.kernel_size if hasattr(layer, "kernel_size") else layer.pool_size)[number]
    stride = _pair(layer.strides)[number]
    dilation = _pair(getattr(layer, "dilation_rate", 1))[number]
    span = dilation * (size - 1) + 1
    if traits(layer).reads == "transposed window":
        # Backwards: an output reads every input at which a convolution with these strides would read it.
        padding = max((length - 1) * stride + span - outputs, 0) // 2 if layer.padding == "same" else 0
        return lambda i: range(math.ceil((i + padding - span + 1) / stride), (i + padding) // stride + 1)
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
                axes[0].length, axes, _only, axes[0].of
            )  # fmt: skip
    return merged


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
