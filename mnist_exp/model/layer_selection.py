"""Select layers of a model as the user specifies them: by position in the list of layers, or by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras

from mnist_exp.keras_spec.layer_specs import Spec
from mnist_exp.keras_spec.layer_types import traits
from mnist_exp.model.graph import apply_layers
from mnist_exp.model.preprocessing import is_preprocessing
from mnist_exp.suggest import did_you_mean

_LIST = "model.layers."


class NoSuchLayer(Exception):
    """No layer has the given name or position; the message lists the existing layers."""


def locate_layers(specs: Sequence[Spec], shape: tuple[int, ...]) -> dict[str, str]:
    """Return the path of each layer in a list, such as `model.layers.3.layers.0`, by the layer's name.

    Args:
        specs: The list of layers.
        shape: The shape of the input images.
    """
    places: dict[str, str] = {}
    apply_layers(specs, keras.Input(shape), lambda path, message: None, places)
    return places


def number_layers(model: keras.Model) -> dict[str, str]:
    """Map each layer's name to `model.layers.<number>`, for a model whose list of layers is not known."""
    return {layer.name: f"{_LIST}{number}" for number, layer in enumerate(designed_layers(model))}


def find_layers(model: keras.Model, wanted: int | str, places: Mapping[str, str]) -> list[keras.Layer]:
    """Return the layer with the given name, or the layers at and below the given position in the list.

    Raises `NoSuchLayer`.
    """
    by_name = {layer.name: layer for layer in model.layers}
    if wanted in by_name:
        return [by_name[wanted]]
    place = f"{_LIST}{str(wanted).removeprefix(_LIST)}."
    layers = [by_name[name] for name, at in places.items() if f"{at}.".startswith(place) and name in by_name]
    if not layers:
        there = [layer.name for layer in designed_layers(model)]
        known = [*there, *(at.removeprefix(_LIST) for at in places.values())]
        meant = did_you_mean(str(wanted), known) if isinstance(wanted, str) else ""
        listed = ", ".join(
            f"{places[name].removeprefix(_LIST)} {name}" if name in places else name for name in there
        )
        raise NoSuchLayer(f"there is no layer {wanted!r}{meant}; the layers are {listed}")
    return [layer for layer in model.layers if layer in layers]


def freeze(model: keras.Model, wanted: int | str, places: Mapping[str, str]) -> None:
    """Freeze the layers that `find_layers` finds. Raises `NoSuchLayer`."""
    for layer in find_layers(model, wanted, places):
        layer.trainable = False


def designed_layers(model: keras.Model) -> list[keras.Layer]:
    """Return a model's layers, without its input and its preprocessing."""
    return [
        layer
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer) and not is_preprocessing(layer)
    ]


def informative_layers(model: keras.Model) -> list[keras.Layer]:
    """Return the `designed_layers` that do more at inference than copy, reshape or repeat their input."""
    return [
        layer
        for layer in designed_layers(model)
        if not traits(layer).is_inert and not isinstance(layer, keras.layers.RepeatVector)
    ]
