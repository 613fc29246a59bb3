"""From a request to one plain, resolved dict, by Hydra's rules.

Hydra stops at the first thing that is wrong; here the override that it stopped at is set aside, explained,
and the composition goes on, so that everything wrong is told at once.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mnist_exp.config.diagnostics import (
    explain,
    explain_file,
    explain_interpolation,
    explain_unparsable,
    preset_problems,
    unreadable,
)
from mnist_exp.config.hydra_adapter import COMPOSITION_ERRORS, config_loader, is_group, load, option_file
from mnist_exp.config.overrides import Request, key_of, parse_override
from mnist_exp.config.provenance import COMMAND_LINE, Places
from mnist_exp.errors import Problem, RequestError

# Groups whose options hold values of other groups.
PRESETS = ("experiment", "debug")


@dataclass(frozen=True)
class Composition:
    """A composed config, its interpolations resolved, and where its values come from."""

    values: dict[str, Any]
    places: Places
    problems: tuple[Problem, ...]
    raw: dict[Any, Any]
    """The values as they are written, with their interpolations."""
    remark: str | None = None
    """What is no mistake, but may not be meant."""

    def problem(self, path: str, message: str) -> Problem:
        """What is wrong with the value at a dotted path, at the place that it comes from."""
        knobs = [knob for _, knob in self._knobs(path)]
        of = f" ({knobs[0]})" if knobs else ""
        given = [
            f"{key} is {knob}, from the command line"
            for key, knob in self._knobs(path, inside=True)
            if self.places.place(knob) == COMMAND_LINE
        ]
        told = "; ".join([f"{path}{of}: {message}", *given])
        return Problem(self.place(path), told, path)

    def place(self, path: str) -> str:
        """Where the value at a dotted path comes from: the command line, if that turned the knob that it is."""
        for _, knob in self._knobs(path):
            if self.places.place(knob) == COMMAND_LINE:
                return COMMAND_LINE
        return self.places.place(path)

    def _knobs(self, path: str, *, inside: bool = False) -> list[tuple[str, str]]:
        """The key that the value at a path is an interpolation of; with `inside`, those of a mapping's values."""
        node: Any = self.raw
        for part in path.split("."):
            if isinstance(node, list) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
            elif isinstance(node, dict) and part in node:
                node = node[part]
            else:
                return []
        values = list(node.items()) if inside and isinstance(node, dict) else [] if inside else [("", node)]
        matches = [(key, re.fullmatch(r"\$\{([a-z_][\w.]*)\}", str(value))) for key, value in values]
        return [(str(key), match[1]) for key, match in matches if match]


def compose(request: Request) -> Composition:
    """Compose one config; everything wrong with its overrides and files is in its `problems`.

    Where not even our own options compose (a YAML file that cannot be read), `RequestError` is raised.
    """
    with config_loader(request.config_dir) as loader:
        good, problems = parsable(request.overrides)
        try:
            config = load(loader, request, good)
        except COMPOSITION_ERRORS:
            config, good, more = _load_what_can_be(loader, request, good)
            problems += more
        if request.base is not None:
            problems += [
                Problem(
                    COMMAND_LINE, f"{text}: a preset cannot be put on a saved config; give its values one by one"
                )
                for text in good
                if key_of(text) in PRESETS and not text.endswith("=none")
            ]
        choices = {str(k): v for k, v in config.hydra.runtime.choices.items() if not str(k).startswith("hydra")}
        folders = [Path(s.path) for s in config.hydra.runtime.config_sources if s.schema == "file"]
        HydraConfig.instance().set_config(config)
        with_knobs = OmegaConf.to_container(config, resolve=False)
        assert isinstance(with_knobs, dict)
        del with_knobs["hydra"]
        values, unresolved = _resolve(config)
        places = Places(request.verb, folders, choices, good, request.base_file)
        problems += [Problem(places.place(path), f"{path}: {text}", path) for path, text in unresolved]
        # A knob that a misspelt name was meant for is used.
        meant = " ".join(text for _, text in unresolved)
        problems += [
            problem
            for problem in _unused_knobs(with_knobs, replace(request, overrides=tuple(good)), places)
            if f"'{problem.path}'" not in meant
        ]
        remark = _preset_of_another_model(loader, choices)
    return Composition(values, places, tuple(problems), with_knobs, remark)


def compose_or_explain(request: Request) -> Composition:
    """Compose, and raise `RequestError` for whatever is wrong."""
    composition = compose(request)
    if composition.problems:
        raise RequestError(sorted(set(composition.problems)))
    return composition


def parsable(overrides: Sequence[str]) -> tuple[list[str], list[Problem]]:
    good, problems = [], []
    for text in overrides:
        try:
            parse_override(text)
            good.append(text)
        except HydraException:
            problems.append(Problem(COMMAND_LINE, explain_unparsable(text)))
    return good, problems


def _load_what_can_be(
    loader: ConfigLoaderImpl, request: Request, overrides: Sequence[str]
) -> tuple[DictConfig, list[str], list[Problem]]:
    """Compose with the overrides added one at a time, without those that fail."""
    accepted: list[str] = []
    problems: list[Problem] = []
    failed: set[str] = set()
    try:
        config = load(loader, request, accepted)
    except COMPOSITION_ERRORS as error:
        raise RequestError(explain_file(error)) from error
    parsed = {text: parse_override(text, loader) for text in overrides}
    # Groups first: what other overrides reach depends on them.
    for text in sorted(overrides, key=lambda text: not is_group(loader, parsed[text])):
        try:
            if is_group(loader, parsed[text]) or parsed[text].is_sweep_override():
                config = load(loader, request, [*accepted, text])
            else:  # as Hydra does when it has composed: no file is read again
                changed = copy.deepcopy(config)
                ConfigLoaderImpl._apply_overrides_to_config([parsed[text]], changed)
                config = changed
            accepted.append(text)
        except COMPOSITION_ERRORS as error:
            group = key_of(text).split(".")[0]
            if group == "model" and "." in key_of(text) and group in failed:
                continue  # which keys it has is not known
            found = [] if unreadable(error) else _problems_of_preset(loader, request, accepted, text)
            if not found:
                failed.add(key_of(text))
                found = explain(parsed[text], error, config, loader)
            problems += found
    return config, accepted, problems


def _problems_of_preset(
    loader: ConfigLoaderImpl, request: Request, accepted: Sequence[str], text: str
) -> list[Problem]:
    """What is wrong in the file of a preset, if the override chooses one."""
    file = option_file(loader, key_of(text), text.partition("=")[2]) if key_of(text) in PRESETS else None
    return preset_problems(file, partial(_explained, loader, request, accepted)) if file else []


def _explained(
    loader: ConfigLoaderImpl, request: Request, accepted: Sequence[str], text: str, also: Sequence[str]
) -> str | None:
    """Why an override cannot be added to those that were accepted; None where it can."""
    config = load(loader, request, [*accepted, *also])
    try:
        load(loader, request, [*accepted, *also, text])
    except COMPOSITION_ERRORS as error:
        return explain(parse_override(text, loader), error, config, loader)[0].message
    return None


def _resolve(config: DictConfig) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The config as plain values; what an interpolation could not resolve is told and left as it stands."""
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


def _preset_of_another_model(loader: ConfigLoaderImpl, choices: Mapping[str, str]) -> str | None:
    """That a preset chooses a model, and another was chosen instead."""
    preset, model = choices.get("experiment"), choices.get("model")
    file = option_file(loader, "experiment", str(preset))
    written = yaml.safe_load(file.read_text(encoding="utf-8")) if file else None
    defaults = written.get("defaults") if isinstance(written, dict) else None
    for entry in defaults or ():
        if isinstance(entry, dict) and entry.get("override /model", model) != model:
            return f"experiment={preset} was made for model={entry['override /model']}; here it is model={model}"
    return None


def _unused_knobs(values: Mapping[Any, Any], request: Request, places: Places) -> list[Problem]:
    model = values.get("model")
    if not isinstance(model, dict):
        return []
    knobs = [str(key) for key in model if key not in ("name", "layers")]
    if request.base is not None and not any(key_of(text) == "model" for text in request.overrides):
        # A saved config is resolved: its layers hold numbers, and turning a knob would do nothing.
        turned = [knob for knob in knobs if any(key_of(t).startswith(f"model.{knob}") for t in request.overrides)]
        return [
            Problem(
                COMMAND_LINE,
                f"model.{knob}: the layers of a saved config hold values, not knobs; "
                f"set the layer's argument (model.layers.0.…), or choose the model anew with model=…",
            )
            for knob in turned
        ]
    # Leaving out the layer that a knob is for is no mistake.
    changed = any(key_of(text).startswith("model.layers") for text in request.overrides)
    given = [key_of(text) for text in request.overrides]
    references = " ".join(re.findall(r"\$\{[^}]*\}", str(model)))
    return [
        Problem(
            places.place(f"model.{knob}"),
            f"model.{knob}: nothing in model.layers refers to this knob",
            f"model.{knob}",
        )
        for knob in knobs
        if (not changed or f"model.{knob}" in given)
        and not re.search(rf"(\bmodel\.|\{{\.+){re.escape(knob)}\b", references)
    ]
