"""Parse lists of layers, as written in YAML, into specs and their faults, without importing Keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from mnist_exp import registrations
from mnist_exp.errors import Code
from mnist_exp.keras_spec.arguments import (
    Fault,
    is_beside_shape,
    is_list,
    key_faults,
    required_arguments,
    split_entry,
)
from mnist_exp.keras_spec.layer_faults import ALLOWED, AUGMENTATIONS, COMPOSITES, MERGES, layer_faults
from mnist_exp.keras_spec.layer_types import find_traits

MOST_TIMES = 1000  # the largest `times` of a `Repeat`
MOST_LAYERS = 900  # Keras recurses into each; with some 970 in a row, it exceeds Python's limit

# Arguments that augmentation layers accept but a config may not set, and why.
_NOT_FOR_AUGMENTATIONS = {
    "seed": "must not be set; it is derived from the run's seed",
    "name": "must not be set; layers in aug.layers have no names",
}


@dataclass(frozen=True)
class LayerSpec:
    """A Keras layer."""

    place: str
    """The layer's dotted path in the config."""
    type: str
    arguments: Mapping[str, Any]
    shape_is_known: bool = True
    """False if an argument that determines the output's shape was invalid and has been left out."""

    @property
    def keeps_shape(self) -> bool:
        """Whether the output has the shape of the input."""
        return _keeps_shape(self.type)

    def without(self, argument: str) -> LayerSpec | None:
        """Return the spec without an argument; None if the layer needs it, or the spec does not have it."""
        if argument not in self.arguments or argument in required_arguments("layers", self.type):
            return None
        rest = {key: value for key, value in self.arguments.items() if key != argument}
        return replace(self, arguments=rest, shape_is_known=self.shape_is_known and is_beside_shape(argument))


@dataclass(frozen=True)
class RepeatSpec:
    """A list of layers that is repeated, each time with its own weights."""

    place: str
    layers: tuple[Spec, ...]
    times: int


@dataclass(frozen=True)
class ResidualSpec:
    """A list of layers whose output is added to their input, or to the output of `shortcut`."""

    place: str
    layers: tuple[Spec, ...]
    shortcut: tuple[Spec, ...]


@dataclass(frozen=True)
class ParallelSpec:
    """Lists of layers that share an input and whose outputs are merged."""

    place: str
    branches: tuple[tuple[Spec, ...], ...]
    merge: LayerSpec | None
    """The layer that merges the outputs; None if it is invalid."""


@dataclass(frozen=True)
class InvalidSpec:
    """An entry that cannot be built because of its faults."""

    place: str
    keeps_shape: bool = False
    """Whether the output of the intended layer has the shape of its input."""


Spec = LayerSpec | RepeatSpec | ResidualSpec | ParallelSpec | InvalidSpec


@dataclass(frozen=True)
class LayerList:
    """A parsed list of layers."""

    entries: tuple[Any, ...]
    """The list as written in the config."""
    specs: tuple[Spec, ...]
    """The parsed entries, without those that are null."""
    faults: tuple[Fault, ...] = ()
    """The faults found without Keras, which also checks values and shapes."""


def parse_layers(entries: Sequence[Any], place: str = "model.layers") -> LayerList:
    """Parse a list of layers, including nested lists.

    Args:
        entries: Names of layers, mappings with a `type`, and nulls.
        place: The dotted path of the list in the config.
    """
    faults: list[Fault] = []
    specs = _parse_list(entries, place, faults)
    return _limited(LayerList(tuple(entries), specs, tuple(faults)), place)


def parse_augmentations(entries: Sequence[Any], place: str = "aug.layers") -> LayerList:
    """Parse a list of Keras' augmentation layers."""
    faults: list[Fault] = []
    specs: list[Spec] = []
    for index, entry in enumerate(entries):
        if entry is not None:
            at, before = f"{place}.{index}", len(faults)
            refused = [key for key in _NOT_FOR_AUGMENTATIONS if isinstance(entry, Mapping) and key in entry]
            faults += [Fault("unknown-argument", key, _NOT_FOR_AUGMENTATIONS[key]).at(at) for key in refused]
            allowed = AUGMENTATIONS | registrations.names("augmentation")
            spec = _parse_layer(entry, at, faults, allowed, "aug.layers")
            specs.append(spec if len(faults) == before else InvalidSpec(at))
    return _limited(LayerList(tuple(entries), tuple(specs), tuple(faults)), place)


def _limited(layers: LayerList, place: str) -> LayerList:
    """Return the list; one with too many layers, which would keep Keras busy, is replaced by its fault."""
    count = _count_layers(layers.specs)
    if count <= MOST_LAYERS:
        return layers
    message = f"must be at most {MOST_LAYERS} layers, counting repeated ones, found {count:,}"
    return replace(layers, specs=(InvalidSpec(place),), faults=(Fault("out-of-range", place, message),))


def _count_layers(specs: Sequence[Spec]) -> int:
    count = 0
    for spec in specs:
        match spec:
            case RepeatSpec():
                count += spec.times * _count_layers(spec.layers)
            case ResidualSpec():
                count += 1 + _count_layers(spec.layers) + _count_layers(spec.shortcut)
            case ParallelSpec():
                count += 1 + sum(map(_count_layers, spec.branches))
            case _:
                count += 1
    return count


def _parse_list(entries: Any, place: str, faults: list[Fault]) -> tuple[Spec, ...]:
    if not is_list(entries):
        faults.append(Fault("wrong-type", place, f"expected a list of layers, found {entries!r}"))
        return (InvalidSpec(place),)
    return tuple(
        _parse_entry(entry, f"{place}.{index}", faults) for index, entry in enumerate(entries) if entry is not None
    )


def _parse_entry(entry: Any, place: str, faults: list[Fault]) -> Spec:
    kind, arguments = split_entry(entry)
    composites: dict[Any, Callable[[Mapping[str, Any], str, list[Fault]], Spec]] = {
        "Repeat": _parse_repeat,
        "Residual": _parse_residual,
        "Parallel": _parse_parallel,
    }
    if not isinstance(kind, str) or kind not in composites:
        return _parse_layer(entry, place, faults, ALLOWED | registrations.names("layer"), "a list of layers")
    wrong = [fault.at(place) for fault in key_faults(kind, arguments, *COMPOSITES[kind])]
    # Parse nested lists even if a key is wrong, to report their faults as well.
    spec = composites[kind](arguments, place, faults)
    # Report at most one fault of the entry itself.
    faults += wrong[:1]
    return InvalidSpec(place) if wrong else spec


def _parse_repeat(arguments: Mapping[str, Any], place: str, faults: list[Fault]) -> Spec:
    layers = _parse_nested(arguments, "layers", place, faults)
    times = arguments.get("times", 1)
    if isinstance(times, int) and not isinstance(times, bool) and 0 <= times <= MOST_TIMES:
        return RepeatSpec(place, layers, times)
    code: Code = "out-of-range" if isinstance(times, int) else "wrong-type"
    message = f"must be an integer from 0 to {MOST_TIMES}, found {times!r}"
    faults.append(Fault(code, f"{place}.times", message))
    return InvalidSpec(place)


def _parse_residual(arguments: Mapping[str, Any], place: str, faults: list[Fault]) -> Spec:
    layers = _parse_nested(arguments, "layers", place, faults)
    return ResidualSpec(place, layers, _parse_nested(arguments, "shortcut", place, faults))


def _parse_parallel(arguments: Mapping[str, Any], place: str, faults: list[Fault]) -> Spec:
    branches = arguments.get("branches")
    parsed = [
        _parse_list(branch, f"{place}.branches.{index}", faults)
        for index, branch in enumerate(branches if is_list(branches) else ())
        if branch is not None
    ]
    merge = _parse_merge(arguments.get("merge", "Concatenate"), place, faults)
    if len(parsed) >= 2:
        return ParallelSpec(place, tuple(parsed), merge)
    if "branches" in arguments:
        code: Code = "out-of-range" if is_list(branches) else "wrong-type"
        message = f"expected two or more lists of layers, found {branches!r}"
        faults.append(Fault(code, f"{place}.branches", message))
    return InvalidSpec(place)


def _parse_nested(arguments: Mapping[str, Any], key: str, place: str, faults: list[Fault]) -> tuple[Spec, ...]:
    entries = arguments.get(key)
    return () if entries is None else _parse_list(entries, f"{place}.{key}", faults)


def _parse_merge(entry: Any, place: str, faults: list[Fault]) -> LayerSpec | None:
    wrong: list[Fault] = []
    spec = _parse_layer(entry, "merge", wrong, MERGES, "merge")
    # If `merge` is only a name, the fault belongs to `merge`, not to `merge.type`.
    faults += [
        (fault if isinstance(entry, Mapping) else replace(fault, path="merge")).at(place) for fault in wrong
    ]
    return replace(spec, place=place) if isinstance(spec, LayerSpec) and not wrong else None


def _parse_layer(entry: Any, place: str, faults: list[Fault], allowed: Set[str], where: str) -> Spec:
    """Parse an entry for a Keras layer.

    Args:
        entry: The layer's name, or a mapping of its `type` and arguments.
        place: The entry's dotted path.
        faults: The entry's faults are added to this list.
        allowed: The layer types allowed here.
        where: The kind of list that contains the entry, as named in messages.
    """
    kind, arguments = split_entry(entry)
    if not isinstance(kind, str):
        expected = "'type' with the layer's name"
        if not isinstance(entry, Mapping):
            expected = f"a layer's name or a mapping with 'type', found {entry!r}"
        faults.append(Fault("invalid-entry", place, f"expected {expected}"))
        return InvalidSpec(place)
    wrong = list(layer_faults(kind, arguments, allowed, where))
    faults += [fault.at(place) for fault in wrong]
    if kind not in allowed:
        return InvalidSpec(place)
    spec: LayerSpec | None = LayerSpec(place, kind, arguments)
    for key in dict.fromkeys(fault.path for fault in wrong):
        spec = spec and spec.without(key)
    if spec is None or required_arguments("layers", kind) - spec.arguments.keys():
        return InvalidSpec(place, _keeps_shape(kind))
    return spec


def _keeps_shape(kind: str) -> bool:
    traits = find_traits(kind)
    return traits is not None and traits.keeps_shape
