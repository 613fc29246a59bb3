"""The names and arguments of Keras' classes, read from its source because importing Keras takes three seconds.

A test compares them with `inspect.signature` of the imported classes.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from mnist_exp import registrations

_NOT_BY_NAME = {"Optimizer", "LossScaleOptimizer", "MultiOptimizer", "OptimizerMap", "Loss", "Metric"}
_NOT_BY_NAME |= {"Initializer", "Regularizer", "Constraint"}
# Legacy names that `get` still accepts, and exported functions that `get` does not look up.
_OF_OLD = {"initializers": {"normal", "one", "uniform", "zero"}, "regularizers": {"l1l2"}}
# The abbreviations that Keras accepts for both losses and metrics, in lower or upper case.
_ABBREVIATIONS = {
    "bce": "BinaryCrossentropy",
    "kld": "KLDivergence",
    "mae": "MeanAbsoluteError",
    "mape": "MeanAbsolutePercentageError",
    "mse": "MeanSquaredError",
    "msle": "MeanSquaredLogarithmicError",
}
_ABBREVIATIONS |= {name.upper(): full for name, full in _ABBREVIATIONS.items()}
_FUNCTIONS = {"get", "serialize", "deserialize"}


@dataclass(frozen=True)
class Arguments:
    """The names of a constructor's arguments, and which of them are required."""

    known: frozenset[str]
    required: frozenset[str]
    switches: frozenset[str]
    """Arguments whose default is true or false."""
    numbers: frozenset[str]
    """Arguments whose default is a number."""


@cache
def exported(kind: str) -> dict[str, tuple[str, str]]:
    """Map each name that `keras.<kind>` exports to the module and name of its definition."""
    found = {}
    for node in _parsed(f"keras.{kind}").body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found[alias.asname or alias.name] = (node.module, alias.name)
    return found


def class_arguments(kind: str, name: str) -> Arguments | None:
    """Return the arguments of a class of `keras.<kind>` or of a plug-in; None if there is no such class."""
    own = registrations.of_module(kind).get(name)
    return _exported_arguments(kind, name) if own is None else arguments_of(own.target)


@cache
def _exported_arguments(kind: str, name: str) -> Arguments | None:
    return _arguments(*exported(kind)[name]) if name in exported(kind) else None


def arguments_of(target: Any) -> Arguments:
    """Return the arguments of a plug-in's class, or those of its function after the first.

    A class that passes further arguments (`**kwargs`) on has those of its base classes as well, none of which is
    required; those of `keras.Layer` are left out.
    """
    found: dict[str, inspect.Parameter] = {}
    required: set[str] | None = None
    for function in _functions_with_arguments(target):
        _, *parameters = inspect.signature(function).parameters.values()
        named = {one.name: one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}
        if required is None:
            required = {name for name, one in named.items() if one.default is one.empty}
        found = named | found
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break
    return Arguments(
        frozenset(found),
        frozenset(required or ()),
        frozenset(name for name, one in found.items() if isinstance(one.default, bool)),
        frozenset(name for name, one in found.items() if type(one.default) in (int, float)),
    )


def _functions_with_arguments(target: Any) -> list[Any]:
    """Return the function itself, or the constructors of a class and of its base classes below `keras.Layer`."""
    if not inspect.isclass(target):
        return [target]
    bases = takewhile(lambda base: base is not object and base.__name__ != "Layer", inspect.getmro(target))
    return [vars(base)["__init__"] for base in bases if "__init__" in vars(base)]


def same_class(kind: str, name: str, among: Iterable[str]) -> str | None:
    """Return the name in `among` of the class that `name` refers to (MaxPooling2D for MaxPool2D), or None."""
    found = exported(kind)
    return next((other for other in sorted(among) if name in found and found.get(other) == found[name]), None)


def classes(kind: str) -> list[str]:
    """Return the classes that `keras.<kind>` exports, and those of plug-ins.

    Base classes and those that wrap other optimizers are left out.
    """
    of_keras = [name for name in exported(kind) if name[:1].isupper() and name not in _NOT_BY_NAME]
    return [*of_keras, *registrations.of_module(kind)]


@cache
def names(kind: str) -> frozenset[str]:
    """Return the names that `keras.<kind>.get` accepts.

    `kind` is `activations`, `initializers`, `regularizers` or `constraints`.
    """
    found = exported(kind).keys() - _NOT_BY_NAME - _FUNCTIONS
    return frozenset(found | {snake_case(name) for name in found} | _OF_OLD.get(kind, set()))


def find_class(kind: str, name: str) -> str | None:
    """Return the class of `keras.<kind>` or a plug-in with this name, as spelled or in snake case, or None.

    For losses and metrics, the name may be an abbreviation, such as `mse`.
    """
    name = spell_out(name) if kind in ("losses", "metrics") else name
    return next((known for known in classes(kind) if name in (known, snake_case(known))), None)


def spell_out(name: str) -> str:
    """Return the full name of an abbreviated loss or metric, in snake case; any other name unchanged."""
    if name.lower() == "acc":
        return "accuracy"
    return snake_case(_ABBREVIATIONS[name]) if name in _ABBREVIATIONS else name


def snake_case(class_name: str) -> str:
    """Convert a class name to snake case as Keras does: Conv2D becomes conv2d, F1Score becomes f1_score."""
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", class_name)).lower()


def _arguments(module: str, name: str) -> Arguments | None:
    tree = _parsed(module)
    definition = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None)
    if definition is None:
        source = _imported(tree).get(name)
        return _arguments(*source) if source else None
    for node in definition.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return _of_function(node.args)
    for base in definition.bases:
        # A base may be written as `optimizer.Optimizer` or `Optimizer`.
        text = ast.unparse(base)
        owner, _, last = text.rpartition(".")
        imported = _imported(tree)
        where = (".".join(imported[owner]), last) if owner in imported else imported.get(last, (module, last))
        if where != (module, name) and where[0].startswith("keras") and (found := _arguments(*where)):
            return found
    return Arguments(frozenset(), frozenset(), frozenset(), frozenset())


def _of_function(arguments: ast.arguments) -> Arguments:
    positional = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    missing = [None] * (len(positional) - len(arguments.defaults))
    defaults = dict(zip(positional, [*missing, *arguments.defaults], strict=True))
    defaults |= {a.arg: default for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)}
    del defaults[positional[0]]  # self
    constants = {name: node.value for name, node in defaults.items() if isinstance(node, ast.Constant)}
    return Arguments(
        frozenset(defaults),
        frozenset(name for name, node in defaults.items() if node is None),
        frozenset(name for name, value in constants.items() if isinstance(value, bool)),
        frozenset(name for name, value in constants.items() if type(value) in (int, float)),
    )


@cache
def _parsed(module: str) -> ast.Module:
    return ast.parse(_file(module).read_text(encoding="utf-8"))


def _imported(tree: ast.Module) -> dict[str, tuple[str, str]]:
    return {
        alias.asname or alias.name: (node.module, alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }


@cache
def _package() -> Path:
    spec = importlib.util.find_spec("keras")  # does not import it
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def _file(module: str) -> Path:
    path = _package().joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
