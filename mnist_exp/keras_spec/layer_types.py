"""The layer types that configs may use, and the checks of layer lists that do not need Keras."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import Any, TypeGuard

from mnist_exp.keras_spec.signatures import Arguments, class_arguments, names, same_class
from mnist_exp.keras_spec.traits import TRAITS
from mnist_exp.suggest import did_you_mean, near_or_all, nearest

# Called with the dotted path and the message of each problem.
Report = Callable[[str, str], None]

# Layer types that may be entries of a list of layers.
ALLOWED = frozenset(kind for kind, row in TRAITS.items() if row.listed)
# Layer types that may merge the branches of a `Parallel`.
MERGES = frozenset(kind for kind, row in TRAITS.items() if row.merges)
# Layer types that may be entries of `aug.layers`.
AUGMENTATIONS = frozenset(kind for kind, row in TRAITS.items() if row.augments)
# Layer types that accept `padding: causal`.
CAUSAL = frozenset(kind for kind, row in TRAITS.items() if row.accepts_causal)
# Layer types whose output has the shape of their input.
KEEP_SHAPE = frozenset(kind for kind, row in TRAITS.items() if row.keeps_shape and row.listed)

MOST_TIMES = 1000  # the largest `times` of a `Repeat`

# Entries that combine layers, with their allowed and their required keys.
COMPOSITES: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "Repeat": (frozenset({"layers", "times"}), frozenset({"layers", "times"})),
    "Residual": (frozenset({"layers", "shortcut"}), frozenset({"layers"})),
    "Parallel": (frozenset({"branches", "merge"}), frozenset({"branches"})),
}

# Arguments whose values Keras looks up by name: the last word of the argument, and the module searched.
_NAMED = {"activation": "activations", "initializer": "initializers", "regularizer": "regularizers"} | {
    "constraint": "constraints"
}
# Arguments that take numbers, but have no default that shows it.
_WHOLE = frozenset({"filters", "units", "n"})
_NUMBERS = frozenset({"rate", "stddev", "scale", "factor"})
_SIZES = frozenset({"kernel_size", "pool_size", "strides", "dilation_rate", "size", "cropping"})
# Arguments that do not affect the output's shape: if one is invalid, later layers can still be checked.
_BESIDE_SHAPE = frozenset({"use_bias", "rate", "name", "trainable"})
# Arguments for quantized layers, which plain Keras cannot load from a saved model.
_NOT_HERE = frozenset({"quantization_config", "gptq_unpacked_column_size", "lora_rank", "lora_alpha"})
# Arguments that every layer inherits from the base class.
_COMMON_ARGUMENTS = frozenset({"name", "trainable"})
# Arguments that augmentation layers accept but a config may not set, and why.
_NOT_FOR_AUGMENTATIONS = {"seed": "follows from the run's seed", "name": "the layers of aug.layers have none"}


class ArgumentError(Exception):
    """A fault of a layer, optimizer, loss or metric; `key` is the argument at fault, if there is one."""

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


def parse_entry(entry: Any) -> tuple[str, dict[str, Any]]:
    """Return the type and arguments of an entry.

    Raises:
        ArgumentError: If it is neither a name nor a mapping with a `type`.
    """
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
    """Report the invalid types and arguments of a list of layers, including nested lists."""
    if not is_list(entries):
        report(path, f"expected a list of layers, found {entries!r}")
        return
    for index, entry in enumerate(entries):
        if entry is not None:
            _check_in_list(entry, f"{path}.{index}", report)


@contextmanager
def told_at(place: str, report: Report) -> Iterator[None]:
    """Catch an `ArgumentError` of the block and report it, at the argument at fault if there is one."""
    try:
        yield
    except ArgumentError as error:
        tell([error], place, report)


def tell(faults: Iterable[ArgumentError], place: str, report: Report) -> list[ArgumentError]:
    """Report the faults of an entry, each at its argument, and return them as a list."""
    told = list(faults)
    for fault in told:
        report(f"{place}.{fault.key}" if fault.key else place, str(fault))
    return told


def _check_in_list(entry: Any, place: str, report: Report) -> None:
    try:
        kind, arguments = parse_entry(entry)
    except ArgumentError as error:
        tell([error], place, report)
        return
    if kind not in COMPOSITES:
        tell(faults(entry), place, report)
        return
    for key in ("layers", "shortcut"):
        if arguments.get(key) is not None:
            check_list(arguments[key], f"{place}.{key}", report)
    if is_list(branches := arguments.get("branches")):
        for index, branch in enumerate(branches):
            if branch is not None:
                check_list(branch, f"{place}.branches.{index}", report)
    if "merge" in arguments:
        tell(merge_faults(arguments["merge"]), place, report)
    with told_at(place, report):
        check_composite(kind, arguments)


def merge_faults(entry: Any) -> Iterator[ArgumentError]:
    """Yield the faults of a `Parallel`'s `merge`; their keys are relative to the `Parallel`."""
    for fault in faults(entry, MERGES, "merge"):
        key = fault.key if isinstance(entry, Mapping) else None
        yield ArgumentError(str(fault), f"merge.{key}" if key else "merge")


def check_composite(kind: str, arguments: Mapping[str, Any]) -> None:
    """Check the keys of a `Repeat`, `Residual` or `Parallel`, its `times` and its number of branches.

    Raises:
        ArgumentError: The first fault found.
    """
    for fault in name_faults(kind, arguments, *COMPOSITES[kind]):
        raise fault
    times = arguments.get("times", 1)
    if not isinstance(times, int) or isinstance(times, bool) or not 0 <= times <= MOST_TIMES:
        raise ArgumentError(f"expected a whole number of times, up to {MOST_TIMES}, found {times!r}", "times")
    branches = arguments.get("branches")
    if kind == "Parallel" and (not is_list(branches) or sum(branch is not None for branch in branches) < 2):
        raise ArgumentError(f"expected two or more lists of layers, found {branches!r}", "branches")


def is_beside_shape(key: str | None) -> bool:
    """Return whether a layer's output shape does not depend on an argument."""
    return key is not None and (key in _BESIDE_SHAPE or key.rpartition("_")[2] in _NAMED)


def is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    """Return whether a value is a list or tuple, rather than a string."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def augmentation_faults(entry: Any) -> Iterator[ArgumentError]:
    """Yield the faults of an entry of `aug.layers`: its type and its arguments."""
    if isinstance(entry, Mapping):
        for key, reason in _NOT_FOR_AUGMENTATIONS.items():
            if key in entry:
                yield ArgumentError(reason, key)
    yield from faults(entry, AUGMENTATIONS, "aug.layers")


def faults(entry: Any, allowed: Set[str] = ALLOWED, where: str = "a list of layers") -> Iterator[ArgumentError]:
    """Yield the faults of a layer entry: a type that is not allowed, invalid arguments, or an invalid name.

    If the type is misspelled, the arguments are checked as those of the type that was probably meant.

    Args:
        entry: The layer's name, or a mapping of its `type` and arguments.
        allowed: The layer types allowed here.
        where: What the entry belongs to, for messages.
    """
    try:
        kind, arguments = parse_entry(entry)
    except ArgumentError as error:
        yield error
        return
    meant: str | None = kind
    if kind not in allowed:
        among = allowed | COMPOSITES.keys() if allowed is ALLOWED else allowed
        meant = same_class("layers", kind, among)
        if meant is None and class_arguments("layers", kind) is not None:
            yield ArgumentError(f"{kind} cannot be used in {where}", "type")
            return
        meant = meant or nearest(kind, among)
        yield ArgumentError(
            f"there is no layer '{kind}'" + (f" (did you mean '{meant}'?)" if meant else ""), "type"
        )
    if meant is not None and meant not in COMPOSITES:
        yield from argument_faults("layers", meant, arguments, _COMMON_ARGUMENTS)
    name = arguments.get("name", "x")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        yield ArgumentError(f"a layer's name has letters, digits, '_', '.' and '-' only, found {name!r}", "name")
    elif name.startswith("preprocess"):
        yield ArgumentError("names that begin with 'preprocess' are those of the preprocessing", "name")


def check_arguments(kind: str, name: str, arguments: Mapping[str, Any]) -> None:
    """Check the arguments of a class of `keras.<kind>`.

    Raises:
        ArgumentError: The first fault found.
    """
    for fault in argument_faults(kind, name, arguments):
        raise fault


def argument_faults(
    kind: str, name: str, arguments: Mapping[str, Any], also: Set[str] = frozenset()
) -> Iterator[ArgumentError]:
    """Yield the faults of the arguments of a class of `keras.<kind>`: unknown, missing, or of the wrong type.

    Args:
        kind: The Keras module, such as `layers`.
        name: The class in that module.
        arguments: The arguments to check.
        also: Further arguments that the class accepts.
    """
    found = class_arguments(kind, name)
    assert found is not None, name
    known = (found.known | also) - _NOT_HERE
    yield from name_faults(name, arguments, known, found.required)
    for key, value in arguments.items():
        if value is not None and key in known:
            yield from _value_faults(name, key, value, found)


def _value_faults(name: str, key: str, value: Any, of: Arguments) -> Iterator[ArgumentError]:
    """Yield the faults of an argument's value. Keras checks its range."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if key in (*of.switches, "trainable"):
        if not isinstance(value, bool):
            yield ArgumentError(f"must be true or false, found {value!r}", key)
    elif key in _WHOLE:
        if not is_number or not math.isfinite(value) or value != int(value):
            yield ArgumentError(f"must be a whole number, found {value!r}", key)
    elif key in _SIZES:
        if not is_number and not is_list(value):
            yield ArgumentError(f"must be a whole number or a list of them, found {value!r}", key)
    elif key in of.numbers | _NUMBERS:
        if not (is_number or is_list(value)):
            yield ArgumentError(f"must be a number, found {value!r}", key)
    elif kind := _NAMED.get(key.rpartition("_")[2]):
        yield from _name_faults_of(kind, key, value)
    elif key == "padding" and isinstance(value, str):
        known = ["valid", "same", *(["causal"] if name in CAUSAL else [])]
        if value.lower() not in known:
            meant = did_you_mean(value, known)
            yield ArgumentError(f"must be {' or '.join(known)}, found {value!r}{meant}", key)
    elif key == "axis" and 0 in (value if is_list(value) else [value]):
        yield ArgumentError("axis 0 is that of the images: what one is taken for must not depend on others", key)
    elif key == "data_format" and value != "channels_last":
        yield ArgumentError(f"images here are rows×columns×channels: channels_last, found {value!r}", key)


def _name_faults_of(kind: str, key: str, value: Any) -> Iterator[ArgumentError]:
    # With arguments, in Keras' own format. Other keys are rejected: `module` could name any code.
    if isinstance(value, Mapping):
        if value.keys() - {"class_name", "config"} or not isinstance(value.get("class_name"), str):
            yield ArgumentError("expected a name, or a mapping of class_name and config", key)
            return
        value = value["class_name"]
    if not isinstance(value, str):
        yield ArgumentError(f"expected a name, found {value!r}", key)
    elif value not in names(kind):
        in_snake_case = {name for name in names(kind) if name.islower()}
        yield ArgumentError(f"there is no {kind[:-1]} '{value}'{near_or_all(value, in_snake_case)}", key)


def name_faults(
    title: str, arguments: Mapping[str, Any], known: Set[str], required: Set[str]
) -> Iterator[ArgumentError]:
    """Yield a fault for each argument that is not `known`, and one for all missing `required` ones."""
    meant = set()
    for name in arguments:
        if name not in known:
            meant.add(nearest(name, known - arguments.keys()))
            yield ArgumentError(f"{title} has no argument '{name}'{did_you_mean(name, known)}", name)
    missing = sorted(required - arguments.keys() - meant)
    if missing:
        yield ArgumentError(f"{title} needs {' and '.join(missing)}")
