"""One entry of a list of layers made into a Keras layer, and what Keras says where it cannot be."""

from __future__ import annotations

import re
from typing import Any

import keras

from mnist_exp.config.layers import ArgumentError, parse_entry


def make_layer(entry: Any, default_name: str | None = None) -> keras.Layer:
    """The Keras layer of an entry whose names were checked. Raises `ArgumentError` for values it does not take."""
    kind, arguments = parse_entry(entry)
    try:
        return getattr(keras.layers, kind)(**{"name": default_name, **arguments})
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"{kind} cannot be made: {first_sentence(error)}") from error


def numbered(base: str, seen: dict[str, int]) -> str:
    """A name as Keras would number it in a fresh process: conv2d, conv2d_1, …; `seen` counts."""
    count = seen.get(base, 0)
    seen[base] = count + 1
    return f"{base}_{count}" if count else base


def first_sentence(error: BaseException) -> str:
    """What Keras says, without the names of the functions that it passed and the arguments that it lists."""
    text = re.sub(r"\x1b\[\d+m", "", str(error)).strip()
    text = re.sub(r"^Exception encountered when calling [^\n]*\n\n", "", text)
    text = re.sub(r"^\{\{function_node[^}]*\}\} ", "", text)
    text = re.split(r"\n\n|\nArguments received| \[Op:", text)[0]
    return re.sub(r"\s+", " ", text).rstrip(".")
