"""`mnist-exp -m`: run a job for every combination of comma-separated values.

All jobs are checked before the first one starts, and their data is located once. Repeating a sweep runs only the
missing jobs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mnist_exp.config.overrides import Request, key_of
from mnist_exp.config.schema import SweepConfig, TrainConfig
from mnist_exp.engine.preparation import load_base_run, set_up
from mnist_exp.engine.store_permission import permit_parent, permit_store
from mnist_exp.errors import WorkError
from mnist_exp.report.documents import SweepDocument
from mnist_exp.runs.directory import SWEEPS, RunDirectory, make_directory, safe_name
from mnist_exp.runs.log import say, warn
from mnist_exp.runs.lookup import is_finished
from mnist_exp.runs.sweep_file import SweepDescription, read_sweep, write_sweep
from mnist_exp.sweeps.grid import Grid, expand
from mnist_exp.sweeps.job_check import check_jobs, format_job_count, resolve_data_of_all
from mnist_exp.sweeps.job_names import job_names, sweep_name
from mnist_exp.sweeps.launchers import gpus_to_share, refuse_unusable, threads_per_job
from mnist_exp.sweeps.leaderboard import Outcome, sweep_document
from mnist_exp.sweeps.reports import add_report
from mnist_exp.sweeps.runner import complete_sweep
from mnist_exp.sweeps.worker import Plan, PlannedJob, compute_fingerprint, find_jobs
from mnist_exp.text import display_path, mask_credentials
from mnist_exp.training.device import available_cores


def sweep(request: Request, started: float) -> SweepDocument:
    """Check all jobs, run the missing ones, and print the table of all. Raises `WorkError` if any failed."""
    request = load_base_run(request)
    grid = share_cores(request, expand(request))
    names = job_names(grid)
    checked = check_jobs(request, grid, names)
    some_config = next(iter(checked.values()))[1]
    permit_store(request, some_config.tracking, Path(some_config.outputs))
    resolved, stands_in_for = resolve_data_of_all(list(checked.values()))
    jobs = plan_jobs(tuple(checked), resolved)
    config = resolved[0][1]
    fixed = [text for text in request.overrides if key_of(text) not in grid.swept]
    sweeps, name = Path(config.outputs) / SWEEPS, safe_name(config.sweep.name or sweep_name(grid.swept, fixed))
    path = find_sweep(sweeps, name, config.sweep, grid.swept, jobs)
    if not _are_finished(jobs, path):
        refuse_unusable(request, grid.launcher)
        if path is not None:
            permit_parent(request, config.tracking, Path(config.outputs), path)
    path = path or create_sweep(sweeps, name, grid.swept, fixed)
    with RunDirectory.open(path) as directory:
        print_sweep(directory.path, grid, jobs)
        gpus = gpus_to_share(grid.launcher, config.device.kind, available_cores())
        plan = Plan.of(directory.path, jobs, stands_in_for, gpus)
        outcomes = complete_sweep(plan, request, grid, fixed, config)
    add_report(path, config)
    failed = [outcome for outcome in outcomes if outcome.status != "finished"]
    seconds = time.perf_counter() - started
    say(f"{display_path(path)}: {len(outcomes) - len(failed)} of {len(outcomes)} jobs done in {seconds:.1f} s")
    if stands_in_for:
        warn(f"these results are for {config.data.name}, the fallback for {stands_in_for}")
    document = sweep_document(path, outcomes, grid.swept, stands_in_for)
    if failed:
        error = WorkError(describe_failures(failed, len(outcomes)))
        error.document = document
        raise error
    return document


def _are_finished(jobs: Sequence[PlannedJob], path: Path | None) -> bool:
    there = {} if path is None else find_jobs(path)
    return all(job.fingerprint in there and is_finished(there[job.fingerprint]) for job in jobs)


def share_cores(request: Request, grid: Grid) -> Grid:
    """Set each parallel job's number of threads to its share of the cores, unless the user set it."""
    threads = threads_per_job(grid.launcher, available_cores()) if not grid.problems else None
    given = any(key_of(text) in ("device", "device.threads") for text in request.overrides)
    saved = (request.base or {}).get("device", {}).get("threads", "auto")
    if threads is None or given or saved != "auto":
        return grid
    return replace(grid, jobs=tuple((*job, f"device.threads={threads}") for job in grid.jobs))


def plan_jobs(names: Sequence[str], resolved: Sequence[tuple[Request, TrainConfig]]) -> tuple[PlannedJob, ...]:
    """Return the jobs with their names and fingerprints. Raises `RequestError`."""
    computer = set_up(resolved[0][1])
    return tuple(
        PlannedJob(name, request, config, compute_fingerprint(config, computer))
        for name, (request, config) in zip(names, resolved, strict=True)
    )


def find_sweep(
    sweeps: Path, name: str, config: SweepConfig, swept: Sequence[str], jobs: Sequence[PlannedJob]
) -> Path | None:
    """Return the directory of an earlier attempt at the sweep; None if there is none, or if `sweep.rerun` is set.

    An earlier attempt has the same name or, if the user gave no name, the same swept keys and a job in common.
    """
    if config.rerun:
        return None
    known = {path: sweep for path in sweeps.glob("*") if (sweep := read_sweep(path)) is not None}
    called = [path for path, sweep in known.items() if sweep.name == name]
    if not called and config.name is None:
        wanted = {job.fingerprint for job in jobs}
        called = [
            path
            for path, sweep in known.items()
            if sweep.swept == sorted(swept) and wanted & find_jobs(path).keys()
        ]
    return max(called, key=lambda path: known[path].started, default=None)


def create_sweep(sweeps: Path, name: str, swept: Sequence[str], fixed: Sequence[str]) -> Path:
    """Create a directory for a sweep; return its path. Raises `RequestError` if that fails."""
    path = make_directory(sweeps, name)
    masked = list(map(mask_credentials, fixed))
    write_sweep(path, SweepDescription(name=name, started=time.time(), swept=sorted(swept), fixed=masked))
    return path


def print_sweep(directory: Path, grid: Grid, jobs: Sequence[PlannedJob]) -> None:
    """Print the sweep and its progress."""
    over = f"over {', '.join(grid.swept)}" if grid.swept else "(no swept keys)"
    say(f"sweep   {display_path(directory)}: {format_job_count(len(jobs))} {over}")
    if twins := len(jobs) - len({job.fingerprint for job in jobs}):
        jobs_are = "duplicate job" if twins == 1 else "duplicate jobs"
        say(f"        {twins} {jobs_are} skipped (the difference does not affect training)")
    there = find_jobs(directory)
    begun_runs = [there[job.fingerprint] for job in jobs if job.fingerprint in there]
    done = sum(map(is_finished, begun_runs))
    if begun_runs:
        begun = len(begun_runs) - done
        say(f"        {done} finished, {begun} to resume, {len(jobs) - done - begun} to start")
    if others := len(there) - len({job.fingerprint for job in jobs} & set(there)):
        say(f"        {format_job_count(others)} with other values, settings or code are left unchanged")


def describe_failures(failed: Sequence[Outcome], jobs: int) -> str:
    """Return a description of the jobs that failed, grouped by reason."""
    by_reason: dict[str, list[Outcome]] = {}
    for outcome in failed:
        by_reason.setdefault(outcome.reason, []).append(outcome)
    lines = []
    for reason, outcomes in by_reason.items():
        others = f" and {len(outcomes) - 1} more" if len(outcomes) > 1 else ""
        log = f" ({outcomes[0].log})" if outcomes[0].log else ""
        lines.append(f"  {outcomes[0].name}{others}: {reason}{log}")
    return f"{len(failed)} of {jobs} jobs failed\n" + "\n".join(lines)
