"""Check all jobs of a sweep before any of them starts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mnist_exp.config.compose import Composition
from mnist_exp.config.overrides import Request
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.config.schema import DataConfig, TrainConfig
from mnist_exp.config.validation import compose_checked, news
from mnist_exp.engine.preparation import check_with_keras, set_up, settle_data, settle_init
from mnist_exp.errors import Problem, RequestError
from mnist_exp.runs.fingerprint import as_values, with_effect
from mnist_exp.runs.log import warn
from mnist_exp.sweeps.grid import Grid

# What belongs to the whole sweep, or to the process that all its jobs may share.
NOT_SWEPT = ("from", "outputs", "tracking", "sweep", "device", "hydra")


_NAMES = 3  # of jobs that a message lists


def _jobs(count: int) -> str:
    return f"{count} job{'s' * (count != 1)}"


def check_jobs(request: Request, grid: Grid, names: Sequence[str]) -> dict[str, tuple[Request, TrainConfig]]:
    """The request and the config of every job, by its name; with `sweep.skip_invalid`, of those that are right.

    Raises `RequestError` with the problems of all jobs; one that several jobs share is told once.
    """
    problems: dict[Problem, list[str]] = {problem: list(names) for problem in grid.problems}
    for key in grid.swept:
        if key.split(".")[0] in NOT_SWEPT:
            message = f"{key}: is one for all jobs of a sweep; give it a single value"
            problems[Problem(COMMAND_LINE, message, key)] = list(names)
    jobs: dict[str, tuple[Request, TrainConfig]] = {}
    composed: dict[str, tuple[TrainConfig, Composition]] = {}
    mended: dict[str, tuple[TrainConfig, Composition]] = {}
    of_the_grid, subject = bool(problems), f"this sweep of {_jobs(len(names))}"
    for name, overrides in zip(names, grid.jobs, strict=True):
        try:
            job = replace(request, overrides=overrides, multirun=False)
            config, composition = compose_checked(job, TrainConfig)
            jobs[name] = settle_init(job, config)
            composed[name] = jobs[name][1], composition
        except RequestError as error:
            if not error.problems:
                raise
            for problem in error.problems:
                problems.setdefault(problem, []).append(name)
            if error.mended is not None:
                mended[name] = error.mended
    skips = not of_the_grid and any(config.sweep.skip_invalid for config, _ in composed.values())
    if problems and not skips:
        refused = RequestError(_with_names(problems, names), subject)
        if not of_the_grid:
            refused.more = lambda: _with_keras(mended | composed, problems, names)
        raise refused
    if composed:
        set_up(next(iter(composed.values()))[0])
    for name, of_keras in _problems_with_keras(composed).items():
        del jobs[name]
        for problem in of_keras:
            problems.setdefault(problem, []).append(name)
    if problems:
        refused = RequestError(_with_names(problems, names), subject)
        if not skips or not jobs:
            raise refused
        warn(f"{len(names) - len(jobs)} of {len(names)} jobs are left out: {refused}")
    return jobs


def _problems_with_keras(composed: Mapping[str, tuple[TrainConfig, Composition]]) -> dict[str, Sequence[Problem]]:
    """What Keras finds wrong, by the names of the jobs that it is in; asked once for jobs that differ by seed."""
    found: dict[str, Sequence[Problem]] = {}
    right: set[str] = set()
    for name, (config, composition) in composed.items():
        asked = json.dumps({**with_effect(as_values(config)), "seed": None}, sort_keys=True)
        if asked in right:
            continue
        try:
            check_with_keras(config, composition)
            right.add(asked)
        except RequestError as error:
            found[name] = error.problems
    return found


def _with_keras(
    composed: Mapping[str, tuple[TrainConfig, Composition]],
    told: Mapping[Problem, Sequence[str]],
    names: Sequence[str],
) -> tuple[Problem, ...]:
    """What Keras finds wrong beside what was told."""
    problems: dict[Problem, list[str]] = {}
    if composed:
        set_up(next(iter(composed.values()))[0])
    for name, found in _problems_with_keras(composed).items():
        for problem in news(found, [problem for problem, of in told.items() if name in of]):
            problems.setdefault(problem, []).append(name)
    return _with_names(problems, names)


def _with_names(problems: Mapping[Problem, Sequence[str]], names: Sequence[str]) -> tuple[Problem, ...]:
    """The problems, each with the jobs that have it."""

    def told(of: Sequence[str]) -> str:
        if len(of) == len(names):
            return "all jobs"
        return ", ".join(of) if len(of) <= _NAMES else f"{', '.join(of[:_NAMES])} and {len(of) - _NAMES} more"

    return tuple(
        replace(problem, message=f"{problem.message}  [{told(of)}]") for problem, of in sorted(problems.items())
    )


def settle_data_of_all(
    jobs: Sequence[tuple[Request, TrainConfig]],
) -> tuple[Sequence[tuple[Request, TrainConfig]], str | None]:
    """Find each data set of a sweep once; where a fallback stands in, it does for all jobs, in what is returned.

    Raises `RequestError` where it would be compared with other data.
    """
    wanted_by_data: dict[DataConfig, str | None] = {}
    for job, config in jobs:
        if config.data.as_found not in wanted_by_data:
            wanted_by_data[config.data.as_found] = settle_data(job, config)[3]
    missing = {wanted for wanted in wanted_by_data.values() if wanted is not None}
    if not missing:
        return jobs, None
    fallbacks = {data.fallback for data in wanted_by_data}
    if len(missing) > 1 or len(fallbacks) > 1 or None in wanted_by_data.values():
        raise RequestError(
            f"{', '.join(sorted(missing))}: not found, and what stands in for it is never compared with "
            "other data; leave one of them out of the sweep"
        )
    fallback = fallbacks.pop()
    assert fallback is not None
    substituted = []
    for job, _ in jobs:
        request = job.with_option("data", fallback)
        config, composition = compose_checked(request, TrainConfig)
        check_with_keras(config, composition)
        substituted.append((request, config))
    return substituted, missing.pop()
