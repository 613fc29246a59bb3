"""Short sentences for Keras' errors. Only this module depends on the wording of Keras' messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import keras
import numpy as np

# Kinds of input by their number of axes, including the batch axis.
_KINDS_OF_INPUT = {2: "a vector", 3: "steps×features", 4: "rows×columns×channels"}


# Called with the dotted path and the message of each problem that Keras finds.
Report = Callable[[str, str], None]


class ArgumentError(Exception):
    """Keras rejects a layer, optimizer, loss or metric; `key` is the argument at fault, if known."""

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


@contextmanager
def reporting_at(place: str, report: Report) -> Iterator[None]:
    """Catch an `ArgumentError` in the block and report it at the argument at fault, if known."""
    try:
        yield
    except ArgumentError as error:
        report(f"{place}.{error.key}" if error.key else place, str(error))


def first_sentence(error: BaseException) -> str:
    """Return the message's first sentence, without the function names and argument lists that Keras adds."""
    text = re.sub(r"\x1b\[\d+m", "", str(error)).strip()
    text = re.sub(r"^Exception encountered when calling [^\n]*\n\n", "", text)
    text = re.sub(r"^\{\{function_node[^}]*\}\} ", "", text)
    text = re.split(r"\n\n|\nArguments received| \[Op:|\s; NodeDef:", text)[0]
    text = re.sub(r"\s+", " ", text)
    return text.replace("`", "'").rstrip(".")


def drop_received(sentence: str) -> str:
    """Remove the received value from one of Keras' sentences: the caller names values and shapes itself."""
    return re.split(r"\.? Received\b", sentence)[0]


def find_named_argument(sentence: str, arguments: Iterable[str]) -> str | None:
    """Return the only argument that a sentence names; None if it names none, or several."""
    named = [key for key in arguments if re.search(rf"\b{re.escape(key)}\b", sentence)]
    return named[0] if len(named) == 1 else None


def explain_rejection(layer: keras.Layer, shape: str, previous: str, error: BaseException) -> str:
    """Explain why a layer does not accept an input.

    Args:
        layer: The layer that rejected the input.
        shape: The input's shape without the batch axis, as text.
        previous: The place and type of the layer that the input comes from.
        error: The exception that Keras raised when it called the layer.
    """
    kind, sentence = type(layer).__name__, first_sentence(error)
    if match := re.search(r"expected (?:min_)?ndim=(\d), found ndim=\d", sentence):
        wanted = _KINDS_OF_INPUT.get(int(match[1]), f"{match[1]} axes including the batch")
        return f"{kind} takes {wanted}, but gets {shape} (after {previous})"
    if "output size would be" in sentence:
        window = "kernel" if hasattr(layer, "kernel_size") else "window"
        size = "×".join(map(str, layer.kernel_size if window == "kernel" else layer.pool_size))
        dilation = getattr(layer, "dilation_rate", 1)
        if set(np.atleast_1d(dilation)) != {1}:
            size += f", dilated by {'×'.join(map(str, np.atleast_1d(dilation)))},"
        return f"{kind}'s {window} {size} does not fit its {shape.rpartition('×')[0]} input (after {previous})"
    if sentence.startswith("OOM"):
        return f"{kind}'s weights, or its output for an input of {shape}, do not fit into memory"
    return f"{kind} does not fit its input of {shape} (after {previous}): {sentence}"
