"""Check all jobs of a sweep before any of them starts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from mnist_exp.config.compose import Composition
from mnist_exp.config.overrides import Request
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.config.schema import DataConfig, TrainConfig
from mnist_exp.config.validation import check_request, select_unreported
from mnist_exp.engine.preparation import (
    MODEL_KEYS,
    check_with_keras,
    complete_data,
    recheck_with_data,
    resolve_data,
    resolve_models,
    set_up,
)
from mnist_exp.errors import Problem, RequestError
from mnist_exp.runs.fingerprint import as_values, with_effect
from mnist_exp.runs.log import warn
from mnist_exp.sweeps.grid import Grid

# Keys that belong to the whole sweep, or to the process that its jobs may share.
NOT_SWEPT = ("from", "outputs", "tracking", "sweep", "device", "hydra", "report")
_MOST_NAMES = 3  # maximum number of jobs listed in a message

Checked = tuple[TrainConfig, Composition]


def format_job_count(count: int) -> str:
    return f"{count} job{'s' * (count != 1)}"


def check_jobs(request: Request, grid: Grid, names: Sequence[str]) -> dict[str, tuple[Request, TrainConfig]]:
    """Return the request and config of every job by its name; with `sweep.skip_invalid`, only of valid jobs.

    Raises `RequestError` with the problems of all jobs, each listed once with the names of the jobs it affects.
    """
    problems = _grid_problems(grid, names)
    of_the_grid, subject = bool(problems), f"this sweep of {format_job_count(len(names))}"
    jobs, valid, repaired = _compose_jobs(request, grid, names, problems)
    skips = not of_the_grid and any(config.sweep.skip_invalid for config, _ in valid.values())
    if problems and not skips:
        pending = None if of_the_grid else partial(_pending_problems, repaired | valid, problems, names)
        raise RequestError(_with_names(problems, names), subject, pending=pending)
    if valid:
        set_up(next(iter(valid.values()))[0])
    for name, of_keras in _problems_with_keras(valid).items():
        del jobs[name]
        for problem in of_keras:
            problems.setdefault(problem, []).append(name)
    if problems:
        refused = RequestError(_with_names(problems, names), subject)
        if not skips or not jobs:
            raise refused
        warn(f"{len(names) - len(jobs)} of {len(names)} jobs are skipped: {refused}")
    return jobs


def _grid_problems(grid: Grid, names: Sequence[str]) -> dict[Problem, list[str]]:
    """Return the problems of the sweep as a whole, each of which applies to all jobs."""
    problems = {problem: list(names) for problem in grid.problems}
    for key in grid.swept:
        if key.split(".")[0] in NOT_SWEPT:
            message = f"{key}: must be the same for all jobs of a sweep; give it a single value"
            problems[Problem("several-values", COMMAND_LINE, message, key)] = list(names)
    return problems


def _compose_jobs(
    request: Request, grid: Grid, names: Sequence[str], problems: dict[Problem, list[str]]
) -> tuple[dict[str, tuple[Request, TrainConfig]], dict[str, Checked], dict[str, Checked]]:
    """Compose all jobs, adding their problems to `problems`.

    Returns:
        The valid jobs with their requests, the valid jobs with their compositions, and those invalid jobs that
        Keras can still check, repaired.
    """
    jobs: dict[str, tuple[Request, TrainConfig]] = {}
    valid: dict[str, Checked] = {}
    repaired: dict[str, Checked] = {}
    for name, overrides in zip(names, grid.jobs, strict=True):
        job = replace(request, overrides=overrides, multirun=False)
        checked = check_request(job, TrainConfig, complete_data)
        faults = checked.problems
        if not faults:
            config, composition = checked.unwrap()
            try:
                jobs[name] = resolve_models(job, config)
                valid[name] = jobs[name][1], composition
            except RequestError as error:
                faults = error.problems
        elif checked.needs_keras and checked.config is not None:
            repaired[name] = checked.config, checked.composition
        for problem in faults:
            problems.setdefault(problem, []).append(name)
    return jobs, valid, repaired


def _problems_with_keras(composed: Mapping[str, Checked]) -> dict[str, Sequence[Problem]]:
    """Return the problems that Keras finds, by job name; valid jobs that differ only by seed are checked once."""
    problems: dict[str, Sequence[Problem]] = {}
    right: set[str] = set()
    for name, (config, composition) in composed.items():
        models = {key: getattr(config, key) for key in MODEL_KEYS}
        asked = json.dumps({**with_effect(as_values(config)), **models, "seed": None}, sort_keys=True)
        if asked in right:
            continue
        try:
            check_with_keras(config, composition)
            right.add(asked)
        except RequestError as error:
            problems[name] = error.problems
    return problems


def _pending_problems(
    composed: Mapping[str, Checked], reported: Mapping[Problem, Sequence[str]], names: Sequence[str]
) -> tuple[Problem, ...]:
    """Return the problems that Keras finds in addition to the reported ones."""
    problems: dict[Problem, list[str]] = {}
    if composed:
        set_up(next(iter(composed.values()))[0])
    for name, of_keras in _problems_with_keras(composed).items():
        for problem in select_unreported(
            of_keras, [problem for problem, affected in reported.items() if name in affected]
        ):
            problems.setdefault(problem, []).append(name)
    return _with_names(problems, names)


def _with_names(problems: Mapping[Problem, Sequence[str]], names: Sequence[str]) -> tuple[Problem, ...]:
    """Return the problems, each with the names of the jobs that have it."""

    def described(affected: Sequence[str]) -> str:
        if len(affected) == len(names):
            return "all jobs"
        return (
            ", ".join(affected)
            if len(affected) <= _MOST_NAMES
            else f"{', '.join(affected[:_MOST_NAMES])} and {len(affected) - _MOST_NAMES} more"
        )

    return tuple(
        replace(problem, message=f"{problem.message}  [{described(affected)}]")
        for problem, affected in sorted(problems.items())
    )


def resolve_data_of_all(
    jobs: Sequence[tuple[Request, TrainConfig]],
) -> tuple[Sequence[tuple[Request, TrainConfig]], str | None]:
    """Find each data set of a sweep once; if one is not found, use its fallback for all jobs.

    Returns the jobs, and the name of the data that the fallback replaces; None without a fallback.
    Raises `RequestError` if a fallback would be compared with other data.
    """
    wanted_by_data: dict[DataConfig, str | None] = {}
    for job, config in jobs:
        if config.data.as_found not in wanted_by_data:
            wanted_by_data[config.data.as_found] = resolve_data(job, config)[3]
    missing = {wanted for wanted in wanted_by_data.values() if wanted is not None}
    if not missing:
        return jobs, None
    fallbacks = {data.fallback for data in wanted_by_data}
    if len(missing) > 1 or len(fallbacks) > 1 or None in wanted_by_data.values():
        raise RequestError(
            f"{', '.join(sorted(missing))}: not found; results on fallback data are not comparable with those on "
            "other data, so sweep over one data set only"
        )
    fallback = fallbacks.pop()
    assert fallback is not None
    return [recheck_with_data(job, fallback) for job, _ in jobs], missing.pop()
