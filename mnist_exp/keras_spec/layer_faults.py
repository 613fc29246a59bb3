"""The faults of an entry in a list of layers, found without importing Keras, and which types are allowed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from typing import Any

from mnist_exp.keras_spec.arguments import Fault, argument_faults
from mnist_exp.keras_spec.layer_types import TRAITS
from mnist_exp.keras_spec.signatures import class_arguments, same_class
from mnist_exp.suggest import nearest

# Keras' layer types that may be entries of a list of layers.
ALLOWED = frozenset(kind for kind, row in TRAITS.items() if row.listed)
# Layer types that may merge the branches of a `Parallel`.
MERGES = frozenset(kind for kind, row in TRAITS.items() if row.merges)
# Keras' layer types that may be entries of `aug.layers`.
AUGMENTATIONS = frozenset(kind for kind, row in TRAITS.items() if row.augments)

# Entries that combine layers, with their allowed and their required keys.
COMPOSITES: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "Repeat": (frozenset({"layers", "times"}), frozenset({"layers", "times"})),
    "Residual": (frozenset({"layers", "shortcut"}), frozenset({"layers"})),
    "Parallel": (frozenset({"branches", "merge"}), frozenset({"branches"})),
}
# Arguments that every layer inherits from the base class.
_COMMON_ARGUMENTS = frozenset({"name", "trainable"})


def layer_faults(kind: str, arguments: Mapping[str, Any], allowed: Set[str], where: str) -> Iterator[Fault]:
    """Yield the faults of a layer: a type that is not allowed, invalid arguments, or an invalid name.

    If the type is misspelled, the arguments are checked as those of the type that was probably meant.
    """
    intended: str | None = kind
    if kind not in allowed:
        candidates = allowed | COMPOSITES.keys() if allowed >= ALLOWED else allowed
        intended = same_class("layers", kind, candidates)
        if intended is None and class_arguments("layers", kind) is not None:
            yield Fault("unknown-layer", "type", f"{kind} cannot be used in {where}")
            return
        intended = intended or nearest(kind, candidates)
        hint = f" (did you mean '{intended}'?)" if intended else ""
        yield Fault("unknown-layer", "type", f"there is no layer '{kind}'{hint}")
    if intended is not None and intended not in COMPOSITES:
        yield from argument_faults("layers", intended, arguments, _COMMON_ARGUMENTS)
    name = arguments.get("name", "x")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        message = f"must consist of letters, digits, '_', '.' and '-', found {name!r}"
        yield Fault("invalid-value", "name", message)
    elif name.startswith("preprocess"):
        yield Fault("invalid-value", "name", "must not begin with 'preprocess': these names are reserved")
