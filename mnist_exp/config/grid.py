"""The jobs of a sweep."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mnist_exp.config.compose import parsable
from mnist_exp.config.loader import COMPOSITION_ERRORS, config_loader
from mnist_exp.config.places import COMMAND_LINE
from mnist_exp.config.request import Request, key_of, parse_override
from mnist_exp.errors import Problem, RequestError


@dataclass(frozen=True)
class Grid:
    """The jobs of a sweep: which keys are swept, and the overrides of each job."""

    swept: tuple[str, ...]
    jobs: tuple[tuple[str, ...], ...]
    problems: tuple[Problem, ...]
    """Overrides that could not be read; they are in none of the jobs."""


def expand(request: Request) -> Grid:
    """The jobs of a sweep, in the order in which Hydra's own sweeper would run them.

    Raises `RequestError` for a grid without jobs.
    """
    with config_loader(request.config_dir) as loader:
        texts, problems = parsable(request.overrides)
        given = {key_of(text) for text in texts}
        whole = _whole_config(loader, request)
        params = {} if whole is None else _sweeper_params(whole)
        texts = [f"{key}={value}" for key, value in params.items() if key not in given] + texts
        problems += [] if whole is None else _foreign_code(whole)
        swept: list[str] = []
        choices: list[list[str]] = []
        for text in texts:
            override = parse_override(text, loader)
            if not override.is_sweep_override():
                choices.append([text])
            elif override.is_discrete_sweep():
                key = override.get_key_element()
                swept.append(key)
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
    return Grid(tuple(dict.fromkeys(swept)), tuple(itertools.product(*choices)), tuple(problems))


def _whole_config(loader: ConfigLoaderImpl, request: Request) -> DictConfig | None:
    """The config with Hydra's own part; None where it does not compose, which is told when the jobs do."""
    try:
        return loader.load_configuration(request.verb, list(request.overrides), RunMode.MULTIRUN)
    except COMPOSITION_ERRORS:
        return None


def _foreign_code(config: DictConfig) -> list[Problem]:
    """A launcher is the one thing that a config makes by its name in Python: one of Hydra's, and nothing in it."""
    launcher = OmegaConf.to_container(config.hydra.launcher, resolve=False)
    assert isinstance(launcher, dict)
    target = str(launcher.pop("_target_", ""))
    if "_target_" not in str(launcher) and target.startswith(("hydra._internal.core_plugins.", "hydra_plugins.")):
        return []
    return [Problem(COMMAND_LINE, "hydra.launcher: nothing in a config may name code to run", "hydra.launcher")]


def _sweeper_params(config: DictConfig) -> Mapping[str, Any]:
    """`hydra.sweeper.params`, Hydra's way of writing a grid into a config file."""
    params = OmegaConf.select(config, "hydra.sweeper.params")
    return {} if params is None else cast("Mapping[str, Any]", OmegaConf.to_container(params))
