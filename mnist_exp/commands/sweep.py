"""`mnist-exp -m`: a run for every combination of comma-separated values.

All jobs are checked before the first one starts, and their data is settled once, for all of them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_exp.commands.settle import check_with_keras, set_up, settle_data, settle_init, start_from_run
from mnist_exp.commands.train import Job, run_training, shown
from mnist_exp.config.check import compose_checked, news
from mnist_exp.config.compose import Composition
from mnist_exp.config.grid import Grid, expand
from mnist_exp.config.places import COMMAND_LINE
from mnist_exp.config.request import Request, key_of
from mnist_exp.config.schema import DataConfig, TrainConfig
from mnist_exp.errors import Killed, MnistExpError, Problem, RequestError, WorkError
from mnist_exp.runs.directory import SWEEPS, make_directory, stamped
from mnist_exp.runs.log import say, to_console, warn
from mnist_exp.runs.stopwatch import Stopwatch
from mnist_exp.sweeps.leaderboard import Outcome, best_accuracy, leaderboard
from mnist_exp.sweeps.names import job_names

if TYPE_CHECKING:
    from mnist_exp.data.dataset import Source

# What belongs to the whole sweep, or to the process that all its jobs may share.
NOT_SWEPT = ("from", "outputs", "tracking", "sweep", "device", "hydra")
_NAMES = 3  # of jobs that a message lists


@dataclass(frozen=True)
class Plan:
    """What a job of a sweep needs to know, also in another process."""

    directory: Path
    names: tuple[str, ...]
    requests: tuple[Request, ...]
    stands_in_for: str | None


def sweep(request: Request, started: float) -> None:
    """Check all jobs, run them, and print their table. Raises `WorkError` if any failed."""
    from mnist_exp.sweeps.launch import launch
    from mnist_exp.tracking.record import SweepRecord

    request = start_from_run(request)
    grid = expand(request)
    names = job_names(grid)
    checked = check_jobs(request, grid, names)
    names = tuple(checked)
    requests, stands_in_for = settle_data_of_all(*zip(*checked.values(), strict=True))
    config = compose_checked(requests[0], TrainConfig)[0]
    name = config.sweep.name or "-".join(key.rsplit(".", 1)[-1] for key in grid.swept) or "sweep"
    directory = make_directory(Path(config.outputs) / SWEEPS, stamped(name))
    fixed = [text for text in request.overrides if key_of(text) not in grid.swept]
    over = f"over {', '.join(grid.swept)}" if grid.swept else "(nothing is swept)"
    say(f"sweep   {shown(directory)}: {len(requests)} job{'s' * (len(requests) > 1)} {over}")
    with SweepRecord(directory, fixed, config.tracking) as record:
        plan = Plan(directory, names, requests, stands_in_for)
        try:
            outcomes = launch(request, directory, len(requests), partial(run_job, plan))
        except (KeyboardInterrupt, Killed):
            left = [name for name in names if not (directory / name).exists()]
            say(f"{shown(directory)}: interrupted; jobs that were not begun: {', '.join(left) or 'none'}")
            raise
        record.leaderboard(*leaderboard(outcomes, grid), best_accuracy(outcomes))
    failed = [outcome for outcome in outcomes if outcome.status != "finished"]
    seconds = time.perf_counter() - started
    say(f"{shown(directory)}: {len(outcomes) - len(failed)} of {len(outcomes)} jobs done in {seconds:.1f} s")
    if stands_in_for:
        warn(f"these figures are for {config.data.name}, which stood in for {stands_in_for}")
    if failed:
        lines = [f"  {outcome.name}: {outcome.reason} ({outcome.log})" for outcome in failed]
        raise WorkError(f"{len(failed)} of {len(outcomes)} jobs failed\n" + "\n".join(lines))


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
    of_the_grid, subject = bool(problems), f"this sweep of {len(names)} jobs"
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
    """What Keras finds wrong, by the names of the jobs that it is in."""
    found: dict[str, Sequence[Problem]] = {}
    for name, (config, composition) in composed.items():
        try:
            check_with_keras(config, composition)
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
    jobs: Sequence[Request], configs: Sequence[TrainConfig]
) -> tuple[tuple[Request, ...], str | None]:
    """Find each data set of a sweep once; where a fallback stands in, it does for all jobs.

    Raises `RequestError` where it would be compared with other data.
    """
    wanted_by_data: dict[DataConfig, str | None] = {}
    for job, config in zip(jobs, configs, strict=True):
        if config.data.as_found not in wanted_by_data:
            wanted_by_data[config.data.as_found] = settle_data(job, config)[3]
    missing = {wanted for wanted in wanted_by_data.values() if wanted is not None}
    if not missing:
        return tuple(jobs), None
    fallbacks = {data.fallback for data in wanted_by_data}
    if len(missing) > 1 or len(fallbacks) > 1 or None in wanted_by_data.values():
        raise RequestError(
            f"{', '.join(sorted(missing))}: not found, and what stands in for it is never compared with "
            "other data; leave one of them out of the sweep"
        )
    fallback = fallbacks.pop()
    assert fallback is not None
    substituted = []
    for job in jobs:
        request = job.with_option("data", fallback)
        check_with_keras(*compose_checked(request, TrainConfig))
        substituted.append(request)
    return tuple(substituted), missing.pop()


@lru_cache(maxsize=1)
def load_source(data: DataConfig) -> Source:
    """Read a data set once for all jobs that run in this process."""
    from mnist_exp.data.load import find

    return find(data, say)


def run_job(plan: Plan, launched: Any) -> Outcome:
    """Run one job of a sweep, in whatever process the launcher chose. Never raises for a failure."""
    from mnist_exp.sweeps.launch import job_number

    to_console()
    number = job_number()
    name, request = plan.names[number], plan.requests[number]
    stopwatch = Stopwatch(time.perf_counter())
    say(f"\n[{number + 1}/{len(plan.names)}] {name}")
    result: dict[str, Any] = {}
    reason = ""
    try:
        config = compose_checked(request, TrainConfig)[0]
        computer = set_up(config)
        with stopwatch.phase("data"):
            source = load_source(config.data.as_found)
        job = Job(
            config, request.overrides, computer, source, plan.directory, name, plan.stands_in_for, plan.directory
        )
        result = run_training(job, stopwatch)
    except MnistExpError as error:
        reason = str(error)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    if reason:
        say(f"{name} failed: {reason}")
    return Outcome(
        name=name,
        overrides=request.overrides,
        status=result.get("status", "failed"),
        reason=reason,
        log=str(shown(plan.directory / name / "run.log")),
        epochs=result.get("epochs"),
        val=(result.get("best") or {}).get("val/accuracy"),
        test=(result.get("test") or {}).get("accuracy"),
        seconds=stopwatch.report()["total"],
    )
