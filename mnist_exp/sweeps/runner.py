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
from mnist_exp.runs import signals
from mnist_exp.runs.directory import look_at
from mnist_exp.runs.log import say
from mnist_exp.sweeps.grid import Grid
from mnist_exp.sweeps.leaderboard import Leaderboard, Outcome
from mnist_exp.sweeps.worker import Plan, PlannedJob, find_jobs, outcome, run_job
from mnist_exp.text import display_path

_DEATHS = 2  # of a job's workers, until it is given up


_POLL = 1.0  # seconds between looks at jobs that a launcher left behind


def complete(plan: Plan, request: Request, grid: Grid, fixed: Sequence[str], config: TrainConfig) -> list[Outcome]:
    """Run the jobs that are missing, show the table of all, and leave it in the sweep's record."""
    from mnist_exp.tracking.recorder import SweepRecord, has_leaderboard

    ended = {job: result for job, result in results_of(plan).items() if result.status == "finished"}
    if len(ended) == len(plan.jobs):
        table = Leaderboard([ended[job] for job in plan.jobs], grid)
        if has_leaderboard(plan.directory, table.as_csv()):
            table.show()
            return list(ended.values())
    with signals.raised(), SweepRecord(plan.directory, fixed, config.tracking) as record:
        try:
            ended |= run_jobs(plan, request, grid, [job for job in plan.jobs if job not in ended])
        except (KeyboardInterrupt, Killed):
            say(f"{display_path(plan.directory)}: interrupted; the same command again goes on with it")
            raise
        outcomes = [ended[job] for job in plan.jobs]
        table = Leaderboard(outcomes, grid)
        table.show()
        for result in outcomes:
            if result.remark:
                say(f"note    {result.name}: {result.remark}")
        record.leaderboard(table.as_csv(), table.as_markdown(), table.best)
    return outcomes


def run_jobs(plan: Plan, request: Request, grid: Grid, missing: Sequence[PlannedJob]) -> dict[PlannedJob, Outcome]:
    """Run jobs until each has ended, and tell how.

    A job whose worker died goes on once more, behind the others; so do those that a launcher took down with it.
    """
    from mnist_exp.report.sweep_progress import watched

    ended: dict[PlannedJob, Outcome] = {}
    deaths: Counter[PlannedJob] = Counter()
    barren = 0  # rounds in which nothing was even begun
    jobs, to_do = (len({job.fingerprint for job in some}) for some in (plan.jobs, missing))
    with watched(plan.directory, jobs, jobs - to_do):
        while left := [job for job in missing if job not in ended]:
            # What died may have been taken down by another job: in the end each is alone.
            now = [job for job in left if not deaths[job]] or left[:1]
            before = _starts(plan)
            trouble = run_once(replace(plan, jobs=tuple(now)), request, grid, ended)
            after, results = _starts(plan), results_of(plan)
            begun = [job for job in now if job not in ended and after[job] > before[job]]
            for job in begun:
                result = results[job]
                if result.status in ("killed", "interrupted"):
                    deaths[job] += 1
                    if deaths[job] < _DEATHS:
                        continue
                    result = replace(result, reason=f"its worker died, {_DEATHS} times ({trouble})")
                ended[job] = result
            barren = barren + 1 if trouble and not begun and not any(job in ended for job in now) else 0
            if barren == _DEATHS:
                ended |= {job: outcome(job, None, trouble) for job in now}
    return ended


def _starts(plan: Plan) -> dict[PlannedJob, int]:
    """How often each job was begun or gone on with."""
    there = find_jobs(plan.directory)
    resumed = {fingerprint: run.result.resumed for fingerprint, run in there.items()}
    return {job: 1 + len(resumed[job.fingerprint]) if job.fingerprint in there else 0 for job in plan.jobs}


def run_once(plan: Plan, request: Request, grid: Grid, ended: dict[PlannedJob, Outcome]) -> str:
    """Give jobs to the launcher, and add what it tells of them. Returns what is wrong with the launcher itself."""
    from mnist_exp.sweeps.launchers import jobs_at_once, launch
    from mnist_exp.training.device import available_cores

    at_once = jobs_at_once(grid.launcher, grid.batch, available_cores())
    told: list[Outcome] = []
    trouble = ""
    try:
        for batch in launch(request, plan.directory, len(plan.jobs), partial(run_job, plan), at_once):
            told += batch
    except RequestError:
        raise
    except Exception as error:  # each launcher has its own for a worker that died
        trouble = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), 'no message')}"
        while any(run.status == "running" for run in look_at(list(plan.directory.iterdir()))):
            time.sleep(_POLL)  # submitit and Ray leave the other jobs running
    ended |= dict(zip(plan.jobs, told, strict=False))
    return trouble


def results_of(plan: Plan) -> dict[PlannedJob, Outcome]:
    """What the sweep's directory tells of the jobs that it has something of."""
    there = find_jobs(plan.directory)
    return {job: outcome(job, there[job.fingerprint], "") for job in plan.jobs if job.fingerprint in there}
