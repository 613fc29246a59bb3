"""The layers that a list may use, their arguments, and what is wrong with a list: all that needs no Keras."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import Any, TypeGuard

from mnist_exp.config.keras_names import Arguments, class_arguments, names
from mnist_exp.config.names import did_you_mean, near_or_all

# What a part of the config is wrong in: the dotted path and the message.
Report = Callable[[str, str], None]

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

CAUSAL = frozenset({"Conv1D", "DepthwiseConv1D", "SeparableConv1D"})  # have padding: causal

MOST_TIMES = 1000  # that a list can be repeated

# Ways of writing, and the keys that each has and those that it needs.
COMPOSITES: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "Repeat": (frozenset({"layers", "times"}), frozenset({"layers", "times"})),
    "Residual": (frozenset({"layers", "shortcut"}), frozenset({"layers"})),
    "Parallel": (frozenset({"branches", "merge"}), frozenset({"branches"})),
}

# Of `keras.layers`: those that change images, and neither labels nor sizes. Not among them:
# RandomElasticTransform, whose displacements lie on one diagonal and which takes no batch of unknown size
# (Keras 3.15; `aug.elastic_alpha` has what is meant), and layers that pick among others.
AUGMENTATIONS = frozenset(
    {
        *("AutoContrast", "Equalization", "GaussianNoise", "Solarization"),
        *("RandomBrightness", "RandomColorDegeneration", "RandomColorJitter", "RandomContrast", "RandomErasing"),
        *("RandomFlip", "RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert"),
        *("RandomPerspective", "RandomPosterization", "RandomRotation", "RandomSaturation", "RandomSharpness"),
        *("RandomShear", "RandomTranslation", "RandomZoom"),
    }
)

# Arguments that are looked up by name, and where: by the end of their own name.
_NAMED = {"activation": "activations", "initializer": "initializers", "regularizer": "regularizers"} | {
    "constraint": "constraints"
}
# Arguments without a default that are numbers.
_WHOLE = frozenset({"filters", "units", "n"})
_NUMBERS = frozenset({"rate", "stddev", "scale", "factor"})
# Arguments that every layer has by way of its base class.
_COMMON_ARGUMENTS = frozenset({"name", "trainable"})
# What an augmentation layer has, but is not given here.
_NOT_FOR_AUGMENTATIONS = {"seed": "follows from the run's seed", "name": "the layers of aug.layers have none"}


class ArgumentError(Exception):
    """Something that Keras is asked for by name is wrong; `key` is the argument at fault, if it is one."""

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


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


def check_list(entries: Any, path: str, report: Report) -> None:
    """Report every entry, at any depth, whose type or arguments are not there."""
    if not is_list(entries):
        report(path, f"expected a list of layers, found {entries!r}")
        return
    for index, entry in enumerate(entries):
        if entry is not None:
            with told_at(f"{path}.{index}", report):
                _check_in_list(entry, f"{path}.{index}", report)


@contextmanager
def told_at(place: str, report: Report) -> Iterator[None]:
    """Report an `ArgumentError` of the block at a place, or at the argument there."""
    try:
        yield
    except ArgumentError as error:
        report(f"{place}.{error.key}" if error.key else place, str(error))


def _check_in_list(entry: Any, place: str, report: Report) -> None:
    kind, arguments = parse_entry(entry)
    if kind not in COMPOSITES:
        check_entry(entry)
        return
    for key in ("layers", "shortcut"):
        if arguments.get(key) is not None:
            check_list(arguments[key], f"{place}.{key}", report)
    if is_list(branches := arguments.get("branches")):
        for index, branch in enumerate(branches):
            check_list(branch, f"{place}.branches.{index}", report)
    if "merge" in arguments:
        with told_at(f"{place}.merge", report):
            check_entry(arguments["merge"], MERGES, "merge")
    check_composite(kind, arguments)


def check_composite(kind: str, arguments: Mapping[str, Any]) -> None:
    """Raise `ArgumentError` for a `Repeat`, `Residual` or `Parallel` that is not written as such."""
    check_names(kind, arguments, *COMPOSITES[kind])
    times = arguments.get("times", 1)
    if not isinstance(times, int) or isinstance(times, bool) or not 0 <= times <= MOST_TIMES:
        raise ArgumentError(f"expected a whole number of times, up to {MOST_TIMES}, found {times!r}", "times")
    branches = arguments.get("branches")
    if kind == "Parallel" and (not is_list(branches) or len(branches) < 2):
        raise ArgumentError(f"expected two or more lists of layers, found {branches!r}", "branches")


def is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    """A list or a tuple, and no text."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def check_augmentation(entry: Any) -> None:
    """Raise `ArgumentError` for an entry of `aug.layers` whose type or arguments are not there."""
    _, arguments = parse_entry(entry)
    for key, reason in _NOT_FOR_AUGMENTATIONS.items():
        if key in arguments:
            raise ArgumentError(reason, key)
    check_entry(entry, AUGMENTATIONS, "aug.layers")


def check_entry(entry: Any, allowed: Set[str] = ALLOWED, where: str = "a list of layers") -> None:
    """Raise `ArgumentError` for a layer that may not stand there, or whose arguments it does not have."""
    kind, arguments = parse_entry(entry)
    if kind not in allowed:
        if class_arguments("layers", kind) is not None:
            raise ArgumentError(f"{kind} cannot be used in {where}", "type")
        meant = did_you_mean(kind, allowed | COMPOSITES.keys() if allowed is ALLOWED else allowed)
        raise ArgumentError(f"there is no layer '{kind}'{meant}", "type")
    check_arguments("layers", kind, arguments, _COMMON_ARGUMENTS)
    name = arguments.get("name", "x")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ArgumentError(f"a layer's name has letters, digits, '_', '.' and '-' only, found {name!r}", "name")
    if name.startswith("preprocess"):
        raise ArgumentError("names that begin with 'preprocess' are those of the preprocessing", "name")


def check_arguments(kind: str, name: str, arguments: Mapping[str, Any], also: Set[str] = frozenset()) -> None:
    """Raise `ArgumentError` for arguments that a class of `keras.<kind>` does not have, or that are missing."""
    found = class_arguments(kind, name)
    assert found is not None, name
    check_names(name, arguments, found.known | also, found.required)
    for key, value in arguments.items():
        if value is not None:
            _check_value(name, key, value, found)


def _check_value(name: str, key: str, value: Any, of: Arguments) -> None:
    """Raise `ArgumentError` for a value of another kind than the argument's. Its range is Keras' to judge."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if key in (*of.switches, "trainable") and not isinstance(value, bool):
        raise ArgumentError(f"must be true or false, found {value!r}", key)
    if key in _WHOLE and (not is_number or value != int(value)):
        raise ArgumentError(f"must be a whole number, found {value!r}", key)
    if key in (of.numbers | _NUMBERS) - of.switches and not (is_number or is_list(value)):
        raise ArgumentError(f"must be a number, found {value!r}", key)
    if kind := _NAMED.get(key.rpartition("_")[2]):
        _check_named(kind, key, value)
    if key == "padding" and isinstance(value, str):
        known = ["valid", "same", *(["causal"] if name in CAUSAL else [])]
        if value.lower() not in known:
            raise ArgumentError(f"must be {' or '.join(known)}, found {value!r}{did_you_mean(value, known)}", key)
    if key == "data_format" and value != "channels_last":
        raise ArgumentError(f"images here are rows×columns×channels: channels_last, found {value!r}", key)


def _check_named(kind: str, key: str, value: Any) -> None:
    # With arguments it is written as Keras does. Nothing else: `module` could name any code.
    if isinstance(value, Mapping):
        if value.keys() - {"class_name", "config"} or not isinstance(value.get("class_name"), str):
            raise ArgumentError("expected a name, or a mapping of class_name and config", key)
        value = value["class_name"]
    if not isinstance(value, str):
        raise ArgumentError(f"expected a name, found {value!r}", key)
    if value not in names(kind):
        in_snake_case = {name for name in names(kind) if name.islower()}
        raise ArgumentError(f"there is no {kind[:-1]} '{value}'{near_or_all(value, in_snake_case)}", key)


def check_names(title: str, arguments: Mapping[str, Any], known: Set[str], required: Set[str]) -> None:
    """Raise `ArgumentError` for a name that is not `known`, or for those of `required` that are missing."""
    for name in arguments:
        if name not in known:
            raise ArgumentError(f"{title} has no argument '{name}'{did_you_mean(name, known)}", name)
    missing = sorted(required - arguments.keys())
    if missing:
        raise ArgumentError(f"{title} needs {' and '.join(missing)}")
