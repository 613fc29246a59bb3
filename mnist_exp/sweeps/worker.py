"""Run one job of a sweep, in the process that a launcher chose.

Jobs are identified by fingerprint, even after a crash: before starting a job, a worker looks in the sweep's
directory for a finished run of it, or for an earlier attempt to resume.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_exp import registrations
from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import DataConfig, TrainConfig
from mnist_exp.engine.job import Job, fingerprint_of, run_training
from mnist_exp.engine.plugins import VARIABLE, load_same
from mnist_exp.engine.preparation import set_up
from mnist_exp.engine.resumption import check_resumption
from mnist_exp.errors import MnistExpError, RequestError
from mnist_exp.model import backend
from mnist_exp.registrations import Plugin
from mnist_exp.runs import signals
from mnist_exp.runs.abandoned import mark_abandoned
from mnist_exp.runs.directory import MODEL, RunDirectory, RunSummary, summaries
from mnist_exp.runs.fingerprint import as_values
from mnist_exp.runs.locks import lock
from mnist_exp.runs.log import LOG, quiet, say
from mnist_exp.runs.lookup import is_finished
from mnist_exp.runs.stopwatch import Stopwatch
from mnist_exp.sweeps.launchers import job_number
from mnist_exp.sweeps.leaderboard import Outcome
from mnist_exp.text import display_path, mask_credentials

if TYPE_CHECKING:
    from mnist_exp.data.dataset import Source
    from mnist_exp.training.device import Device

_STARTS = ".starts"
_GPU_LOCK = ".gpu-{}.lock"
_POLL = 0.5  # seconds between checks for another process working on the same job
_INHERITED = ("MNIST_EXP_", "MLFLOW_", "KERAS_HOME")
_SECRET = ("_USERNAME", "_PASSWORD", "_TOKEN")


@dataclass(frozen=True)
class PlannedJob:
    """A job that passed all checks."""

    name: str
    request: Request
    config: TrainConfig = field(compare=False)
    fingerprint: str
    """The fingerprint computed by the planning process; on a machine with another device, it may differ."""


@dataclass(frozen=True)
class Plan:
    """Everything a process needs to run the jobs of a sweep."""

    directory: Path
    jobs: tuple[PlannedJob, ...]
    stands_in_for: str | None
    folder: Path
    """The working directory, to which relative paths refer."""
    environment: Mapping[str, str]
    """The environment variables that configure this package, MLflow and Keras' cache."""
    plugins: tuple[Plugin, ...] = ()
    """The plug-ins of the planning process."""
    gpus: tuple[str, ...] = ()
    """The GPUs among which the workers are distributed; empty: each worker uses what it finds."""

    @classmethod
    def of(
        cls, directory: Path, jobs: tuple[PlannedJob, ...], stands_in_for: str | None, gpus: tuple[str, ...]
    ) -> Plan:
        """Plan jobs with the working directory and the environment of this process."""
        # Submitit writes the plan to a file, so it must not contain credentials. Jobs need none, because only the
        # planning process delivers to the store.
        inherited = {
            key: value
            for key, value in os.environ.items()
            if key.startswith(_INHERITED)
            and key != VARIABLE
            and not key.endswith(_SECRET)
            and mask_credentials(value) == value
        }
        return cls(
            directory,
            tuple(map(_without_credentials, jobs)),
            stands_in_for,
            Path.cwd(),
            inherited,
            registrations.loaded(),
            gpus,
        )


def _without_credentials(job: PlannedJob) -> PlannedJob:
    """Return a job with the credentials of the store masked in its config and overrides."""
    tracking = job.config.tracking
    uri = None if tracking.uri is None else mask_credentials(tracking.uri)
    config = job.config.model_copy(update={"tracking": tracking.model_copy(update={"uri": uri})})
    overrides = tuple(map(mask_credentials, job.request.overrides))
    return replace(job, config=config, request=replace(job.request, overrides=overrides))


def note_start(directory: Path, job: PlannedJob) -> None:
    """Record that a worker starts a job. Must be called first, because the worker may be killed at any moment."""
    with _starts_file(directory, job).open("ab") as file:
        file.write(b"\n")


def count_starts(directory: Path, job: PlannedJob) -> int:
    """Return how many times workers have started a job."""
    try:
        return _starts_file(directory, job).stat().st_size
    except FileNotFoundError:
        return 0


def remove_worker_files(directory: Path) -> None:
    """Remove the files that `note_start` and `take_gpu` wrote."""
    for file in (*directory.glob(f".*{_STARTS}"), *directory.glob(_GPU_LOCK.format("*"))):
        file.unlink(missing_ok=True)


def _starts_file(directory: Path, job: PlannedJob) -> Path:
    return directory / f".{job.fingerprint[:16]}{_STARTS}"


@lru_cache(maxsize=1)  # once per process: TensorFlow keeps the GPU of its first job
def take_gpu(directory: Path, gpus: tuple[str, ...]) -> None:
    """Let this process see only one of the GPUs. Workers take them in turn, so that each GPU has its share.

    Must be called before TensorFlow first looks for GPUs. The place in the turn is held until the process ends.
    """
    for number in itertools.count():
        with suppress(BlockingIOError):
            lock(directory, _GPU_LOCK.format(number))
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
            return


def run_job(plan: Plan, launched: Any) -> Outcome:
    """Run or resume one job of a sweep, or find it finished. Errors are returned as part of the outcome."""
    signals.check()
    planned = plan.jobs[job_number()]
    note_start(plan.directory, planned)
    stopwatch, reason, remark = Stopwatch(time.perf_counter()), "", ""
    fingerprint = planned.fingerprint
    os.environ.update(plan.environment)
    if plan.gpus:
        take_gpu(plan.directory, plan.gpus)
    backend.process_is_ours = True
    with quiet(), signals.raised():  # submitit's workers ignore SIGTERM
        try:
            os.chdir(plan.folder)
            with stopwatch.phase("start"):
                load_same(plan.plugins)
                computer = set_up(planned.config)
            with stopwatch.phase("data"):
                fingerprint = compute_fingerprint(planned.config, computer)
            with lock_job(plan.directory, fingerprint):
                earlier = find_jobs(plan.directory).get(fingerprint)
                if earlier is None or not is_finished(earlier):
                    remark = train_job(plan, planned, computer, earlier, stopwatch)
        except MnistExpError as error:
            reason = str(error)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
    return replace(outcome(planned, find_jobs(plan.directory).get(fingerprint), reason), remark=remark)


def train_job(
    plan: Plan,
    planned: PlannedJob,
    computer: Device,
    earlier: RunSummary | None,
    stopwatch: Stopwatch,
) -> str:
    """Resume the earlier attempt at a job, if there is one and it can be resumed; else start the job anew.

    Returns a remark on why an earlier attempt could not be resumed; empty otherwise.
    """
    remark = ""
    if earlier is not None:
        mark_abandoned(earlier.path)
        with RunDirectory.open(earlier.path) as directory:
            try:
                resumed = check_resumption(replace(planned.request, overrides=()), directory, stopwatch)
            except RequestError as error:
                remark = f"restarted: {error}"
            else:
                run_training(resumed, stopwatch)
                return ""
    job = Job(
        planned.config, planned.request.overrides, computer, load_source(planned.config.data.as_found),
        plan.directory, planned.name, plan.stands_in_for, plan.directory,
    )  # fmt: skip
    run_training(job, stopwatch)
    return remark


@contextmanager
def lock_job(directory: Path, fingerprint: str) -> Iterator[None]:
    """Lock a job against other processes, waiting for any that is already working on it.

    A sweep that was killed may have left such a process running.
    """
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
    """Return the runs in a sweep's directory by fingerprint; of several, a finished one or else the newest.

    Runs that were resumed inexactly are left out: their weights are not those that the fingerprint identifies.
    """
    exact = [
        run for run in summaries(directory.iterdir()) if run.result.fingerprint is not None and run.result.exact
    ]
    exact.sort(key=lambda run: (is_finished(run), run.result.started))
    return {str(run.result.fingerprint): run for run in exact}


def outcome(planned: PlannedJob, run: RunSummary | None, reason: str) -> Outcome:
    """Return the outcome of a job, given its run (if any) and the error message (empty if there was no error)."""
    if run is None:
        return Outcome(planned.name, planned.request.overrides, "failed", reason)
    result, log = run.result, run.path / LOG
    return Outcome(
        name=planned.name,
        overrides=planned.request.overrides,
        status="failed" if reason else run.status,
        reason=reason or result.reason,
        log=str(display_path(log)) if log.is_file() else "",
        epochs=result.epochs,
        val=result.val_accuracy,
        test=result.test_accuracy,
        seconds=result.training_seconds,
        path=run.path,
    )


def compute_fingerprint(config: TrainConfig, computer: Device) -> str:
    """Return the fingerprint of the run that a config describes, on the given device."""
    weights, _ = donor_sha256(config.init_from)
    _, function = donor_sha256(config.teacher)
    return fingerprint_of(as_values(config), data_sha256(config.data), computer, weights, function)


@lru_cache(maxsize=1)
def load_source(data: DataConfig) -> Source:
    """Read a data set; it is cached for the next jobs of this process."""
    from mnist_exp.data.formats import find
    from mnist_exp.report.progress import images_bar

    return find(data, say, images_bar)


@lru_cache(maxsize=16)
def data_sha256(data: DataConfig) -> str:
    """Return the SHA-256 of prepared data, computed once for all jobs that use it."""
    from mnist_exp.data.formats import prepare

    return prepare(load_source(data.as_found), data).sha256


def donor_sha256(run: str | None) -> tuple[str, str] | tuple[None, None]:
    """Return the SHA-256 of the weights of a run or model file, and of all that determines its outputs."""
    if run is None:
        return None, None
    file = Path(run, MODEL) if os.path.isdir(run) else Path(run)
    return _digests_of(file, file.stat().st_mtime_ns if file.exists() else 0)


@lru_cache(maxsize=16)
def _digests_of(file: Path, modified: int) -> tuple[str, str]:
    """Return the digests of a model file, computed once for all jobs unless the file changes."""
    from mnist_exp.model.saving import function_sha256, weights_sha256
    from mnist_exp.model.warm_start import load_donor

    model = load_donor(file)
    return weights_sha256(model), function_sha256(model)
