"""The jobs of a sweep."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mnist_exp.config.compose import parsable
from mnist_exp.config.hydra_adapter import COMPOSITION_ERRORS, config_loader
from mnist_exp.config.overrides import Request, key_of, parse_override
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.errors import Problem, RequestError

_EXTRAS = ("joblib", "submitit", "ray")  # of this package, each with its launchers


@dataclass(frozen=True)
class Grid:
    """The jobs of a sweep: which keys are swept, and the overrides of each job."""

    swept: tuple[str, ...]
    jobs: tuple[tuple[str, ...], ...]
    problems: tuple[Problem, ...]
    """Overrides that could not be read; they are in none of the jobs."""
    launcher: Mapping[str, Any] = field(default_factory=dict)
    """The config of what starts the jobs (`hydra.launcher`)."""
    batch: int | None = None
    """How many jobs it is given at once (`hydra.sweeper.max_batch_size`); None: not said."""


def expand(request: Request) -> Grid:
    """The jobs of a sweep, in the order in which Hydra's own sweeper would run them.

    Raises `RequestError` for a grid without jobs.
    """
    with config_loader(request.config_dir) as loader:
        texts, problems = parsable(request.overrides)
        given = {key_of(text) for text in texts}
        whole = whole_config(loader, request)
        params = {} if whole is None else _sweeper_params(whole)
        texts = [f"{key}={value}" for key, value in params.items() if key not in given] + texts
        launcher = {} if whole is None else _launcher(whole)
        problems += [] if whole is None else _wrong_launcher(whole, launcher)
        swept: list[str] = []
        choices: list[list[str]] = []
        for text in texts:
            override = parse_override(text, loader)
            if not override.is_sweep_override():
                choices.append([text])
            elif override.is_discrete_sweep():
                key = override.get_key_element()
                swept.append(key_of(key))
                choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
                if not choices[-1]:
                    raise RequestError(f"{text}: no value to sweep over")
            else:
                problems.append(
                    Problem(
                        COMMAND_LINE,
                        f"{text}: a grid needs single values (a,b,c or range(…)), not an interval",
                    )
                )
    twice = {key for key in swept if [key_of(text) for text in texts].count(key) > 1}
    problems += [Problem(COMMAND_LINE, f"{key}: given twice") for key in sorted(twice)]
    batch = None if whole is None else OmegaConf.select(whole, "hydra.sweeper.max_batch_size")
    return Grid(tuple(dict.fromkeys(swept)), tuple(itertools.product(*choices)), tuple(problems), launcher, batch)


def whole_config(loader: ConfigLoaderImpl, request: Request) -> DictConfig | None:
    """The config with Hydra's own part; None where it does not compose, which is told when the jobs do.

    Where only the rest does not, as over a saved config, it is Hydra's own part that counts.
    """
    of_hydra = [text for text in request.overrides if key_of(text).startswith("hydra")]
    for overrides in (list(request.overrides), of_hydra):
        with suppress(*COMPOSITION_ERRORS):
            return loader.load_configuration(request.verb, overrides, RunMode.MULTIRUN)
    return None


def names_code(launcher: Mapping[str, Any]) -> bool:
    """Whether a launcher's config names code beside that of one of Hydra's launchers."""
    others = {key: value for key, value in launcher.items() if key != "_target_"}
    ours = ("hydra._internal.core_plugins.", "hydra_plugins.")
    return "_target_" in str(others) or not str(launcher.get("_target_", "")).startswith(ours)


def resolved(launcher: DictConfig) -> dict[str, Any]:
    """A launcher's config in plain values."""
    return cast("dict[str, Any]", OmegaConf.to_container(launcher, resolve=True))


def chosen_launcher(config: DictConfig) -> str:
    """The option of `hydra/launcher` in a whole config."""
    return str(OmegaConf.select(config, "hydra.runtime.choices")["hydra/launcher"])


def _launcher(config: DictConfig) -> dict[str, Any]:
    return cast("dict[str, Any]", OmegaConf.to_container(config.hydra.launcher, resolve=False))


def _wrong_launcher(config: DictConfig, launcher: Mapping[str, Any]) -> list[Problem]:
    """A launcher is the one thing that a config makes by its name in Python: one of Hydra's, and nothing in it."""
    target = str(launcher.get("_target_", ""))
    if names_code(launcher):
        message = "hydra.launcher: nothing in a config may name code to run"
        return [Problem(COMMAND_LINE, message, "hydra.launcher")]
    plugin = ".".join(target.split(".")[:2])
    try:
        is_here = find_spec(plugin) is not None
    except ModuleNotFoundError:
        is_here = False
    if is_here:
        return []
    choice = chosen_launcher(config)
    extra = choice.split("_")[0]
    how = f"; pip install 'mnist-exp[{extra}]' does that" if extra in _EXTRAS else ""
    message = f"hydra/launcher={choice}: {plugin} is not installed{how}"
    return [Problem(COMMAND_LINE, message, "hydra/launcher")]


def _sweeper_params(config: DictConfig) -> Mapping[str, Any]:
    """`hydra.sweeper.params`, Hydra's way of writing a grid into a config file."""
    params = OmegaConf.select(config, "hydra.sweeper.params")
    return {} if params is None else cast("Mapping[str, Any]", OmegaConf.to_container(params))
