"""Advice on the design of an architecture, with reasons. The advice never stops a run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import keras

from mnist_exp.analysis.summary import LayerRow, card
from mnist_exp.model.preprocessing import is_preprocessing
from mnist_exp.text import format_percent

_SMALL_SHARE = 0.7  # MNIST's digits fill 20 of 28 pixels


def advice(model: keras.Model) -> list[str]:
    """Return remarks on a model, one or two sentences each."""
    rows = card(model)
    layers = {layer.name: layer for layer in model.layers if not is_preprocessing(layer)}
    steps = [row for row in rows if row.traits.is_step]
    remarks = [
        _small_receptive_field(rows, model),
        *_pooling_after_one_convolution(steps),
        _pooling_first(steps),
        _pooling_last(steps),
        _narrows_early(steps),
        _unpadded_first(steps, layers),
        _dense_holds_most(rows),
        _frozen(rows),
    ]
    return [remark for remark in remarks if remark]


def _small_receptive_field(rows: Sequence[LayerRow], model: keras.Model) -> str | None:
    """Check a model with global pooling. Units of a dense layer always read the whole image."""
    for before, row in pairwise(rows):
        if row.traits.reads == "pooled" and before.rows.size and before.columns.size:
            height, width = model.input_shape[1:3]
            if before.rows.size < _SMALL_SHARE * height or before.columns.size < _SMALL_SHARE * width:
                sees = f"{before.rows.size}×{before.columns.size} of {height}×{width} pixels"
                return (
                    f"{row.name} pools units that see {sees}, so none sees a whole object. "
                    "Add layers, enlarge kernels, or pool earlier."
                )
    return None


def _pooling_after_one_convolution(steps: Sequence[LayerRow]) -> list[str]:
    found, convolutions = [], 0
    for row in steps:
        if row.traits.is_convolution:
            convolutions += 1
        elif row.traits.is_pooling:
            if convolutions == 1:
                found.append(
                    f"{row.name} follows a single convolution: two in a row would have a larger receptive field "
                    "and compute more complex features before positions are discarded."
                )
            convolutions = 0
    return found


def _pooling_first(steps: Sequence[LayerRow]) -> str | None:
    if steps and steps[0].traits.is_pooling:
        return f"{steps[0].name} is the first layer: it discards pixels before any features are extracted."
    return None


def _pooling_last(steps: Sequence[LayerRow]) -> str | None:
    for index, row in enumerate(steps):
        if row.traits.is_pooling and [after.type for after in steps[index + 1 :]] in (
            ["Dense", "Softmax"],
            ["Softmax"],
        ):
            return (
                f"{row.name} is right before the output, so no layer can combine what it pooled; "
                "use global average pooling, or add a convolution after it."
            )
    return None


def _narrows_early(steps: Sequence[LayerRow]) -> str | None:
    convolutions = [row for row in steps if row.traits.is_convolution]
    for first, second in pairwise(convolutions[: len(convolutions) // 2 + 1]):
        if second.output[-1] < first.output[-1]:
            return (
                f"{second.name} reduces {first.output[-1]} channels to {second.output[-1]}: "
                "later layers cannot recover what it discards. "
                "The number of channels usually grows as the size shrinks."
            )
    return None


def _unpadded_first(steps: Sequence[LayerRow], layers: dict[str, keras.Layer]) -> str | None:
    if not steps or not steps[0].traits.is_convolution:
        return None
    layer = layers[steps[0].name]
    if layer.padding == "valid" and max(layer.kernel_size) > 1:
        return (
            f"{layer.name} has no padding: border pixels are read less often than inner ones, and the size "
            "shrinks from the start. padding: same keeps the size."
        )
    return None


def _dense_holds_most(rows: Sequence[LayerRow]) -> str | None:
    total = sum(row.parameters for row in rows)
    for row in rows:
        if row.type == "Dense" and row.parameters > total / 2 and len([r for r in rows if r.parameters]) > 1:
            share = format_percent(row.parameters / total, 1)
            return (
                f"{row.name} holds {share} of the parameters: "
                "pooling or a narrower layer before it would save most of them."
            )
    return None


def _frozen(rows: Sequence[LayerRow]) -> str | None:
    frozen = [row.name for row in rows if not row.learns]
    if not frozen:
        return None
    names = ", ".join(frozen)
    return f"{names}: frozen. The weights keep their initial values, which are random without init_from."
