"""Load plug-ins: run their code, check what they register, and make it known to Keras."""

from __future__ import annotations

import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import keras

from mnist_exp import registrations
from mnist_exp.config.schema import SCHEDULES
from mnist_exp.errors import Code, Problem, RequestError, first_line
from mnist_exp.keras_spec.layer_faults import COMPOSITES
from mnist_exp.keras_spec.signatures import exported, snake_case, spell_out
from mnist_exp.registrations import MODULES, PACKAGE, Kind, Plugin, Registration, noted
from mnist_exp.suggest import did_you_mean
from mnist_exp.text import display_path
from mnist_exp.training.callback import Callback

GROUP = "mnist_exp.plugins"

# The class that a registered class must be derived from, and its name in messages.
_BASES: Mapping[Kind, tuple[type, str]] = {
    "layer": (keras.Layer, "keras.Layer"),
    "augmentation": (keras.Layer, "keras.Layer"),
    "loss": (keras.Loss, "keras.Loss"),
    "metric": (keras.Metric, "keras.Metric"),
    "optimizer": (keras.Optimizer, "keras.Optimizer"),
    "callback": (Callback, "mnist_exp.plugin.Callback"),
}
_FUNCTIONS: tuple[Kind, ...] = ("loss", "metric", "schedule")


class _Refused(Exception):
    """A plug-in cannot be used."""

    def __init__(self, code: Code, place: str, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(code, place, message)


def load_all(references: Sequence[str]) -> None:
    """Load plug-ins. Raises `RequestError` with their problems; then none is loaded."""
    problems: list[Problem] = []
    for reference in dict.fromkeys(_absolute(reference) for reference in references):
        try:
            plugin, found = _load_file(Path(reference)) if reference.endswith(".py") else _load_package(reference)
        except _Refused as refused:
            problems.append(refused.problem)
            continue
        place = str(display_path(Path(reference))) if reference.endswith(".py") else f"plug-in {reference}"
        faulty = list(_faults(plugin, found, place))
        problems += faulty
        if not faulty:
            _register(plugin, found)
    if problems:
        registrations.clear()
        raise RequestError(problems, "the plug-ins")


def _absolute(reference: str) -> str:
    return str(Path(reference).expanduser().resolve()) if reference.endswith(".py") else reference


# ── Running the code ─────────────────────────────────────────────────────────────────────────────────────────────


def _load_file(file: Path) -> tuple[Plugin, list[Registration]]:
    """Run a file. What is run is what the digest is computed from."""
    place = str(display_path(file))
    try:
        source = file.read_bytes()
    except OSError as error:
        raise _Refused("not-found", place, f"cannot be read: {error.strerror}") from error
    # Not a name that an `import` could find: nothing may load the file but this function.
    module = ModuleType(f"mnist_exp plug-in {file.stem}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module
    before = len(noted)
    with _explaining(place, file):
        exec(compile(source, str(file), "exec", dont_inherit=True), module.__dict__)
    found = noted[before:]
    del noted[before:]
    digest = hashlib.sha256(source).hexdigest()
    return Plugin(file.stem, str(file), digest, {file.name: source}), found


def _load_package(name: str) -> tuple[Plugin, list[Registration]]:
    """Import the entry point of an installed package."""
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        message = f"there is no plug-in of this name{did_you_mean(name, points)}; installed: "
        message += ", ".join(sorted(points)) or "none"
        raise _Refused("not-found", f"plug-in {name}", f"{message}; a file must end in .py")
    top = points[name].module.partition(".")[0]
    with _explaining(f"plug-in {name}"):
        points[name].load()
    sources = _sources(points[name])
    digest = hashlib.sha256()
    for file, content in sources.items():
        digest.update(f"{file}\0{len(content)}\0".encode() + content)
    found = [one for one in noted if getattr(one.target, "__module__", "").partition(".")[0] == top]
    return Plugin(name, name, digest.hexdigest(), sources), found


def _sources(point: EntryPoint) -> dict[str, bytes]:
    """Return the Python files of the top-level package of an entry point, by relative path."""
    spec = find_spec(point.module.partition(".")[0])
    assert spec is not None
    if not spec.submodule_search_locations:
        assert spec.origin is not None
        return {Path(spec.origin).name: Path(spec.origin).read_bytes()}
    folders = map(Path, spec.submodule_search_locations)
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for folder in folders
        for file in sorted(folder.rglob("*.py"))
    }


@contextmanager
def _explaining(place: str, file: Path | None = None) -> Iterator[None]:
    """Turn any error of a plug-in's code in the block into `_Refused`, with the line at fault."""
    try:
        yield
    except (Exception, SystemExit) as error:
        line = _line_at_fault(error, file)
        message = f"cannot be imported: {type(error).__name__}: {first_line(error)}"
        raise _Refused("unusable", f"{place}:{line}" if line else place, message) from error


def _line_at_fault(error: BaseException, file: Path | None) -> int | None:
    """Return the last line of a file that was reached before an error."""
    if isinstance(error, SyntaxError):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == str(file)), None)


# ── Checks ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _faults(plugin: Plugin, found: Sequence[Registration], place: str) -> Iterator[Problem]:
    """Yield the problems of a plug-in's registrations."""
    if not found:
        yield Problem("missing-value", place, "registers nothing: it must use the decorators of mnist_exp.plugin")
    if any(other.name == plugin.name for other in registrations.loaded()):
        yield Problem("given-twice", place, f"another plug-in is called {plugin.name}, too; rename the file")
    seen: set[tuple[str, str]] = set()
    for one in found:
        key = MODULES.get(one.kind, one.kind), snake_case(one.name)
        if message := _wrong_kind(one):
            yield Problem("wrong-type", place, message)
        elif message := "registered twice" if key in seen else _taken(one):
            yield Problem("given-twice", place, f"{one.kind} {one.name}: {message}")
        seen.add(key)


def _wrong_kind(one: Registration) -> str:
    """Return why a target cannot be registered as what it is; empty if it can."""
    takes = []
    if one.kind in _BASES:
        base, name = _BASES[one.kind]
        takes.append(f"a class derived from {name}")
        if inspect.isclass(one.target) and issubclass(one.target, base) and one.target is not base:
            return ""
    if one.kind in _FUNCTIONS:
        takes.append("a function")
        if inspect.isfunction(one.target) and one.target.__name__ != "<lambda>":
            return ""
    return f"{one.kind} {one.name}: must be {' or '.join(takes)}, found {_describe(one.target)}"


def _describe(target: Any) -> str:
    if inspect.isclass(target):
        return f"a class derived from {', '.join(base.__name__ for base in target.__bases__)}"
    return "a function" if inspect.isfunction(target) else f"{target!r}"


def _taken(one: Registration) -> str:
    """Return who has the name of a registration already; empty if it is free."""
    name = snake_case(one.name)
    if (module := MODULES.get(one.kind)) is not None:
        if name in {snake_case(known) for known in {*exported(module), *COMPOSITES}}:
            return f"the name is taken by keras.{module}" if one.name not in COMPOSITES else "the name is taken"
        if one.kind in ("loss", "metric") and spell_out(one.name) != one.name:
            return "the name is an abbreviation that Keras knows"
    elif one.kind == "schedule" and one.name in SCHEDULES:
        return "the name is taken by a built-in schedule"
    others = registrations.sharing_names(one.kind)
    theirs = next((other for other in others if snake_case(other.name) == name), None)
    return f"the name is taken by the plug-in {theirs.plugin}" if theirs else ""


# ── Registration ─────────────────────────────────────────────────────────────────────────────────────────────────


def _register(plugin: Plugin, found: Sequence[Registration]) -> None:
    """Add a plug-in, and let Keras find its classes when it loads a model."""
    added: list[Registration] = []
    undo: list[Callable[[], object]] = []
    for one in found:
        target = _as_class(one)
        alias = snake_case(one.name) if one.kind in ("loss", "metric") else ""
        added.append(replace(one, target=target, plugin=plugin.name, alias=alias))
        if one.kind in MODULES:
            keras.saving.register_keras_serializable(f"{PACKAGE}{plugin.name}", one.name)(target)
            key = keras.saving.get_registered_name(target)
            undo.append(partial(keras.saving.get_custom_objects().pop, key, None))
    registrations.add(plugin, added, undo)


def _as_class(one: Registration) -> Any:
    """Return the target; a loss or metric that is a function becomes a class, as only classes can be saved."""
    if not inspect.isfunction(one.target) or one.kind == "schedule":
        return one.target
    function = one.target
    more: dict[str, Any]
    if one.kind == "loss":
        base: type = keras.Loss
        more = {"call": lambda self, y_true, y_pred: function(y_true, y_pred)}
    else:
        base = keras.metrics.MeanMetricWrapper

        def create(self: Any, name: str = snake_case(one.name), dtype: Any = None) -> None:
            base.__init__(self, function, name, dtype)  # type: ignore[misc]

        more = {"__init__": create, "get_config": lambda self: {"name": self.name, "dtype": self.dtype}}
    return type(one.name, (base,), {**more, "__module__": function.__module__, "__doc__": function.__doc__})
