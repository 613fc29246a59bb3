"""The layers that a list may use, and one entry of a list made into a Keras layer."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Set
from typing import Any

import keras

from mnist_exp.config.names import did_you_mean

# Layers of `keras.layers` that make sense in a list of an image classifier. Not among them: layers that run
# or wrap foreign code, take several inputs (`Parallel` and `Residual` merge), or need text or adaptation; and
# adaptive pooling, which for some sizes does not compute, or ends the process (Keras 3.15).
ALLOWED = frozenset(
    {
        *("Conv1D", "Conv1DTranspose", "Conv2D", "Conv2DTranspose", "DepthwiseConv1D", "DepthwiseConv2D"),
        *("SeparableConv1D", "SeparableConv2D", "Dense", "EinsumDense", "GRU", "LSTM", "SimpleRNN"),
        *(
            "AveragePooling1D",
            "AveragePooling2D",
            "MaxPooling1D",
            "MaxPooling2D",
        ),
        *("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D"),
        *("Activation", "ELU", "LeakyReLU", "PReLU", "ReLU", "Softmax"),
        *("BatchNormalization", "GroupNormalization", "LayerNormalization", "RMSNormalization"),
        *("UnitNormalization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise"),
        *("SpatialDropout1D", "SpatialDropout2D", "ActivityRegularization"),
        *("Cropping1D", "Cropping2D", "Flatten", "Identity", "Permute", "RepeatVector", "Rescaling", "Reshape"),
        *("UpSampling1D", "UpSampling2D", "ZeroPadding1D", "ZeroPadding2D"),
    }
)

# How the branches of a `Parallel` can be merged.
MERGES = frozenset({"Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply"})

# Arguments that every layer has by way of its base class.
_COMMON_ARGUMENTS = frozenset({"name", "trainable"})


class ArgumentError(Exception):
    """Something that Keras is asked for by name is wrong; `key` is the argument at fault, if it is one."""

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


def make_layer(
    entry: Any,
    default_name: str | None = None,
    allowed: Iterable[str] = ALLOWED,
    where: str = "a list of layers",
) -> keras.Layer:
    """The Keras layer of an entry: a name, or a mapping with `type` and arguments. Raises `ArgumentError`."""
    kind, arguments = parse_entry(entry)
    if kind not in allowed and isinstance(getattr(keras.layers, kind, None), type):
        raise ArgumentError(f"{kind} cannot be used in {where}", "type")
    if kind not in allowed:
        raise ArgumentError(f"there is no layer '{kind}'{did_you_mean(kind, allowed)}", "type")
    layer_class = getattr(keras.layers, kind)
    check_arguments(layer_class, arguments, _COMMON_ARGUMENTS)
    name = arguments.get("name", "x")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ArgumentError(f"a layer's name has letters, digits, '_', '.' and '-' only, found {name!r}", "name")
    if name.startswith("preprocess"):
        raise ArgumentError("names that begin with 'preprocess' are those of the preprocessing", "name")
    try:
        return layer_class(**{"name": default_name, **arguments})
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"{kind} cannot be made: {first_sentence(error)}") from error


def parse_entry(entry: Any) -> tuple[str, dict[str, Any]]:
    """The type and the arguments of an entry. Raises `ArgumentError`."""
    if isinstance(entry, str):
        return entry, {}
    if not isinstance(entry, Mapping):
        raise ArgumentError(f"expected a layer's name or a mapping with 'type', found {entry!r}")
    arguments = dict(entry)
    kind = arguments.pop("type", None)
    if not isinstance(kind, str):
        raise ArgumentError("expected 'type' with the layer's name")
    return kind, arguments


def check_arguments(target: type, arguments: Mapping[str, Any], also: frozenset[str] = frozenset()) -> None:
    """Raise `ArgumentError` for arguments that a Keras class does not have, or that are missing."""
    known, required = _arguments(target)
    check_names(target.__name__, arguments, known | also, required)


def check_names(title: str, arguments: Mapping[str, Any], known: Set[str], required: Set[str]) -> None:
    """Raise `ArgumentError` for a name that is not `known`, or for those of `required` that are missing."""
    for name in arguments:
        if name not in known:
            raise ArgumentError(f"{title} has no argument '{name}'{did_you_mean(name, known)}", name)
    missing = sorted(required - arguments.keys())
    if missing:
        raise ArgumentError(f"{title} needs {' and '.join(missing)}")


def _arguments(target: type) -> tuple[set[str], set[str]]:
    """The names of the constructor's arguments, and which are required."""
    parameters = list(inspect.signature(target.__init__).parameters.values())[1:]  # type: ignore[misc]
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    known = {p.name for p in named}
    required = {p.name for p in named if p.default is p.empty}
    return known, required


def numbered(base: str, seen: dict[str, int]) -> str:
    """A name as Keras would number it in a fresh process: conv2d, conv2d_1, …; `seen` counts."""
    count = seen.get(base, 0)
    seen[base] = count + 1
    return f"{base}_{count}" if count else base


def snake_case(class_name: str) -> str:
    """Keras' own name for a class in lower case: Conv2D is conv2d, F1Score f1_score."""
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", class_name)).lower()


def first_sentence(error: BaseException) -> str:
    """What Keras says, without the names of the functions that it passed and the arguments that it lists."""
    text = re.sub(r"\x1b\[\d+m", "", str(error)).strip()
    text = re.sub(r"^Exception encountered when calling [^\n]*\n\n", "", text)
    text = re.sub(r"^\{\{function_node[^}]*\}\} ", "", text)
    text = re.split(r"\n\n|\nArguments received| \[Op:", text)[0]
    return re.sub(r"\s+", " ", text).rstrip(".")
