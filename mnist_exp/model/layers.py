"""Create the Keras layer of a spec."""

from __future__ import annotations

from typing import Any

import keras

from mnist_exp import registrations
from mnist_exp.keras_spec.layer_specs import LayerSpec
from mnist_exp.model.keras_errors import ArgumentError, drop_received, find_named_argument, first_sentence


def make_layer(spec: LayerSpec, default_name: str | None = None) -> keras.Layer:
    """Create the Keras layer of a spec. Raises `ArgumentError` for values that Keras rejects."""
    try:
        return keras_class("layers", spec.type)(**{"name": default_name, **spec.arguments})
    except Exception as error:  # of many types: Keras validates few values before it uses them
        sentence = first_sentence(error)
        key = find_named_argument(sentence, spec.arguments)
        if key is None:
            raise ArgumentError(f"{spec.type} cannot be created: {sentence}") from error
        raise ArgumentError(f"{drop_received(sentence)}, found {spec.arguments[key]!r}", key) from error


def keras_class(module: str, name: str) -> Any:
    """Return a class of a Keras module, such as `layers`, or of a plug-in."""
    own = registrations.of_module(module).get(name)
    return getattr(getattr(keras, module), name) if own is None else own.target


def number_name(base: str, seen: dict[str, int]) -> str:
    """Return a name numbered as in a fresh Keras process (conv2d, conv2d_1, …), and count it in `seen`."""
    count = seen.get(base, 0)
    seen[base] = count + 1
    return f"{base}_{count}" if count else base
