"""The names that plug-ins have registered in this process. It is empty unless the user named a plug-in.

`mnist_exp.plugin` has the decorators, and `mnist_exp.engine.plugin_loading` loads plug-ins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["layer", "augmentation", "loss", "metric", "callback", "schedule", "optimizer"]

MODULES: Mapping[Kind, str] = {
    "layer": "layers", "augmentation": "layers", "loss": "losses", "metric": "metrics", "optimizer": "optimizers",
}  # fmt: skip
"""The Keras module with whose classes a kind shares its names."""

PACKAGE = "mnist-exp plug-in "
"""The prefix of the package under which Keras knows a plug-in's classes: its own errors name the plug-in, too."""


@dataclass(frozen=True)
class Registration:
    """A class or function that a config can name."""

    kind: Kind
    name: str
    target: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    """The arguments of the decorator."""
    plugin: str = ""
    """The name of the plug-in."""
    alias: str = ""
    """Another name for it in configs: Keras also accepts the names of losses and metrics in snake case."""


@dataclass(frozen=True)
class Plugin:
    """A plug-in that was loaded."""

    name: str
    reference: str
    """The absolute path of a file, or the name of an installed package's entry point."""
    sha256: str
    """The digest of a file, or of all Python files of a package."""
    sources: Mapping[str, bytes] = field(repr=False, compare=False)
    """The content of these files."""

    @property
    def shown(self) -> str:
        """The value for `--plugin`, without the folder of a file."""
        return next(iter(self.sources)) if self.reference.endswith(".py") else self.name


noted: list[Registration] = []
"""All classes and functions that were decorated, whether or not their plug-in is loaded."""
_registered: dict[tuple[Kind, str], Registration] = {}
_plugins: dict[str, Plugin] = {}
_undo: list[Callable[[], object]] = []


def add(plugin: Plugin, registrations: Sequence[Registration], undo: Sequence[Callable[[], object]] = ()) -> None:
    """Add a plug-in. `undo` is called by `clear`."""
    _plugins[plugin.name] = plugin
    _registered.update({(one.kind, one.name): one for one in registrations})
    _undo.extend(undo)


def clear() -> None:
    """Forget all plug-ins."""
    while _undo:
        _undo.pop()()
    _registered.clear()
    _plugins.clear()


def loaded() -> tuple[Plugin, ...]:
    """Return the plug-ins in the order in which they were loaded."""
    return tuple(_plugins.values())


def find(kind: Kind, name: str) -> Registration | None:
    """Return what is registered under a name; None if nothing is."""
    return _registered.get((kind, name))


def names(kind: Kind) -> frozenset[str]:
    """Return the registered names of a kind."""
    return frozenset(name for registered, name in _registered if registered == kind)


def of_module(module: str) -> dict[str, Registration]:
    """Return what is registered next to the classes of a Keras module, such as `layers`, by name."""
    return {name: one for (kind, name), one in _registered.items() if MODULES.get(kind) == module}


def sharing_names(kind: Kind) -> list[Registration]:
    """Return what is registered of a kind, and of the kinds that share its names."""
    return [one for one in _registered.values() if MODULES.get(one.kind, one.kind) == MODULES.get(kind, kind)]


def explain_missing(error: BaseException) -> str | None:
    """Explain an error of Keras for a model with a plug-in's class; None if it has another cause."""
    match = re.search(rf"{PACKAGE}([^>'\"]+)>(\w+)", str(error))
    return f"contains {match[2]} of the plug-in {match[1]}: name it with --plugin" if match else None


def used_by(values: Mapping[str, Any]) -> tuple[Plugin, ...]:
    """Return the loaded plug-ins whose names a config uses, sorted by name."""
    if not _plugins:
        return ()
    groups = {key: values.get(key) or {} for key in ("model", "aug", "optimizer", "schedule", "training")}
    training = groups["training"]
    texts: Mapping[Kind, set[str]] = {
        "layer": set(_texts(groups["model"].get("layers"))),
        "augmentation": set(_texts(groups["aug"].get("layers"))),
        "loss": set(_texts(training.get("loss"))),
        "metric": set(_texts(training.get("metrics"))),
        "callback": set(_texts(training.get("callbacks"))),
        "schedule": set(_texts(groups["schedule"].get("type"))),
        "optimizer": set(_texts(groups["optimizer"].get("type"))),
    }
    used = {one.plugin for one in _registered.values() if {one.name, one.alias} & texts[one.kind]}
    return tuple(_plugins[name] for name in sorted(used))


def _texts(node: Any) -> Iterator[str]:
    """Yield all texts in a config value."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, Sequence):
        for value in node:
            yield from _texts(value)
