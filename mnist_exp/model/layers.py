"""Make the Keras layer of a single entry in a list of layers."""

from __future__ import annotations

from typing import Any

import keras

from mnist_exp.keras_spec.layer_types import ArgumentError, parse_entry
from mnist_exp.model.keras_errors import first_sentence, named_argument, without_received


def make_layer(entry: Any, default_name: str | None = None) -> keras.Layer:
    """Make the Keras layer of an entry whose names were checked. Raises `ArgumentError` for invalid values."""
    kind, arguments = parse_entry(entry)
    try:
        return getattr(keras.layers, kind)(**{"name": default_name, **arguments})
    except Exception as error:  # of many types: Keras validates few values before it uses them
        sentence = first_sentence(error)
        key = named_argument(sentence, arguments)
        if key is None:
            raise ArgumentError(f"{kind} cannot be made: {sentence}") from error
        raise ArgumentError(f"{without_received(sentence)}, found {arguments[key]!r}", key) from error


def numbered(base: str, seen: dict[str, int]) -> str:
    """Return a name numbered as in a fresh Keras process (conv2d, conv2d_1, …), and count it in `seen`."""
    count = seen.get(base, 0)
    seen[base] = count + 1
    return f"{base}_{count}" if count else base
