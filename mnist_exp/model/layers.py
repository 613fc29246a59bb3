"""One entry of a list of layers made into a Keras layer, and what Keras says where it cannot be."""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np

from mnist_exp.keras_spec.layer_types import ArgumentError, parse_entry


def make_layer(entry: Any, default_name: str | None = None) -> keras.Layer:
    """The Keras layer of an entry whose names were checked. Raises `ArgumentError` for values it does not take."""
    kind, arguments = parse_entry(entry)
    try:
        return getattr(keras.layers, kind)(**{"name": default_name, **arguments})
    except Exception as error:  # of whatever type: Keras looks at few values before it uses them
        sentence = first_sentence(error)
        named = [key for key in arguments if re.search(rf"\b{re.escape(key)}\b", sentence)]
        if len(named) != 1:
            raise ArgumentError(f"{kind} cannot be made: {sentence}") from error
        (key,) = named
        why = re.split(r"\.? Received:? ", sentence)[0]
        raise ArgumentError(f"{why}, found {arguments[key]!r}", key) from error


# What an input of so many axes is, the batch's among them.
_KINDS_OF_INPUT = {2: "a vector", 3: "steps×features", 4: "rows×columns×channels"}


def why_not(layer: keras.Layer, shape: str, previous: str, error: BaseException) -> str:
    """Why a layer does not take an input of that shape, which comes after `previous`, by what Keras raised."""
    kind, sentence = type(layer).__name__, first_sentence(error)
    if match := re.search(r"expected (?:min_)?ndim=(\d), found ndim=\d", sentence):
        wanted = _KINDS_OF_INPUT.get(int(match[1]), f"{match[1]} axes with the batch's")
        return f"{kind} takes {wanted}, but gets {shape} (after {previous})"
    if "output size would be" in sentence:
        window = "kernel" if hasattr(layer, "kernel_size") else "window"
        size = "×".join(map(str, layer.kernel_size if window == "kernel" else layer.pool_size))
        dilation = getattr(layer, "dilation_rate", 1)
        if set(np.atleast_1d(dilation)) != {1}:
            size += f", dilated by {'×'.join(map(str, np.atleast_1d(dilation)))},"
        return f"{kind}'s {window} {size} does not fit its {shape.rpartition('×')[0]} input (after {previous})"
    if sentence.startswith("OOM"):
        return f"{kind}'s weights, or what it computes from its input of {shape}, do not fit into memory"
    return f"{kind} does not fit its input of {shape} (after {previous}): {sentence}"


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
    text = re.sub(r"\s+", " ", text)
    return text.replace("`", "'").rstrip(".")
