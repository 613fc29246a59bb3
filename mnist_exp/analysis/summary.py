"""The architecture card: each layer's parameters, multiply-adds, memory and receptive field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import keras

from mnist_exp.analysis.receptive_field import Field, fields, receptive_axes
from mnist_exp.keras_spec.layer_types import Traits, traits
from mnist_exp.model.preprocessing import is_preprocessing
from mnist_exp.text import format_percent

FLOAT = 4  # bytes
_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel")


@dataclass(frozen=True)
class LayerRow:
    """One layer of the card."""

    name: str
    type: str
    traits: Traits
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    """Multiply-accumulate operations for one image."""
    rows: Field
    columns: Field
    """Together with `rows`, the receptive field of a unit in the layer's output."""
    memory: int
    """Bytes of the layer's output for one image, in float32."""
    learns: bool
    """False for a layer with frozen weights."""


def card(model: keras.Model) -> list[LayerRow]:
    """Return a row per layer, in the model's order, without the preprocessing."""
    axes = receptive_axes(model)
    return [
        LayerRow(
            layer.name,
            type(layer).__name__,
            traits(layer),
            tuple(layer.output.shape[1:]),
            layer.count_params(),
            multiply_adds(layer),
            *fields(axes[layer.name]),
            FLOAT * math.prod(layer.output.shape[1:]),
            layer.trainable or not layer.weights,
        )
        for layer in model.layers
        if not is_preprocessing(layer)
    ]


def multiply_adds(layer: keras.Layer) -> int:
    """Count a layer's multiply-accumulate operations for one image.

    Only kernels count: biases, activations, pooling and normalization do not.
    """
    kernel = traits(layer).kernel
    if kernel is None:
        return 0
    inputs, outputs = layer.input.shape[1:], layer.output.shape[1:]
    if kernel == "dense":
        return int(math.prod(inputs) * outputs[-1])
    if kernel == "einsum":
        return _einsum_multiply_adds(layer.equation, (1, *inputs), tuple(layer.kernel.shape))
    if kernel == "recurrent":
        positions = inputs[0]
    else:  # each weight of a convolution is used once at every position of the kernel
        image = inputs if kernel == "transposed" else outputs
        positions = math.prod(image[1:] if layer.data_format == "channels_first" else image[:-1])
    return int(positions * sum(math.prod(weight.shape) for weight in layer.weights if weight.name in _KERNELS))


def _einsum_multiply_adds(equation: str, inputs: tuple[int, ...], kernel: tuple[int, ...]) -> int:
    """Multiply the sizes of all axes of `EinsumDense`, including those that its equation writes as `...`."""
    left, right = equation.split("->")[0].split(",")
    before, _, after = left.partition("...")
    between = inputs[len(before) : len(inputs) - len(after)]
    sizes = dict(zip(before + after, inputs[: len(before)] + inputs[len(inputs) - len(after) :], strict=True))
    sizes |= dict(zip(right, kernel, strict=True))
    return math.prod(sizes.values()) * math.prod(between)


RIGHT = ("parameters", "multiply-adds", "share", "memory")
FOOTNOTE = (
    "Multiply-adds are per image; `sees`, `stride` and `from` are in pixels of the image (rows×columns), "
    "and `≤` marks an upper bound; "
    "memory is for a batch of {batch_size}, in float32."
)
HEADS = ("layer", "type", "output", "parameters", "multiply-adds", "share", "sees", "stride", "from", "memory")


def format_rows(rows: Sequence[LayerRow], batch_size: int) -> list[list[str]]:
    """Return the card's cells under `HEADS`, with a last row of totals and the memory of a batch."""
    total = max(sum(row.multiply_adds for row in rows), 1)
    cells = [
        [
            row.name,
            row.type if row.learns else f"{row.type}, frozen",
            "×".join(map(str, row.output)),
            f"{row.parameters:,}",
            f"{row.multiply_adds:,}",
            format_percent(row.multiply_adds / total, 1),
            format_field(row.rows, row.columns),
            _both(_stride(row.rows), _stride(row.columns)),
            _both(_start(row.rows), _start(row.columns)),
            f"{row.memory * batch_size / 2**20:.1f} MiB",
        ]
        for row in rows
    ]
    sums = [sum(getattr(row, key) for row in rows) for key in ("parameters", "multiply_adds", "memory")]
    cells.append(
        [
            "total",
            "",
            "",
            f"{sums[0]:,}",
            f"{sums[1]:,}",
            "",
            "",
            "",
            "",
            f"{sums[2] * batch_size / 2**20:.1f} MiB",
        ]
    )
    return cells


def as_markdown(model: keras.Model, batch_size: int) -> str:
    """Return the card as a Markdown table, with totals."""
    lines = [f"| {' | '.join(HEADS)} |", f"|{'|'.join('---:' if head in RIGHT else '---' for head in HEADS)}|"]
    lines += [f"| {' | '.join(cells)} |" for cells in format_rows(card(model), batch_size)]
    return "\n".join(lines) + f"\n\n{FOOTNOTE.format(batch_size=batch_size)}\n"


def format_field(rows: Field, columns: Field) -> str:
    """Format the size of a receptive field: `5`, `7×1` if rows and columns differ, `all` for the whole image."""
    return _both(_size(rows), _size(columns))


def _both(rows: str, columns: str) -> str:
    return rows if rows == columns else f"{rows}×{columns}"


def _size(axis: Field) -> str:
    return "all" if axis.size is None else f"{'≤' * axis.is_bound}{axis.size}"


def _stride(axis: Field) -> str:
    return "" if axis.size is None else f"{axis.stride:g}"


def _start(axis: Field) -> str:
    return "" if axis.size is None else str(axis.start)
