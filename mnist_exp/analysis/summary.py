"""The architecture card: what each layer holds, costs and sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import keras

from mnist_exp.analysis.receptive_field import Field, fields, receptive_axes
from mnist_exp.model.preprocessing import is_preprocessing

FLOAT = 4  # bytes


@dataclass(frozen=True)
class LayerRow:
    """One layer of the card."""

    name: str
    type: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    """Of one image."""
    rows: Field
    columns: Field
    """What a unit of its output sees of the image."""
    memory: int
    """Bytes of its output for one image, in float32."""
    learns: bool
    """False for a layer whose weights stay as they are."""


def card(model: keras.Model) -> list[LayerRow]:
    """A row per layer, from the input on; preprocessing, which is no part of the design, is left out."""
    axes = receptive_axes(model)
    return [
        LayerRow(
            layer.name,
            type(layer).__name__,
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
    """Multiplications with a weight, each with its addition, for one image.

    Of convolutions, dense and recurrent layers; biases, activations, pooling and normalization count nothing.
    """
    kind = type(layer).__name__
    if not layer.weights or isinstance(layer, keras.layers.InputLayer):
        return 0
    inputs, outputs = layer.input.shape[1:], layer.output.shape[1:]
    if "Conv" in kind:
        # Each weight of a kernel is used once for every place that it is laid on.
        places = math.prod((inputs if "Transpose" in kind else outputs)[:-1])
        kernels = [weight for weight in layer.weights if "kernel" in weight.name]
        return int(places * sum(math.prod(kernel.shape) for kernel in kernels))
    if kind == "Dense":
        return int(math.prod(inputs) * outputs[-1])
    if kind == "EinsumDense":
        left, right = layer.equation.split("->")[0].split(",")
        sizes = dict(zip(left.replace("...", "")[1:], inputs, strict=False))
        sizes |= dict(zip(right, layer.kernel.shape, strict=True))
        return int(math.prod(sizes.values()))
    if kind in ("LSTM", "GRU", "SimpleRNN"):
        kernels = [weight for weight in layer.weights if "kernel" in weight.name]
        return int(inputs[0] * sum(math.prod(kernel.shape) for kernel in kernels))
    return 0


RIGHT = ("parameters", "multiply-adds", "share", "memory")
FOOTNOTE = (
    "Multiply-adds are those of one image; `sees`, `stride` and `from` are pixels of the image (rows×columns); "
    "memory is that of a batch of {batch_size}, in float32."
)
HEADS = ("layer", "type", "output", "parameters", "multiply-adds", "share", "sees", "stride", "from", "memory")


def as_rows(rows: Sequence[LayerRow], batch_size: int) -> list[list[str]]:
    """The card's cells, under `HEADS`; the last row has the totals. `memory` is for a batch."""
    total = max(sum(row.multiply_adds for row in rows), 1)
    cells = [
        [
            row.name,
            row.type if row.learns else f"{row.type}, frozen",
            "×".join(map(str, row.output)),
            f"{row.parameters:,}",
            f"{row.multiply_adds:,}",
            f"{100 * row.multiply_adds // total}%",
            _both(_size(row.rows), _size(row.columns)),
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
    """The card as a Markdown table, with the totals."""
    lines = [f"| {' | '.join(HEADS)} |", f"|{'|'.join('---:' if head in RIGHT else '---' for head in HEADS)}|"]
    lines += [f"| {' | '.join(cells)} |" for cells in as_rows(card(model), batch_size)]
    return "\n".join(lines) + f"\n\n{FOOTNOTE.format(batch_size=batch_size)}\n"


def _both(rows: str, columns: str) -> str:
    return rows if rows == columns else f"{rows}×{columns}"


def _size(axis: Field) -> str:
    return "all" if axis.size is None else str(axis.size)


def _stride(axis: Field) -> str:
    return "" if axis.size is None else f"{axis.stride:g}"


def _start(axis: Field) -> str:
    return "" if axis.size is None else str(axis.start)
