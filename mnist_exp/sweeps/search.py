"""Validate a search request: its space, its settings, and the config that its trials share.

All problems are found here, before anything is created.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnist_exp import registrations
from mnist_exp.config.command_schemas import StudyConfig, TuneConfig
from mnist_exp.config.overrides import Request, key_of
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.engine.preparation import load_base_run
from mnist_exp.errors import Code, Problem, RequestError
from mnist_exp.runs.directory import SWEEPS, safe_name
from mnist_exp.runs.fingerprint import as_values, with_effect
from mnist_exp.runs.journal import flatten
from mnist_exp.sweeps.grid import Grid
from mnist_exp.sweeps.job_check import check_jobs, resolve_data_of_all
from mnist_exp.sweeps.job_names import job_names
from mnist_exp.sweeps.search_space import Numbers, Space, read_space
from mnist_exp.sweeps.worker import data_sha256
from mnist_exp.text import format_percent

_TRIALS = 20
_MOST = 10_000  # maximum number of points in a grid
# Groups of keys that all trials share, in addition to those that all jobs of a sweep share.
_NOT_SEARCHED = ("tune", "name", "debug")


@dataclass(frozen=True)
class Search:
    """A search that passed all checks."""

    request: Request
    """The request to train, with the overrides that all trials share."""
    config: TrainConfig
    """The config of one point of the space. Use only those of its settings that are the same at all points."""
    space: Space
    tune: TuneConfig
    name: str
    trials: int
    seed: int
    epochs: int
    """The maximum number of epochs of a trial."""
    stands_in_for: str | None
    definition: Mapping[str, Any]
    """The settings that identify the study: it is continued only if they are unchanged."""

    @property
    def directory(self) -> Path:
        """The study's directory."""
        return Path(self.config.outputs).resolve() / SWEEPS / safe_name(self.name)

    @property
    def metric(self) -> str:
        """The metric by which trials are compared (`training.select.metric`)."""
        return self.config.training.select.metric

    @property
    def maximizes(self) -> bool:
        """Whether higher values of the metric are better."""
        return self.config.training.select.mode == "max"

    def format_value(self, value: float | None) -> str:
        """Format a value of the metric."""
        if value is None or "accuracy" in self.metric:
            return format_percent(value)
        return f"{value:.4g}"


def check_search(request: Request) -> Search:
    """Check a request to search. Raises `RequestError` with all problems."""
    ours = tuple(text for text in request.overrides if key_of(text).replace("/", ".").split(".")[0] == "tune")
    rest = tuple(text for text in request.overrides if text not in ours)
    request = load_base_run(replace(request, verb="train", overrides=rest))
    settings, problems = check_settings(Request("tune", ours, request.config_dir))
    space = read_space(request, settings.space if settings else {})
    problems += check_space(space, settings)
    jobs = check_points(request, space, problems)
    resolved, stands_in_for = resolve_data_of_all(jobs)
    assert settings is not None
    configs = [config for _, config in resolved]
    check_same_for_all(configs, settings)
    config = configs[0]
    request = replace(request, overrides=space.fixed)
    if stands_in_for:
        request = request.with_option("data", str(jobs[0][1].data.fallback))
    seed = config.seed if settings.seed is None else settings.seed
    trials = settings.trials or (len(space.grid()) if settings.sampler == "grid" else _TRIALS)
    return Search(
        request, config, replace(space, fixed=request.overrides), settings,
        safe_name(settings.name or default_name(space, config.model.name)),
        trials, seed, max(config.training.epochs for config in configs), stands_in_for,
        define_study(config, space, settings, seed),
    )  # fmt: skip


def check_settings(request: Request) -> tuple[TuneConfig | None, list[Problem]]:
    """Check the settings of a search. Returns the settings (None if they are invalid) and their problems."""
    try:
        return compose_checked(request, StudyConfig)[0].tune, []
    except RequestError as error:
        if not error.problems:
            raise
        return None, list(error.problems)


def default_name(space: Space, model: str) -> str:
    """Return the default name of a search: `tune`, the model if it is fixed, and the searched keys."""
    keys = [key.rsplit(".", 1)[-1].lstrip("+") for key in space.keys]
    return "-".join(["tune", *([] if "model" in keys else [model]), *keys])[:100]


def check_space(space: Space, settings: TuneConfig | None) -> list[Problem]:
    """Return the problems with a space as a whole and with its sampler, but not those in `space.problems`."""
    problems = []

    def report(code: Code, message: str, key: str = "") -> None:
        problems.append(Problem(code, COMMAND_LINE, message, key))

    if not space.dimensions and not space.problems:
        report(
            "missing-value",
            "nothing to search over: give keys several values, such as "
            "optimizer.learning_rate='tag(log,interval(1e-4,1e-1))' or aug=none,rotate15",
        )
    for key in space.keys:
        if key.split(".")[0] in _NOT_SEARCHED:
            report(
                "several-values",
                f"{key}: must be the same for all trials of a search; give it a single value",
                key,
            )
    if any(key_of(text) == "name" for text in space.fixed):
        report(
            "contradiction",
            "name: has no effect on a search; use tune.name to name it (trials are numbered)",
            "name",
        )
    return problems if settings is None or not space.dimensions else problems + _sampler_problems(space, settings)


def _sampler_problems(space: Space, settings: TuneConfig) -> list[Problem]:
    """Return the problems that prevent the sampler from searching the space."""
    numeric = [dimension for dimension in space.dimensions if isinstance(dimension, Numbers)]
    if settings.sampler == "grid":
        return _grid_problems(space, numeric, settings.trials or 0)
    if settings.sampler == "cmaes" and len(numeric) < 2:
        message = (
            f"tune.sampler=cmaes: needs at least two numeric keys (interval or range), found "
            f"{len(numeric)}; tune.sampler=tpe accepts any space"
        )
        return [Problem("contradiction", COMMAND_LINE, message, "tune.sampler")]
    return []


def _grid_problems(space: Space, numeric: Sequence[Numbers], trials: int) -> list[Problem]:
    """Return the problems of a space that cannot be a grid, or that has fewer points than the requested trials."""
    if endless := [numbers for numbers in numeric if numbers.points is None or numbers.log]:
        return [
            Problem(
                "contradiction",
                COMMAND_LINE,
                f"tune.sampler=grid: {numbers.key}={numbers.text} has infinitely many values; "
                "a grid needs a list or range of values (a,b,c or range(…))",
                numbers.key,
            )
            for numbers in endless
        ]
    points = math.prod(len(dimension.points or ()) for dimension in space.dimensions)
    if points > _MOST:
        message = f"tune.sampler=grid: {points:,} points; a grid may have at most {_MOST:,}"
        return [Problem("out-of-range", COMMAND_LINE, message, "tune.sampler")]
    if trials > points:
        message = f"tune.trials={trials}: the grid has only {points} points"
        return [Problem("out-of-range", COMMAND_LINE, message, "tune.trials")]
    return []


def check_points(
    request: Request, space: Space, problems: Sequence[Problem]
) -> Sequence[tuple[Request, TrainConfig]]:
    """Check points of the space that include both ends of each range and every choice (see `Space.corners`).

    Returns the requests and configs of the points. Raises `RequestError` with their problems and `problems`.
    """
    grid = Grid(tuple(map(key_of, space.keys)), tuple(space.corners()), space.problems)
    subject = "this search"
    try:
        jobs = check_jobs(request, grid, job_names(grid))
    except RequestError as error:
        if not error.problems:
            raise
        of_points = [as_search_problem(problem, space) for problem in error.problems]
        raise RequestError(sorted({*problems, *of_points}), subject, pending=error.pending) from error
    if problems:
        raise RequestError(sorted(set(problems)), subject)
    return list(jobs.values())


def as_search_problem(problem: Problem, space: Space) -> Problem:
    """Rephrase a problem with some points as a problem with the search.

    A key that does not exist causes the same problem for every value, so it is reported only once.
    """
    message = problem.message.replace("  [all jobs]", "").replace("for all jobs of a sweep", "for all trials")
    for dimension in space.dimensions:
        if message.startswith(f"{dimension.key}=") and ": no such key" in message:
            detail = message.partition(": ")[2].partition("  [")[0]
            message = f"{dimension.key}={dimension.text}: {detail}"
    return replace(problem, message=message)


def check_same_for_all(configs: Sequence[TrainConfig], settings: TuneConfig) -> None:
    """Raise `RequestError` if the trials could not be compared."""
    first = configs[0]
    if not first.data.val_fraction:
        raise RequestError("data.val_fraction=0: a search needs validation data to compare trials")
    if "keras" not in first.save:
        raise RequestError("save: must include keras for a search, whose best trial is scored on the test set")
    if first.sweep.keep_models != "all":
        raise RequestError(f"sweep.keep_models={first.sweep.keep_models}: has no effect on a search")
    if settings.pruner != "none" and any(config.training.max_seconds is not None for config in configs):
        raise RequestError(
            f"tune.pruner={settings.pruner}: compares trials after the same number of epochs, but with "
            "training.max_seconds each trial has its own number of epochs; set tune.pruner=none"
        )
    for config in configs[1:]:
        if config.data != first.data:
            raise RequestError(
                "data: must be the same for all trials of a search, because they are compared on it"
            )
        if config.training.select != first.training.select:
            raise RequestError(
                "training.select: must be the same for all trials of a search, because it is used to compare them"
            )


def define_study(config: TrainConfig, space: Space, settings: TuneConfig, seed: int) -> dict[str, Any]:
    """Return the settings that identify a study, as plain values."""
    searched = tuple(f"{key.lstrip('+')}." for key in space.keys)
    values = with_effect(as_values(config))
    del values["device"]
    plugins = {plugin.name: plugin.sha256 for plugin in registrations.used_by(values)}
    return {
        **({"plugins": plugins} if plugins else {}),
        "space": space.texts,
        "tune.sampler": settings.sampler,
        "tune.pruner": settings.pruner,
        "tune.seed": seed,
        "images": data_sha256(config.data)[:12],
        # The config of one point, without the searched keys, whose values differ between points.
        "config": {key: value for key, value in flatten(values).items() if not f"{key}.".startswith(searched)},
    }
