"""The weights of a finished run as the start of another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import keras

from mnist_exp.errors import RequestError
from mnist_exp.model.preprocessing import is_preprocessing


@dataclass(frozen=True)
class Transfer:
    """Which layers' weights can be taken over, and why the others cannot."""

    taken: tuple[str, ...]
    left: tuple[str, ...]
    """A sentence for each layer that keeps its own first weights, or whose weights nobody takes."""


def load_donor(run: Path) -> keras.Model:
    """The saved model of a run's directory. Raises `RequestError`."""
    file = run / "model.keras"
    try:
        return keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever the damage makes it raise
        reason = "there is no such file" if not file.exists() else "damaged, or not a model"
        raise RequestError(f"{file}: {reason}") from error


def compare(model: keras.Model, donor: keras.Model) -> Transfer:
    """Layers fit by name and by the shapes of their weights. Preprocessing stays as the data asks for it."""
    theirs = {layer.name: _shapes(layer) for layer in _with_weights(donor)}
    taken, left = [], []
    for layer in _with_weights(model):
        shapes = theirs.pop(layer.name, None)
        if shapes == _shapes(layer):
            taken.append(layer.name)
        elif shapes is None:
            left.append(f"{layer.name}: not there")
        else:
            left.append(f"{layer.name}: {_said(shapes)} there, {_said(_shapes(layer))} here")
    left += [f"{name}: not here" for name in theirs]
    return Transfer(tuple(taken), tuple(left))


def take_weights(model: keras.Model, donor: keras.Model) -> Transfer:
    """Give the model the weights that fit."""
    transfer = compare(model, donor)
    for name in transfer.taken:
        model.get_layer(name).set_weights(donor.get_layer(name).get_weights())
    return transfer


def _with_weights(model: keras.Model) -> list[keras.Layer]:
    return [layer for layer in model.layers if layer.weights and not is_preprocessing(layer)]


def _shapes(layer: keras.Layer) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in layer.weights]


def _said(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join("×".join(map(str, shape)) for shape in shapes)
