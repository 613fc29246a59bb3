"""Compose a request into a plain dict by Hydra's rules, with all interpolations resolved.

Hydra stops at the first error. This module sets the override at fault aside, explains the error and continues
composing, so that all problems are reported at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mnist_exp.config.diagnostics import (
    explain,
    explain_file,
    explain_interpolation,
    explain_unparsable,
    misplaced_preset,
    preset_problems,
)
from mnist_exp.config.hydra_adapter import (
    COMPOSITION_ERRORS,
    ConfigLoader,
    apply_override,
    config_loader,
    parse_override,
    unreadable,
)
from mnist_exp.config.hydra_settings import foreign_settings
from mnist_exp.config.overrides import Request, key_of
from mnist_exp.config.provenance import COMMAND_LINE, Places
from mnist_exp.errors import Code, Problem, RequestError
from mnist_exp.text import shorten

Complete = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Infers the image shape and the classes from the group `data` and its files. Raises `RequestError`."""

# Placeholders for a shape and classes that cannot be inferred, so that other problems are still found.
_PLACEHOLDERS: Mapping[str, Any] = {"shape": [28, 28, 1], "classes": 10}
# Groups whose options set values of other groups.
PRESETS = ("experiment", "debug")


@dataclass(frozen=True)
class Composition:
    """A composed config with its interpolations resolved, and where its values were set."""

    values: dict[str, Any]
    places: Places
    problems: tuple[Problem, ...]
    raw: dict[Any, Any]
    """The values as written, with interpolations unresolved."""
    failed: frozenset[str] = frozenset()
    """Keys and groups whose overrides could not be applied."""
    remark: str | None = None
    """A warning about a combination that is valid but may be unintended."""
    refusal: RequestError | None = None
    """Why null values could not be inferred and were replaced by placeholders."""

    def problem(self, path: str, message: str, code: Code) -> Problem:
        """Return a problem with the value at a dotted path, located where the value was set."""
        names = [name for _, name in self._parameters(path)]
        of = f" ({names[0]})" if names else ""
        given = [
            f"{key} is {name}, from the command line"
            for key, name in self._parameters(path, inside=True)
            if self.places.place(name) == COMMAND_LINE
        ]
        return Problem(code, self.place(path), "; ".join([f"{path}{of}: {message}", *given]), path)

    def place(self, path: str) -> str:
        """Return where the value at a dotted path was set.

        A value that interpolates a parameter given on the command line counts as set there.
        """
        for _, name in self._parameters(path):
            if self.places.place(name) == COMMAND_LINE:
                return COMMAND_LINE
        return self.places.place(path)

    def _parameters(self, path: str, *, inside: bool = False) -> list[tuple[str, str]]:
        """Return the parameter that the value at a path interpolates, as `[("", name)]`; empty if there is none.

        With `inside`, return `(key, name)` for each value of the mapping at the path that interpolates one.
        """
        node: Any = self.raw
        for part in path.split("."):
            if isinstance(node, list) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
            elif isinstance(node, dict) and part in node:
                node = node[part]
            else:
                return []
        mapping = node if isinstance(node, dict) else {}
        values = list(mapping.items()) if inside else [("", node)]
        matches = [(key, re.fullmatch(r"\$\{([a-z_][\w.]*)\}", str(value))) for key, value in values]
        return [(str(key), match[1]) for key, match in matches if match]


def compose(request: Request, complete: Complete | None = None) -> Composition:
    """Compose a config and collect the problems of its overrides and files.

    Args:
        request: The request.
        complete: Infers the image shape and the classes if they are null; other values may interpolate them.

    Raises:
        RequestError: If composition fails even without overrides, for example because a YAML file is unreadable.
    """
    with config_loader(request.config_dir) as loader:
        overrides, problems = split_parsable(request.overrides)
        steps = _Steps(loader, request)
        config, accepted = steps.compose(overrides)
        problems += steps.problems
        if request.base is not None:
            problems += _presets_over_saved(accepted)
        refusal = _complete(config, complete) if complete else None
        choices = {str(k): v for k, v in config.hydra.runtime.choices.items() if not str(k).startswith("hydra")}
        folders = [Path(s.path) for s in config.hydra.runtime.config_sources if s.schema == "file"]
        HydraConfig.instance().set_config(config)
        raw = OmegaConf.to_container(config, resolve=False)
        assert isinstance(raw, dict)
        del raw["hydra"]
        values, unresolved = _resolve(config)
        keys = [key_of(text) for text in accepted]
        places = Places(request.verb, folders, choices, keys, request.base_file)
        problems += [
            Problem("invalid-interpolation", places.place(path), f"{path}: {text}", path)
            for path, text in unresolved
        ]
        unused = _unused_parameters(raw, keys, places, saved=request.base is not None)
        # A parameter suggested for a misspelled reference counts as used.
        meant = " ".join(text for _, text in unresolved)
        problems += [problem for problem in unused if f"'{problem.path}'" not in meant]
        problems += _misplaced_presets(loader, choices)
        remark = _preset_of_another_model(loader, choices)
    return Composition(values, places, tuple(problems), raw, frozenset(steps.failed), remark, refusal)


def _complete(config: DictConfig, complete: Complete) -> RequestError | None:
    """Put inferred values into the group `data`; if that fails, put placeholders there and return the error."""
    try:
        data = OmegaConf.to_container(config.data, resolve=True)
    except (OmegaConfBaseException, ValueError):  # reported with the other problems
        return None
    missing = [key for key in _PLACEHOLDERS if isinstance(data, dict) and key in data and data[key] is None]
    if not missing:
        return None
    assert isinstance(data, dict)
    try:
        inferred, refusal = complete({str(key): value for key, value in data.items()}), None
    except RequestError as error:
        inferred, refusal = _PLACEHOLDERS, error
    for key in missing:
        config.data[key] = inferred[key]
    return refusal


def compose_or_explain(request: Request) -> Composition:
    """Compose a request.

    Raises:
        RequestError: If the overrides or files have problems; the error lists all of them.
    """
    composition = compose(request)
    if composition.problems:
        raise RequestError(sorted(set(composition.problems)))
    return composition


def refuse_foreign_settings(request: Request) -> None:
    """Raise `RequestError` if option files have settings of Hydra that they must not have.

    A request that cannot be composed is accepted: its problems are reported when it is composed.
    """
    with config_loader(request.config_dir) as loader, suppress(*COMPOSITION_ERRORS):
        config = loader.load(request.verb, request.overrides, multirun=request.multirun)
        if problems := foreign_settings(request, config):
            raise RequestError(problems)


# Keys of Hydra that have no effect here, and what to use instead.
_INSTEAD_OF_HYDRAS = {
    "hydra.run.dir": "outputs=<folder> sets where runs are kept, and name=… names a run",
    "hydra.sweep.dir": "outputs=<folder> sets where sweeps are kept, and sweep.name=… names a sweep",
    "hydra.sweep.subdir": "jobs are named by the values that are swept",
    "hydra.output_subdir": "the config is written to config.yaml in the run's directory",
    "hydra.verbose": "run.log in the run's directory has all messages",
    "hydra.mode": "-m runs a sweep",
    "hydra.job": "name=… names a run, and the working directory is not changed",
    "hydra.job_logging": "run.log in the run's directory has all messages",
    "hydra.hydra_logging": "run.log in the run's directory has all messages",
    "hydra.runtime": "the program sets it",
}


def _instead_of_hydras(key: str) -> str | None:
    """Return what to use instead of a key of Hydra that has no effect; None for any other key."""
    key = key.replace("/", ".")
    found = (text for name, text in _INSTEAD_OF_HYDRAS.items() if key == name or key.startswith(f"{name}."))
    return next(found, None)


def split_parsable(overrides: Sequence[str]) -> tuple[list[str], list[Problem]]:
    """Return the overrides that are valid and have an effect, and a problem for each of the others."""
    good, problems = [], []
    for text in overrides:
        key = key_of(text)
        if instead := _instead_of_hydras(key):
            message = f"{text}: has no effect; {instead}"
            problems.append(Problem("invalid-override", COMMAND_LINE, message, key))
            continue
        if text.startswith("~"):
            message = f"{text}: cannot be removed; give it another value with {key}=…"
            problems.append(Problem("invalid-override", COMMAND_LINE, message, key))
            continue
        try:
            parse_override(text)
            good.append(text)
        except HydraException:
            problems.append(Problem("invalid-override", COMMAND_LINE, explain_unparsable(text)))
    return good, problems


class _Steps:
    """Compose a request, or if that fails, apply its overrides one at a time to isolate those at fault."""

    def __init__(self, loader: ConfigLoader, request: Request) -> None:
        self._loader, self._request = loader, request
        self._accepted: list[str] = []
        self.problems: list[Problem] = []
        self.failed: set[str] = set()

    def compose(self, overrides: Sequence[str]) -> tuple[DictConfig, Sequence[str]]:
        """Return the config and the overrides that it was composed with.

        Raises:
            RequestError: If composition fails even without overrides.
        """
        try:
            return self._load(overrides), overrides
        except COMPOSITION_ERRORS:
            pass
        parsed = {text: self._loader.parse(text) for text in overrides}
        # Groups first: they determine which keys the other overrides can set.
        groups = [text for text in overrides if self._needs_loading(parsed[text])]
        rest = [text for text in overrides if text not in groups]
        try:
            config, self._accepted = self._load(groups), list(groups)
        except COMPOSITION_ERRORS:
            config, rest = self._load_alone(), [*groups, *rest]
        for text in rest:
            try:
                config = self._add(config, parsed[text], text)
                self._accepted.append(text)
            except COMPOSITION_ERRORS as error:
                self._explain(config, parsed[text], text, error)
        return config, self._accepted

    def _load(self, overrides: Sequence[str]) -> DictConfig:
        verb, base = self._request.verb, self._request.base
        return (
            self._loader.load(verb, overrides) if base is None else self._loader.load_over(verb, overrides, base)
        )

    def _load_alone(self) -> DictConfig:
        try:
            return self._load(())
        except COMPOSITION_ERRORS as error:
            raise RequestError(explain_file(error)) from error

    def _needs_loading(self, override: Override) -> bool:
        return bool(self._loader.is_group(override) or override.is_sweep_override())

    def _add(self, config: DictConfig, override: Override, text: str) -> DictConfig:
        if self._needs_loading(override):
            return self._load([*self._accepted, text])
        return apply_override(config, override)

    def _explain(self, config: DictConfig, override: Override, text: str, error: Exception) -> None:
        key = key_of(text)
        if key.startswith("model.") and "model" in self.failed:
            return  # without the model, its keys are unknown
        file = self._loader.option_file(key, text.partition("=")[2]) if key in PRESETS else None
        found = preset_problems(file, self._refusal) if file and not unreadable(error) else []
        if not found:
            self.failed.add(key)
            found = explain(override, error, config, self._loader)
        self.problems += found

    def _refusal(self, text: str, also: Sequence[str]) -> tuple[Code, str] | None:
        """Return why an override cannot be added to the accepted ones and those in `also`; None if it can."""
        overrides = [*self._accepted, *also]
        config = self._load(overrides)
        try:
            self._load([*overrides, text])
        except COMPOSITION_ERRORS as error:
            try:
                override = self._loader.parse(text)
            except HydraException:
                return "invalid-override", f"{shorten(text)}: not a key and value in Hydra's override syntax"
            problem = explain(override, error, config, self._loader)[0]
            return problem.code, problem.message
        return None


def _misplaced_presets(loader: ConfigLoader, choices: Mapping[str, str]) -> list[Problem]:
    """Return a problem for each selected preset that does not begin with `# @package _global_`."""
    chosen = [(group, choices.get(group)) for group in PRESETS]
    files = [loader.option_file(group, option) for group, option in chosen if option not in (None, "none")]
    return [problem for file in files if file is not None and (problem := misplaced_preset(file))]


def _presets_over_saved(overrides: Sequence[str]) -> list[Problem]:
    return [
        Problem(
            "contradiction",
            COMMAND_LINE,
            f"{text}: a preset cannot be applied to a saved config; set the preset's keys one by one",
        )
        for text in overrides
        if key_of(text) in PRESETS and not text.endswith("=none")
    ]


def _resolve(config: DictConfig) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return the config as plain values, and the path and reason of each interpolation that cannot be resolved."""
    failed: list[tuple[str, str]] = []

    def plain(node: Any, prefix: str) -> Any:
        if OmegaConf.is_dict(node):
            return {str(key): entry(node, key, f"{prefix}{key}") for key in node if (prefix or key != "hydra")}
        if OmegaConf.is_list(node):
            return [entry(node, index, f"{prefix}{index}") for index in range(len(node))]
        return node

    def entry(node: Any, key: Any, path: str) -> Any:
        try:
            value = node[key]
        except OmegaConfBaseException as error:
            raw = OmegaConf.to_container(node, resolve=False)
            assert isinstance(raw, (dict, list))
            failed.append((path, f"{raw[key]}: {explain_interpolation(error, config)}"))
            return raw[key]
        return plain(value, f"{path}.")

    return plain(config, ""), failed


def _preset_of_another_model(loader: ConfigLoader, choices: Mapping[str, str]) -> str | None:
    """Return a remark if the preset was made for a model other than the chosen one, else None."""
    preset, model = choices.get("experiment"), choices.get("model")
    file = loader.option_file("experiment", str(preset))
    written = yaml.safe_load(file.read_text(encoding="utf-8")) if file else None
    defaults = written.get("defaults") if isinstance(written, dict) else None
    for entry in defaults or ():
        if isinstance(entry, dict) and entry.get("override /model", model) != model:
            return f"experiment={preset} was made for model={entry['override /model']}, but the model is {model}"
    return None


def _unused_parameters(
    values: Mapping[Any, Any], keys: Sequence[str], places: Places, *, saved: bool
) -> list[Problem]:
    """Return a problem for each of the model's parameters that has no effect.

    Args:
        values: The config, with interpolations unresolved.
        keys: The keys and groups of the overrides.
        places: Where the values were set.
        saved: Whether the config starts from a saved one.
    """
    model = values.get("model")
    if not isinstance(model, dict):
        return []
    names = [f"model.{key}" for key in model if key not in ("name", "layers")]
    if saved and "model" not in keys:
        # In a saved config, `layers` contains resolved values, so changing a parameter would have no effect.
        return [
            Problem(
                "unused-parameter",
                COMMAND_LINE,
                f"{name}: has no effect, as the layers of a saved config hold values instead of parameters; "
                f"override the layer's argument (model.layers.0.…), or select the model again with model=…",
            )
            for name in names
            if any(key.startswith(name) for key in keys)
        ]
    # It is not an error to remove the layer that uses a parameter.
    changed = any(key.startswith("model.layers") for key in keys)
    references = " ".join(re.findall(r"\$\{[^}]*\}", str(model)))
    return [
        Problem(
            "unused-parameter",
            places.place(name),
            f"{name}: no layer in model.layers uses this parameter",
            name,
        )
        for name in names
        if (not changed or name in keys)
        and not re.search(rf"(\bmodel\.|\{{\.+){re.escape(name.removeprefix('model.'))}\b", references)
    ]
