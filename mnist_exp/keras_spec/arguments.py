"""Check the arguments of Keras' classes against the signatures in its source, without importing Keras."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from mnist_exp import registrations
from mnist_exp.errors import Code
from mnist_exp.keras_spec.layer_types import TRAITS
from mnist_exp.keras_spec.signatures import Arguments, class_arguments, names
from mnist_exp.suggest import did_you_mean, near_or_all, nearest

# Arguments whose values Keras looks up by name: the last word of the argument, and the module that Keras searches.
_NAMED = {"activation": "activations", "initializer": "initializers", "regularizer": "regularizers"} | {
    "constraint": "constraints"
}
# Arguments that take numbers, although they have no default that shows it.
_WHOLE = frozenset({"filters", "units", "n", "groups", "depth_multiplier"})
# Positive integers that Keras uses without checking them.
_COUNTS = frozenset({("Equalization", "bins"), ("RandAugment", "num_ops"), ("RandomPosterization", "factor")})
_NUMBERS = frozenset({"rate", "stddev", "scale", "factor"})
_SIZES = frozenset({"kernel_size", "pool_size", "strides", "dilation_rate", "size", "cropping"})
# Arguments that do not affect the output's shape: if one is invalid, later layers can still be checked.
_BESIDE_SHAPE = frozenset({"use_bias", "rate", "name", "trainable"})
# Arguments for quantized layers, which plain Keras cannot load from a saved model.
_NOT_HERE = frozenset({"quantization_config", "gptq_unpacked_column_size", "lora_rank", "lora_alpha"})


@dataclass(frozen=True)
class Fault:
    """A fault of a layer, optimizer, loss or metric."""

    code: Code
    path: str
    """The dotted path of the value at fault. While an entry is parsed, it is relative to the entry."""
    message: str

    def at(self, place: str) -> Fault:
        """Return the fault with a place prepended to its path."""
        return replace(self, path=f"{place}.{self.path}" if self.path else place)


def argument_faults(
    kind: str, name: str, arguments: Mapping[str, Any], also: Set[str] = frozenset()
) -> Iterator[Fault]:
    """Yield the faults of a Keras class's arguments: unknown or missing ones, and values of the wrong type.

    Args:
        kind: The Keras module, such as `layers`.
        name: The class in that module.
        arguments: The arguments to check.
        also: Further arguments that the class accepts.
    """
    signature = class_arguments(kind, name)
    assert signature is not None, name
    known = (signature.known | also) - _NOT_HERE
    yield from key_faults(name, arguments, known, signature.required)
    is_own = name in registrations.of_module(kind)
    for key, value in arguments.items():
        if value is not None and key in known:
            fault = plain_fault(key, value, signature) if is_own else _value_fault(name, key, value, signature)
            if fault is not None:
                yield fault


def key_faults(title: str, arguments: Mapping[str, Any], known: Set[str], required: Set[str]) -> Iterator[Fault]:
    """Yield a fault for each argument that is not `known`, and one for all missing `required` ones."""
    intended = set()
    for name in arguments:
        if name not in known:
            intended.add(nearest(name, known - arguments.keys()))
            yield Fault("unknown-argument", name, f"{title} has no argument '{name}'{did_you_mean(name, known)}")
    missing = sorted(required - arguments.keys() - intended)
    if missing:
        yield Fault("missing-value", "", f"{title} needs {' and '.join(missing)}")


def required_arguments(kind: str, name: str) -> frozenset[str]:
    """Return the required arguments of a class of `keras.<kind>`; empty if there is no such class."""
    signature = class_arguments(kind, name)
    return frozenset() if signature is None else signature.required


def is_beside_shape(argument: str) -> bool:
    """Return whether an argument has no effect on its layer's output shape."""
    return argument in _BESIDE_SHAPE or argument.rpartition("_")[2] in _NAMED


def split_entry(entry: Any) -> tuple[Any, dict[str, Any]]:
    """Return the name and the arguments of an entry: a name, or a mapping of its `type` and arguments."""
    if not isinstance(entry, Mapping):
        return entry, {}
    return entry.get("type"), {key: value for key, value in entry.items() if key != "type"}


def is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    """Return whether a value is a list or tuple, rather than a string."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def _value_fault(class_name: str, key: str, value: Any, signature: Arguments) -> Fault | None:
    """Return the fault of an argument's value, if any. Ranges are left for Keras to check."""
    if key in (*signature.switches, "trainable"):
        return None if isinstance(value, bool) else _wrong_type(key, value, "true or false")
    if kind := _NAMED.get(key.rpartition("_")[2]):
        return _lookup_fault(kind, key, value)
    if key in ("padding", "axis", "data_format"):
        return _layout_fault(class_name, key, value)
    if (class_name, key) in _COUNTS and not is_list(value):
        is_count = isinstance(value, int) and not isinstance(value, bool) and value > 0
        return None if is_count else _wrong_type(key, value, "a positive integer")
    return _number_fault(key, value, takes_number=key in signature.numbers | _NUMBERS)


def plain_fault(key: str, value: Any, signature: Arguments) -> Fault | None:
    """Return the fault of a plug-in's argument, if its type is not that of the default."""
    if key in (*signature.switches, "trainable"):
        return None if isinstance(value, bool) else _wrong_type(key, value, "true or false")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return None if is_number or key not in signature.numbers else _wrong_type(key, value, "a number")


def _number_fault(key: str, value: Any, *, takes_number: bool) -> Fault | None:
    if key in _WHOLE:
        return None if _is_whole(value) else _wrong_type(key, value, "an integer")
    if key in _SIZES:
        is_size = all(map(_is_whole, _flatten(value)))
        return None if is_size else _wrong_type(key, value, "an integer or a list of integers")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number or is_list(value):
        return None
    return _wrong_type(key, value, "a number") if takes_number else None


def _is_whole(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value == int(value)


def _flatten(value: Any) -> Iterator[Any]:
    """Yield the values of a list and of the lists in it, or a value that is no list."""
    if is_list(value):
        for one in value:
            yield from _flatten(one)
    else:
        yield value


def _layout_fault(class_name: str, key: str, value: Any) -> Fault | None:
    """Return the fault of `padding`, `axis` or `data_format`."""
    if key == "axis" and 0 in (value if is_list(value) else [value]):
        return Fault("invalid-value", key, "must not be 0, the batch axis: images must not affect one another")
    if key == "data_format" and value != "channels_last":
        message = f"must be channels_last, as images are rows×columns×channels; found {value!r}"
        return Fault("invalid-value", key, message)
    if key == "padding" and isinstance(value, str):
        accepts_causal = class_name in TRAITS and TRAITS[class_name].accepts_causal
        known = ["valid", "same", *(["causal"] if accepts_causal else [])]
        if value.lower() not in known:
            hint = did_you_mean(value, known)
            return Fault("unknown-option", key, f"must be {' or '.join(known)}, found {value!r}{hint}")
    return None


def _wrong_type(key: str, value: Any, expected: str) -> Fault:
    return Fault("wrong-type", key, f"must be {expected}, found {value!r}")


def _lookup_fault(kind: str, key: str, value: Any) -> Fault | None:
    # A name with arguments, in Keras' own format. Other keys are rejected: `module` could name any code.
    if isinstance(value, Mapping):
        if value.keys() - {"class_name", "config"} or not isinstance(value.get("class_name"), str):
            return Fault("invalid-entry", key, "expected a name, or a mapping of class_name and config")
        value = value["class_name"]
    if not isinstance(value, str):
        return Fault("wrong-type", key, f"expected a name, found {value!r}")
    if value in names(kind):
        return None
    in_snake_case = {name for name in names(kind) if name.islower()}
    return Fault("unknown-option", key, f"there is no {kind[:-1]} '{value}'{near_or_all(value, in_snake_case)}")
