"""The architecture card: what each layer holds."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from mnist_exp.model.preprocess import count_parameters


@dataclass(frozen=True)
class LayerRow:
    """One layer of the card."""

    name: str
    type: str
    output: tuple[int, ...]
    parameters: int


def card(model: keras.Model) -> list[LayerRow]:
    """A row per layer, from the input on."""
    return [
        LayerRow(
            layer.name,
            type(layer).__name__,
            tuple(layer.output.shape[1:]),
            layer.count_params(),
        )
        for layer in model.layers
    ]


def as_markdown(model: keras.Model) -> str:
    """The card as a Markdown table, with the total of the parameters."""
    lines = ["| layer | type | output | parameters |", "|---|---|---|---:|"]
    lines += [
        f"| {row.name} | {row.type} | {'×'.join(map(str, row.output))} | {row.parameters:,} |"
        for row in card(model)
    ]
    lines.append(f"| **total** | | | **{count_parameters(model):,}** |")
    return "\n".join(lines) + "\n"
