"""Expand a multirun request into the jobs of a sweep."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, cast

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from mnist_exp.config.compose import split_parsable
from mnist_exp.config.hydra_adapter import COMPOSITION_ERRORS, LAUNCHER_PACKAGES, ConfigLoader, config_loader
from mnist_exp.config.hydra_settings import foreign_settings
from mnist_exp.config.overrides import Request, key_of
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.errors import Problem, RequestError
from mnist_exp.text import how_to_install

_EXTRAS = ("joblib", "submitit", "ray")  # this package's extras that install launchers


@dataclass(frozen=True)
class Grid:
    """The jobs of a sweep: which keys are swept, and the overrides of each job."""

    swept: tuple[str, ...]
    jobs: tuple[tuple[str, ...], ...]
    problems: tuple[Problem, ...]
    """Problems with the overrides or the launcher. Overrides that cannot be expanded are left out of all jobs."""
    launcher: Mapping[str, Any] = field(default_factory=dict)
    """The launcher's config (`hydra.launcher`)."""
    batch: int | None = None
    """The number of jobs per call of the launcher (`hydra.sweeper.max_batch_size`); None: not given."""

    @property
    def values(self) -> dict[str, str]:
        """The values of each swept key, as written."""
        given = {key: [text for job in self.jobs for text in job if key_of(text) == key] for key in self.swept}
        return {key: ",".join(dict.fromkeys(text.split("=", 1)[1] for text in given[key])) for key in given}


def expand(request: Request) -> Grid:
    """Return the jobs of a sweep, in the order in which Hydra's own sweeper would run them.

    Raises `RequestError` if the grid has no jobs.
    """
    with config_loader(request.config_dir) as loader:
        texts, problems = split_parsable(request.overrides)
        whole = compose_with_hydra(loader, request)
        launcher: Mapping[str, Any] = {}
        batch = None
        if whole is not None:
            given = {key_of(text) for text in texts}
            params = _sweeper_params(whole).items()
            texts = [f"{key}={value}" for key, value in params if key not in given] + texts
            launcher = _launcher(whole)
            problems += _launcher_problems(whole, launcher)
            batch = OmegaConf.select(whole, "hydra.sweeper.max_batch_size")
        swept: list[str] = []
        choices: list[list[str]] = []
        for text in texts:
            override = loader.parse(text)
            if not override.is_sweep_override():
                choices.append([text])
            elif override.is_discrete_sweep():
                swept.append(key_of(override.get_key_element()))
                choices.append(_values(override, text))
            else:
                message = f"{text}: a grid needs a list or range of values (a,b,c or range(…)), not an interval"
                problems.append(Problem("invalid-override", COMMAND_LINE, message))
    if whole is not None:
        problems += foreign_settings(request, whole)
    twice = {key for key in swept if [key_of(text) for text in texts].count(key) > 1}
    problems += [Problem("given-twice", COMMAND_LINE, f"{key}: given twice") for key in sorted(twice)]
    return Grid(tuple(dict.fromkeys(swept)), tuple(itertools.product(*choices)), tuple(problems), launcher, batch)


def _values(override: Override, text: str) -> list[str]:
    """Return one override per value of a swept key. Raises `RequestError` if it has no values."""
    key = override.get_key_element()
    values = [f"{key}={value}" for value in override.sweep_string_iterator()]
    if not values:
        raise RequestError(f"{text}: no value to sweep over")
    return values


def compose_with_hydra(loader: ConfigLoader, request: Request) -> DictConfig | None:
    """Return the config including Hydra's own settings; None if those cannot be composed.

    Errors are reported later, when the jobs are composed. If the config can be composed only without the overrides
    of other settings (some may apply only to a saved config), these overrides are ignored.
    """
    of_hydra = [text for text in request.overrides if key_of(text).startswith("hydra")]
    for overrides in (request.overrides, of_hydra):
        with suppress(*COMPOSITION_ERRORS):
            return loader.load(request.verb, overrides, multirun=True)
    return None


def names_code(launcher: Mapping[str, Any]) -> bool:
    """Return whether a launcher's config names any code other than one of Hydra's launchers."""
    others = {key: value for key, value in launcher.items() if key != "_target_"}
    return "_target_" in str(others) or not str(launcher.get("_target_", "")).startswith(LAUNCHER_PACKAGES)


def resolve_launcher(launcher: DictConfig) -> dict[str, Any]:
    """Return a launcher's config as plain values, with interpolations resolved."""
    return cast("dict[str, Any]", OmegaConf.to_container(launcher, resolve=True))


def chosen_launcher(config: DictConfig) -> str:
    """Return the selected option of `hydra/launcher`, given a config that includes Hydra's own settings."""
    return str(OmegaConf.select(config, "hydra.runtime.choices")["hydra/launcher"])


def _launcher(config: DictConfig) -> dict[str, Any]:
    return cast("dict[str, Any]", OmegaConf.to_container(config.hydra.launcher, resolve=False))


def _launcher_problems(config: DictConfig, launcher: Mapping[str, Any]) -> list[Problem]:
    """Return a problem if the launcher is not one of Hydra's, or is not installed.

    The launcher is the only object that a config names by its Python path.
    """
    target = str(launcher.get("_target_", ""))
    if names_code(launcher):
        message = "hydra.launcher: a config must not name code to run"
        return [Problem("names-code", COMMAND_LINE, message, "hydra.launcher")]
    plugin = ".".join(target.split(".")[:2])
    try:
        is_here = find_spec(plugin) is not None
    except ModuleNotFoundError:
        is_here = False
    if is_here:
        return []
    choice = chosen_launcher(config)
    extra = choice.split("_")[0]
    how = f"; {how_to_install(extra)}" if extra in _EXTRAS else ""
    message = f"hydra/launcher={choice}: {plugin} is not installed{how}"
    return [Problem("not-installed", COMMAND_LINE, message, "hydra/launcher")]


def _sweeper_params(config: DictConfig) -> Mapping[str, Any]:
    """Return `hydra.sweeper.params`, the values to sweep over that a config file specifies."""
    params = OmegaConf.select(config, "hydra.sweeper.params")
    return {} if params is None else cast("Mapping[str, Any]", OmegaConf.to_container(params))
