"""`mnist-exp -m`: a run for every combination of comma-separated values.

All jobs are checked before the first one starts, and their data is settled once, for all of them. What an earlier
start of the same sweep has done is not done again.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mnist_exp.commands.jobs import Plan, PlannedJob, find_jobs, identity, outcome, run_job
from mnist_exp.commands.settle import check_with_keras, set_up, settle_data, settle_init, start_from_run
from mnist_exp.commands.train import shown
from mnist_exp.config.check import compose_checked, news
from mnist_exp.config.compose import Composition
from mnist_exp.config.grid import Grid, expand
from mnist_exp.config.identity import as_values, with_effect
from mnist_exp.config.places import COMMAND_LINE
from mnist_exp.config.request import Request, key_of
from mnist_exp.config.schema import DataConfig, SweepConfig, TrainConfig
from mnist_exp.errors import Killed, Problem, RequestError, WorkError
from mnist_exp.runs import signals
from mnist_exp.runs.directory import SWEEPS, RunDirectory, look_at, make_directory, safe_name
from mnist_exp.runs.files import write_text
from mnist_exp.runs.find import is_finished
from mnist_exp.runs.log import say, warn
from mnist_exp.sweeps.leaderboard import Leaderboard, Outcome
from mnist_exp.sweeps.names import job_names, sweep_name

# What belongs to the whole sweep, or to the process that all its jobs may share.
NOT_SWEPT = ("from", "outputs", "tracking", "sweep", "device", "hydra")
SWEEP_FILE = "sweep.json"
_NAMES = 3  # of jobs that a message lists
_DEATHS = 2  # of a job's workers, until it is given up
_POLL = 1.0  # seconds between looks at jobs that a launcher left behind


def sweep(request: Request, started: float) -> None:
    """Check all jobs, run those that are missing, and print the table of all. Raises `WorkError` if any failed."""
    from mnist_exp.sweeps.launch import refuse_unusable

    request = start_from_run(request)
    grid = share_cores(request, expand(request))
    names = job_names(grid)
    checked = check_jobs(request, grid, names)
    settled, stands_in_for = settle_data_of_all(list(checked.values()))
    jobs = plan_jobs(tuple(checked), settled)
    config = settled[0][1]
    fixed = [text for text in request.overrides if key_of(text) not in grid.swept]
    sweeps, name = Path(config.outputs) / SWEEPS, safe_name(config.sweep.name or sweep_name(grid.swept, fixed))
    path = find_sweep(sweeps, name, config.sweep, grid.swept, jobs)
    there = {} if path is None else find_jobs(path)
    if not all(job.fingerprint in there and is_finished(there[job.fingerprint]) for job in jobs):
        refuse_unusable(request, grid.launcher)
    path = path or begin_sweep(sweeps, name, grid.swept, fixed)
    with RunDirectory.open(path) as directory:
        introduce(directory.path, grid, jobs)
        plan = Plan.of(directory.path, jobs, stands_in_for)
        outcomes = complete(plan, request, grid, fixed, config)
    failed = [outcome for outcome in outcomes if outcome.status != "finished"]
    seconds = time.perf_counter() - started
    say(f"{shown(path)}: {len(outcomes) - len(failed)} of {len(outcomes)} jobs done in {seconds:.1f} s")
    if stands_in_for:
        warn(f"these figures are for {config.data.name}, which stood in for {stands_in_for}")
    refuse_failures(failed, len(outcomes))


def share_cores(request: Request, grid: Grid) -> Grid:
    """Where a launcher runs several jobs at once: for each as many threads as it has cores, unless given."""
    from mnist_exp.sweeps.launch import threads_per_job
    from mnist_exp.training.device import available_cores

    threads = threads_per_job(grid.launcher, available_cores()) if not grid.problems else None
    given = any(key_of(text) in ("device", "device.threads") for text in request.overrides)
    saved = (request.base or {}).get("device", {}).get("threads", "auto")
    if threads is None or given or saved != "auto":
        return grid
    return replace(grid, jobs=tuple((*job, f"device.threads={threads}") for job in grid.jobs))


def plan_jobs(names: Sequence[str], settled: Sequence[tuple[Request, TrainConfig]]) -> tuple[PlannedJob, ...]:
    """The jobs, with what each is known by. Raises `RequestError`."""
    computer = set_up(settled[0][1])
    return tuple(
        PlannedJob(name, request, identity(config, computer))
        for name, (request, config) in zip(names, settled, strict=True)
    )


def find_sweep(
    sweeps: Path, name: str, config: SweepConfig, swept: Sequence[str], jobs: Sequence[PlannedJob]
) -> Path | None:
    """The directory of the sweep that goes on; None where there is none, or it is to start over.

    It is known by its name, else by a job in common with one over the same keys.
    """
    if config.rerun:
        return None
    known = {path: _read_sweep(path) for path in sweeps.glob("*") if (path / SWEEP_FILE).is_file()}
    called = [path for path, told in known.items() if told.get("name") == name]
    if not called and config.name is None:
        wanted = {job.fingerprint for job in jobs}
        called = [
            path
            for path, told in known.items()
            if told.get("swept") == sorted(swept) and wanted & find_jobs(path).keys()
        ]
    return max(called, key=lambda path: known[path].get("started", 0), default=None)


def begin_sweep(sweeps: Path, name: str, swept: Sequence[str], fixed: Sequence[str]) -> Path:
    """A new directory for a sweep. Raises `RequestError` if it cannot be made."""
    path = make_directory(sweeps, name)
    content = {"name": name, "started": time.time(), "swept": sorted(swept), "fixed": list(fixed)}
    write_text(path / SWEEP_FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path


def _read_sweep(path: Path) -> dict[str, Any]:
    try:
        content = json.loads((path / SWEEP_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def introduce(directory: Path, grid: Grid, jobs: Sequence[PlannedJob]) -> None:
    """Say what the sweep is and how far it is."""
    over = f"over {', '.join(grid.swept)}" if grid.swept else "(nothing is swept)"
    say(f"sweep   {shown(directory)}: {_jobs(len(jobs))} {over}")
    if twins := len(jobs) - len({job.fingerprint for job in jobs}):
        say(f"        {_jobs(twins)} the same as another, but for what changes no weights: not trained again")
    there = find_jobs(directory)
    found = [there[job.fingerprint] for job in jobs if job.fingerprint in there]
    done = sum(map(is_finished, found))
    if found:
        begun = len(found) - done
        say(f"        {done} done already, {begun} to go on with, {len(jobs) - done - begun} to begin")
    if others := len(there) - len({job.fingerprint for job in jobs} & set(there)):
        say(f"        {_jobs(others)} there of other values, settings or code: left as they are")


def complete(plan: Plan, request: Request, grid: Grid, fixed: Sequence[str], config: TrainConfig) -> list[Outcome]:
    """Run the jobs that are missing, show the table of all, and leave it in the sweep's record."""
    from mnist_exp.tracking.record import SweepRecord, has_leaderboard

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
            say(f"{shown(plan.directory)}: interrupted; the same command again goes on with it")
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
    from mnist_exp.report.watch import watched

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
    resumed = {fingerprint: run.result.get("resumed", []) for fingerprint, run in there.items()}
    return {job: 1 + len(resumed[job.fingerprint]) if job.fingerprint in there else 0 for job in plan.jobs}


def run_once(plan: Plan, request: Request, grid: Grid, ended: dict[PlannedJob, Outcome]) -> str:
    """Give jobs to the launcher, and add what it tells of them. Returns what is wrong with the launcher itself."""
    from mnist_exp.sweeps.launch import jobs_at_once, launch
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


def refuse_failures(failed: Sequence[Outcome], jobs: int) -> None:
    """Raises `WorkError` with every failure, its reason and its log, if there is any."""
    if failed:
        logs = [f" ({outcome.log})" if outcome.log else "" for outcome in failed]
        lines = [f"  {outcome.name}: {outcome.reason}{log}" for outcome, log in zip(failed, logs, strict=True)]
        raise WorkError(f"{len(failed)} of {jobs} jobs failed\n" + "\n".join(lines))


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
