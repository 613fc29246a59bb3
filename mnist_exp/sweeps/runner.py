"""Run the jobs of a sweep, retrying those whose worker died."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.errors import Killed, RequestError
from mnist_exp.report.sweep_progress import show_progress
from mnist_exp.runs import signals
from mnist_exp.runs.directory import MODEL, RunDirectory, summarize_runs
from mnist_exp.runs.log import say, warn
from mnist_exp.sweeps.grid import Grid
from mnist_exp.sweeps.launchers import ending_workers, jobs_at_once, launch
from mnist_exp.sweeps.leaderboard import Leaderboard, Outcome
from mnist_exp.sweeps.worker import (
    Plan,
    PlannedJob,
    count_starts,
    find_jobs,
    outcome,
    remove_worker_files,
    run_job,
)
from mnist_exp.text import display_path
from mnist_exp.tracking.recorder import add_model
from mnist_exp.tracking.sweep_record import SweepRecord, has_leaderboard
from mnist_exp.training.device import available_cores

_MODEL_FILES = (MODEL, "model.h5", "model.weights.h5")
_DEATHS = 2  # number of worker deaths after which a job is not retried
_POLL = 1.0  # seconds between checks of jobs that a launcher left running


def complete_sweep(
    plan: Plan, request: Request, grid: Grid, fixed: Sequence[str], config: TrainConfig
) -> list[Outcome]:
    """Run the unfinished jobs of a sweep, print the leaderboard of all jobs, and record it."""
    ended = {job: result for job, result in results_of(plan).items() if result.status == "finished"}
    if len(ended) == len(plan.jobs):
        table = Leaderboard([ended[job] for job in plan.jobs], grid)
        if has_leaderboard(plan.directory, table.as_csv()):
            table.show()
            return list(ended.values())
    with signals.raised(), SweepRecord(plan.directory, fixed, config.tracking, grid.values) as record:
        try:
            ended |= run_jobs(plan, request, grid, [job for job in plan.jobs if job not in ended])
        except (KeyboardInterrupt, Killed):
            summarize_runs(list(plan.directory.iterdir()))  # marks jobs whose worker could not end by itself
            say(f"{display_path(plan.directory)}: interrupted; run the same command again to resume it")
            raise
        outcomes = [ended[job] for job in plan.jobs]
        if config.sweep.keep_models == "best":
            keep_best_model(outcomes, config)
        table = Leaderboard(outcomes, grid)
        table.show()
        for result in filter(lambda result: result.remark, outcomes):
            say(f"note    {result.name}: {result.remark}")
        from mnist_exp.sweeps.sweep_plots import draw_sweep  # Matplotlib

        pictures = draw_sweep(outcomes, grid.swept, config, plan.directory)
        record.leaderboard(table.as_csv(), table.as_markdown(), table.best, pictures)
        record.failed = any(result.status != "finished" for result in outcomes)
    return outcomes


def keep_best_model(outcomes: Sequence[Outcome], config: TrainConfig) -> None:
    """Remove the model files of all finished jobs except the best one, whose model is sent to the tracker."""
    finished = {job.path: job.val or 0.0 for job in outcomes if job.path and job.status == "finished"}
    best = max(finished, key=finished.__getitem__, default=None)
    for path in finished:
        for name in _MODEL_FILES if path != best else ():
            (path / name).unlink(missing_ok=True)
    if best is None:
        return
    try:
        with RunDirectory.open(best) as directory:
            add_model(directory, config.data.shape, config.data.classes, config.tracking.wait_seconds)
    except (RequestError, OSError, ValueError) as error:
        warn(f"the best model cannot be sent to the tracker: {error}")


def run_jobs(plan: Plan, request: Request, grid: Grid, missing: Sequence[PlannedJob]) -> dict[PlannedJob, Outcome]:
    """Run jobs until each has ended, and return their outcomes.

    A job whose worker died is retried once, after the others; so is a job that the launcher killed along with it.
    """
    ended: dict[PlannedJob, Outcome] = {}
    deaths: Counter[PlannedJob] = Counter()
    barren = 0  # consecutive rounds in which no job even started
    done = _distinct(plan.jobs) - _distinct(missing)
    with show_progress(plan.directory, _distinct(plan.jobs), done), ending_workers(grid.launcher):
        while left := [job for job in missing if job not in ended]:
            signals.check()
            # A job may have died because of another one: those that died run again at the end, one by one.
            now = [job for job in left if not deaths[job]] or left[:1]
            has_begun, trouble = _run_round(replace(plan, jobs=tuple(now)), request, grid, ended, deaths)
            barren = 0 if has_begun or not trouble else barren + 1
            if barren == _DEATHS:
                ended |= {job: outcome(job, None, trouble) for job in now}
    remove_worker_files(plan.directory)
    return ended


def _run_round(
    plan: Plan, request: Request, grid: Grid, ended: dict[PlannedJob, Outcome], deaths: Counter[PlannedJob]
) -> tuple[bool, str]:
    """Run jobs once, add the outcomes of those that ended to `ended`, and count the deaths of workers by job.

    Returns whether any job began, and the launcher's own error, if any.
    """
    before = {job: count_starts(plan.directory, job) for job in plan.jobs}
    trouble = run_once(plan, request, grid, ended)
    results = results_of(plan)
    begun = [job for job in plan.jobs if job not in ended and count_starts(plan.directory, job) > before[job]]
    died = [job for job in begun if job not in results or results[job].status in ("killed", "interrupted")]
    deaths.update(died)
    ended |= {job: results[job] for job in begun if job not in died}
    given_up = f"its worker died {_DEATHS} times ({trouble})"
    lost = {job: results.get(job) or outcome(job, None, given_up) for job in died if deaths[job] >= _DEATHS}
    ended |= {job: replace(found, reason=given_up) for job, found in lost.items()}
    return bool(begun) or any(job in ended for job in plan.jobs), trouble


def _distinct(jobs: Sequence[PlannedJob]) -> int:
    """Return the number of jobs with different fingerprints."""
    return len({job.fingerprint for job in jobs})


def run_once(plan: Plan, request: Request, grid: Grid, ended: dict[PlannedJob, Outcome]) -> str:
    """Run jobs with the launcher and add their outcomes to `ended`. Returns the launcher's own error, if any."""
    at_once = jobs_at_once(grid.launcher, grid.batch, available_cores())
    outcomes: list[Outcome] = []
    trouble = ""
    try:
        for batch in launch(request, plan.directory, len(plan.jobs), partial(run_job, plan), at_once):
            outcomes += batch
    except RequestError:
        raise
    except Exception as error:  # each launcher has its own error for a worker that died
        signals.check()
        trouble = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), 'no message')}"
        while any(run.status == "running" for run in summarize_runs(list(plan.directory.iterdir()))):
            time.sleep(_POLL)  # submitit and Ray leave the other jobs running
    ended |= dict(zip(plan.jobs, outcomes, strict=False))
    return trouble


def results_of(plan: Plan) -> dict[PlannedJob, Outcome]:
    """Return the outcomes of those jobs that have a run in the sweep's directory."""
    there = find_jobs(plan.directory)
    return {job: outcome(job, there[job.fingerprint], "") for job in plan.jobs if job.fingerprint in there}
