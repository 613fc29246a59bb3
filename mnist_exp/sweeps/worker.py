"""A job of a sweep: what it is, and how it is run, in whatever process a launcher chose.

The directories tell which jobs are done: a job is known again by its fingerprint, also after a crash, and whoever
begins one looks first what is there of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import DataConfig, TrainConfig
from mnist_exp.engine.preparation import set_up
from mnist_exp.engine.resumption import check_resumption
from mnist_exp.engine.run import Job, TrainingRun, fingerprint_of
from mnist_exp.errors import MnistExpError, RequestError
from mnist_exp.model import backend
from mnist_exp.runs.abandoned import settle
from mnist_exp.runs.directory import RunDirectory, RunSummary, summaries
from mnist_exp.runs.fingerprint import as_values
from mnist_exp.runs.locks import lock
from mnist_exp.runs.log import LOG, quiet, say
from mnist_exp.runs.lookup import is_finished
from mnist_exp.runs.stopwatch import Stopwatch
from mnist_exp.sweeps.leaderboard import Outcome
from mnist_exp.text import display_path

if TYPE_CHECKING:
    from mnist_exp.data.dataset import Source
    from mnist_exp.training.device import Device

_POLL = 0.5  # seconds between looks whether another process is done with a job
_INHERITED = ("MNIST_EXP_", "MLFLOW_", "KERAS_HOME")


@dataclass(frozen=True)
class PlannedJob:
    """A job that passed all checks."""

    name: str
    request: Request
    config: TrainConfig = field(compare=False)
    fingerprint: str
    """As far as the process that plans can tell: it may be another on a machine with another device."""


@dataclass(frozen=True)
class Plan:
    """What the processes that run a sweep's jobs need to know."""

    directory: Path
    jobs: tuple[PlannedJob, ...]
    stands_in_for: str | None
    folder: Path
    """The working directory, which relative paths start from."""
    environment: Mapping[str, str]
    """What of the environment says where things are."""

    @classmethod
    def of(cls, directory: Path, jobs: tuple[PlannedJob, ...], stands_in_for: str | None) -> Plan:
        """For jobs that are to be run as if in this process."""
        inherited = {key: value for key, value in os.environ.items() if key.startswith(_INHERITED)}
        return cls(directory, jobs, stands_in_for, Path.cwd(), inherited)


def run_job(plan: Plan, launched: Any) -> Outcome:
    """Run one job of a sweep, go on with it, or find it done. Never raises for a failure."""
    from mnist_exp.sweeps.launchers import job_number

    planned = plan.jobs[job_number()]
    stopwatch, reason, remark = Stopwatch(time.perf_counter()), "", ""
    fingerprint = planned.fingerprint
    os.environ.update(plan.environment)
    backend.process_is_ours = True
    with quiet():
        try:
            os.chdir(plan.folder)
            with stopwatch.phase("start"):
                computer = set_up(planned.config)
            with stopwatch.phase("data"):
                fingerprint = identity(planned.config, computer)
            with alone(plan.directory, fingerprint):
                found = find_jobs(plan.directory).get(fingerprint)
                if found is None or not is_finished(found):
                    remark = train_job(plan, planned, computer, found, stopwatch)
        except MnistExpError as error:
            reason = str(error)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
    return replace(outcome(planned, find_jobs(plan.directory).get(fingerprint), reason), remark=remark)


def train_job(
    plan: Plan,
    planned: PlannedJob,
    computer: Device,
    found: RunSummary | None,
    stopwatch: Stopwatch,
) -> str:
    """Go on with what is there of a job; where that cannot be, or nothing is, begin it.

    Returns why what is there was of no use.
    """
    remark = ""
    if found is not None:
        settle(found.path)
        with RunDirectory.open(found.path) as directory:
            try:
                resumed = check_resumption(replace(planned.request, overrides=()), directory, stopwatch)
            except RequestError as error:
                remark = f"begun anew: {error}"
            else:
                TrainingRun(resumed, stopwatch).execute()
                return ""
    job = Job(
        planned.config, planned.request.overrides, computer, load_source(planned.config.data.as_found),
        plan.directory, planned.name, plan.stands_in_for, plan.directory,
    )  # fmt: skip
    TrainingRun(job, stopwatch).execute()
    return remark


@contextmanager
def alone(directory: Path, fingerprint: str) -> Iterator[None]:
    """Keep other processes from a job; one that a sweep which was killed left running is waited for."""
    name = f".{fingerprint[:16]}.lock"
    while True:
        try:
            descriptor = lock(directory, name)
            break
        except BlockingIOError:
            time.sleep(_POLL)
    try:
        yield
    finally:
        with suppress(OSError):
            (directory / name).unlink()
        os.close(descriptor)


def find_jobs(directory: Path) -> dict[str, RunSummary]:
    """What is in a sweep's directory, by its fingerprint: of a job, a finished run, else the newest.

    Not what was resumed inexactly: that is no such job.
    """
    exact = [
        run for run in summaries(directory.iterdir()) if run.result.fingerprint is not None and run.result.exact
    ]
    exact.sort(key=lambda run: (is_finished(run), run.result.started))
    return {str(run.result.fingerprint): run for run in exact}


def outcome(planned: PlannedJob, run: RunSummary | None, reason: str) -> Outcome:
    """How a job ended, by what is there of it, and by what was raised."""
    result = run.result if run is not None else None
    log = run.path / LOG if run is not None else None
    return Outcome(
        name=planned.name,
        overrides=planned.request.overrides,
        status="failed" if reason or run is None else run.status,
        reason=reason or (result.reason if result else ""),
        log=str(display_path(log)) if log is not None and log.is_file() else "",
        epochs=result.epochs if result else None,
        val=result.val_accuracy if result else None,
        test=result.test_accuracy if result else None,
        seconds=result.training_seconds if result else None,
    )


def identity(config: TrainConfig, computer: Device) -> str:
    """The fingerprint of the run that a config describes, on this device."""
    return fingerprint_of(as_values(config), data_sha256(config.data), computer, donor_sha256(config.init_from))


@lru_cache(maxsize=1)
def load_source(data: DataConfig) -> Source:
    """Read a data set once for all jobs that run in this process."""
    from mnist_exp.data.load import find

    return find(data, say)


@lru_cache(maxsize=16)
def data_sha256(data: DataConfig) -> str:
    """The digest of the data of the jobs that have the same."""
    from mnist_exp.data.load import prepare

    return prepare(load_source(data.as_found), data).sha256


@lru_cache(maxsize=16)
def donor_sha256(run: str | None) -> str | None:
    """Which weights a run starts from, if not from random ones."""
    from mnist_exp.model.saving import weights_sha256
    from mnist_exp.model.warm_start import load_donor

    return None if run is None else weights_sha256(load_donor(Path(run)))
