"""Warm start: use the weights of a finished run as another run's initial weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import keras

from mnist_exp.errors import RequestError
from mnist_exp.model.preprocessing import is_preprocessing
from mnist_exp.registrations import explain_missing
from mnist_exp.runs.archives import refuse_oversized


@dataclass(frozen=True)
class Transfer:
    """The layers whose weights can be transferred, and the reasons why others cannot."""

    taken: tuple[str, ...]
    left: tuple[str, ...]
    """A message for each layer that keeps its initial weights, and for each donor layer that is not used."""


def load_donor(place: Path) -> keras.Model:
    """Load a model from the directory of the run that saved it, or from a file. Raises `RequestError`."""
    file = place / "model.keras" if place.is_dir() else place
    try:
        refuse_oversized(file)
        return keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # the type depends on the damage
        reason = "there is no such file" if not file.exists() else "damaged, or not a model"
        raise RequestError(f"{file}: {explain_missing(error) or reason}") from error


def compare(model: keras.Model, donor: keras.Model) -> Transfer:
    """Find the layers of a model that have the same name and the same weight shapes in the donor.

    Preprocessing is not transferred, as it depends on the run's own data.
    """
    theirs = {layer.name: _shapes(layer) for layer in _with_weights(donor)}
    taken, left = [], []
    for layer in _with_weights(model):
        shapes = theirs.pop(layer.name, None)
        if shapes == _shapes(layer):
            taken.append(layer.name)
        elif shapes is None:
            left.append(f"{layer.name}: not in the other model")
        else:
            own = _format_shapes(_shapes(layer))
            left.append(f"{layer.name}: {_format_shapes(shapes)} in the other model, {own} in this one")
    left += [f"{name}: not in this model" for name in theirs]
    return Transfer(tuple(taken), tuple(left))


def take_weights(model: keras.Model, donor: keras.Model) -> Transfer:
    """Copy the weights that fit from the donor to the model."""
    transfer = compare(model, donor)
    for name in transfer.taken:
        model.get_layer(name).set_weights(donor.get_layer(name).get_weights())
    return transfer


def _with_weights(model: keras.Model) -> list[keras.Layer]:
    return [layer for layer in model.layers if layer.weights and not is_preprocessing(layer)]


def _shapes(layer: keras.Layer) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in layer.weights]


def _format_shapes(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join("×".join(map(str, shape)) for shape in shapes)
