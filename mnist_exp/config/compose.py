"""From a request to one plain, resolved dict, by Hydra's rules.

Hydra stops at the first thing that is wrong; here the override that it stopped at is set aside, explained,
and the composition goes on, so that everything wrong is told at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mnist_exp.config.explain import explain, explain_file, explain_unparsable
from mnist_exp.config.loader import COMPOSITION_ERRORS, config_loader, is_group, load
from mnist_exp.config.places import COMMAND_LINE, Places
from mnist_exp.config.request import Request, key_of, parse_override
from mnist_exp.errors import Problem, RequestError

# Groups whose options hold values of other groups.
PRESETS = ("experiment", "debug")


@dataclass(frozen=True)
class Composition:
    """A composed config, its interpolations resolved, and where its values come from."""

    values: dict[str, Any]
    places: Places
    problems: tuple[Problem, ...]

    def problem(self, path: str, message: str) -> Problem:
        """What is wrong with the value at a dotted path, at the place that it comes from."""
        return Problem(self.places.place(path), f"{path}: {message}", path)


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
        problems += _unused_knobs(with_knobs, replace(request, overrides=tuple(good)), places)
    return Composition(values, places, tuple(problems))


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
    try:
        config = load(loader, request, accepted)
    except COMPOSITION_ERRORS as error:
        raise RequestError(explain_file(error)) from error
    parsed = {text: parse_override(text, loader) for text in overrides}
    # Groups first: what other overrides reach depends on them.
    for text in sorted(overrides, key=lambda text: not is_group(loader, parsed[text])):
        try:
            config = load(loader, request, [*accepted, text])
            accepted.append(text)
        except COMPOSITION_ERRORS as error:
            message = explain(parsed[text], error, config, loader)
            problems.append(Problem(COMMAND_LINE, message, key_of(text)))
    return config, accepted, problems


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
            failed.append((path, f"{raw[key]}: {str(error).strip().splitlines()[0]}"))
            return raw[key]
        return plain(value, f"{path}.")

    return plain(config, ""), failed


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
        Problem(places.place(f"model.{knob}"), f"model.{knob}: nothing in model.layers refers to this knob")
        for knob in knobs
        if (not changed or f"model.{knob}" in given)
        and not re.search(rf"(\bmodel\.|\{{\.+){re.escape(knob)}\b", references)
    ]
