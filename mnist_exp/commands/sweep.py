"""`mnist-exp -m`: a run for every combination of comma-separated values.

All jobs are checked before the first one starts, and their data is settled once, for all of them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_exp.commands.train import Job, check_with_keras, run_training, set_up, settle_data, shown
from mnist_exp.config.check import compose_checked, from_launched
from mnist_exp.config.grid import Grid, expand
from mnist_exp.config.request import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.data.load import find
from mnist_exp.errors import MnistExpError, Problem, RequestError, WorkError
from mnist_exp.runs.directory import SWEEPS, make_directory, safe_name, stamped
from mnist_exp.runs.log import say, to_console
from mnist_exp.runs.stopwatch import Stopwatch

if TYPE_CHECKING:
    from omegaconf import DictConfig

Outcome = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What every job of a sweep needs to know of it, also in another process."""

    directory: Path
    names: tuple[str, ...]
    stands_in_for: tuple[str | None, ...]


def sweep(request: Request, started: float) -> None:
    """Check all jobs, run them, and print their table. Raises `WorkError` if any failed."""
    from mnist_exp.sweeps.launch import launch
    from mnist_exp.tracking.record import SweepRecord

    grid = expand(request)
    jobs, stands_in_for = check_jobs(request, grid)
    config = compose_checked(Request(request.verb, jobs[0], request.config_dir), TrainConfig)[0]
    name = config.sweep.name or "-".join(key.rsplit(".", 1)[-1] for key in grid.swept) or "sweep"
    outputs = Path(config.outputs)
    directory = make_directory(outputs / SWEEPS, stamped(name))
    fixed = [text for text in request.overrides if text.split("=", 1)[0] not in grid.swept]
    plan = Plan(directory, tuple(job_name(grid, job) for job in jobs), tuple(stands_in_for))
    say(f"sweep   {shown(directory)}: {len(jobs)} jobs over {', '.join(grid.swept)}")
    with SweepRecord(directory, fixed, config.tracking, outputs) as record:
        outcomes = launch(request, fixed, jobs, partial(run_job, plan))
        leaderboard(outcomes, jobs, grid.swept, record)
    failed = [outcome for outcome in outcomes if outcome["status"] != "finished"]
    seconds = time.perf_counter() - started
    say(f"{shown(directory)}: {len(jobs) - len(failed)} of {len(jobs)} jobs done in {seconds:.1f} s")
    if failed:
        lines = [f"  {outcome['name']}: {outcome['reason']} ({outcome['log']})" for outcome in failed]
        raise WorkError(f"{len(failed)} of {len(jobs)} jobs failed\n" + "\n".join(lines))


def check_jobs(request: Request, grid: Grid) -> tuple[list[tuple[str, ...]], list[str | None]]:
    """The overrides of every job, with what stands in for data that nobody has.

    Raises `RequestError` with the problems of all jobs; one that several jobs share is told once.
    """
    problems: dict[Problem, list[str]] = {}
    jobs: list[tuple[str, ...]] = []
    stands_in_for: list[str | None] = []
    settled: dict[tuple[str, str | None], tuple[Request, str | None]] = {}
    for overrides in grid.jobs:
        job = Request(request.verb, overrides, request.config_dir)
        try:
            config, composition = compose_checked(job, TrainConfig)
            if not jobs:
                set_up(config)
            check_with_keras(config, composition)
        except RequestError as error:
            if not error.problems:
                raise
            for problem in error.problems:
                problems.setdefault(problem, []).append(job_name(grid, overrides))
            continue
        key = (config.data.name, config.data.dir)
        if key not in settled and not problems:
            settled_request, _, _, wanted = settle_data(job, config)
            option = settled_request.overrides[-1] if wanted else None
            settled[key] = (Request(request.verb, (option,) if option else ()), wanted)
        substitute, wanted = settled.get(key, (Request(request.verb), None))
        if substitute.overrides:
            overrides = job.with_option("data", substitute.overrides[0].split("=", 1)[1]).overrides
        jobs.append(overrides)
        stands_in_for.append(wanted)
    if problems:
        count = len(grid.jobs)
        raise RequestError(
            [
                Problem(
                    problem.place,
                    f"{problem.message}  [{'all jobs' if len(names) == count else ', '.join(names)}]",
                )
                for problem, names in sorted(problems.items())
            ],
            f"this sweep of {count} jobs",
        )
    return jobs, stands_in_for


def job_name(grid: Grid, overrides: Sequence[str]) -> str:
    """`model-linear_seed-0`: what is swept, and this job's values."""
    values = dict(text.split("=", 1) for text in overrides if "=" in text)
    name = "_".join(safe_name(f"{key.rsplit('.', 1)[-1]}-{values[key]}") for key in grid.swept)
    return name[:120] or "job"


def run_job(plan: Plan, launched: DictConfig) -> Outcome:
    """Run one job of a sweep, in whatever process the launcher chose. Never raises for a failure."""
    from mnist_exp.sweeps.launch import job_number, job_overrides

    to_console()
    number = job_number()
    name = plan.names[number]
    stopwatch = Stopwatch(time.perf_counter())
    say(f"\n[{number + 1}/{len(plan.names)}] {name}")
    try:
        config = from_launched(launched)
        computer = set_up(config)
        with stopwatch.phase("data"):
            source = find(config.data, say)
        job = Job(
            config,
            job_overrides(),
            computer,
            source,
            plan.directory,
            name,
            plan.stands_in_for[number],
            plan.directory,
        )
        result: Mapping[str, Any] = run_training(job, stopwatch)
        reason = ""
    except MnistExpError as error:
        result, reason = {}, str(error)
    except Exception as error:
        result, reason = {}, f"{type(error).__name__}: {error}"
    if reason:
        say(f"{name} failed: {reason}")
    log = plan.directory / name / "run.log"
    return {
        "name": name, "status": result.get("status", "failed"), "reason": reason, "log": str(shown(log)),
        "epochs": result.get("epochs"), "val": (result.get("best") or {}).get("val/accuracy"),
        "test": (result.get("test") or {}).get("accuracy"), "seconds": stopwatch.report()["total"],
    }  # fmt: skip


def leaderboard(
    outcomes: Sequence[Outcome], jobs: Sequence[Sequence[str]], swept: Sequence[str], record: Any
) -> None:
    """Print the table of all jobs, the best by validation accuracy marked, and leave it in the record."""
    from mnist_exp.report.tables import percent, print_table

    best = max((o["val"] for o in outcomes if o["val"] is not None), default=None)
    rows = []
    for outcome, job in zip(outcomes, jobs, strict=True):
        values = dict(text.split("=", 1) for text in job if "=" in text)
        rows.append(
            [
                *(values[key] for key in swept),
                outcome["status"],
                "–" if outcome["epochs"] is None else str(outcome["epochs"]),
                percent(outcome["val"]) + (" *" if best is not None and outcome["val"] == best else ""),
                percent(outcome["test"]),
                f"{outcome['seconds']:.1f}",
            ]
        )
    header = [*swept, "status", "epochs", "val", "test", "seconds"]
    print_table(header, rows, right=("epochs", "val", "test", "seconds"))
    say("* best validation accuracy")
    record.leaderboard(header, rows, best)
