"""A training job that has passed all checks. Cheap to import: only `run_training` imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_exp.config.schema import TrainConfig
from mnist_exp.runs.directory import RunDirectory
from mnist_exp.runs.fingerprint import fingerprint
from mnist_exp.runs.result import RunResult
from mnist_exp.runs.stopwatch import Stopwatch

if TYPE_CHECKING:
    from mnist_exp.data.dataset import Source
    from mnist_exp.training.checkpoint import State
    from mnist_exp.training.device import Device


@dataclass(frozen=True)
class Resumption:
    """An interrupted run that this process resumes. Its directory is locked by this process."""

    directory: RunDirectory
    result: RunResult
    """The run's result, with this resumption as the last entry of `resumed`."""
    values: Mapping[str, Any]
    """The config of the remaining epochs."""
    state: State | None
    """The checkpoint to resume from; None to start from the beginning."""


@dataclass(frozen=True)
class Job:
    """A training job that has passed all checks: the config, the data, and the directory to create or resume."""

    config: TrainConfig
    overrides: tuple[str, ...]
    computer: Device
    source: Source
    parent: Path
    name: str
    """Name of the run's directory in `parent`."""
    stands_in_for: str | None = None
    """The data set that was requested but not found, if `source` is its fallback."""
    sweep: Path | None = None
    """The sweep's directory, if the job belongs to one."""
    resumption: Resumption | None = None
    withholds_test: bool = False
    """Whether the test set must not be scored, as for a trial of a search."""
    observe: Callable[[Sequence[Mapping[str, float]]], None] = lambda history: None
    """Called with the history at the start and after each epoch; raises `Pruned` to end the run."""


def checkpoint_key(result: RunResult) -> str:
    """Return the key of a run's checkpoints, which stays valid if its directory is moved."""
    return f"{result.name} of {result.started}"


def fingerprint_of(
    values: Mapping[str, Any],
    data_sha256: str,
    computer: Device,
    init_sha256: str | None,
    teacher_sha256: str | None,
) -> str:
    """Return the fingerprint of a config with its data and device."""
    return fingerprint(
        values,
        data_sha256=data_sha256,
        kind=computer.kind,
        precision=computer.precision,
        threads=computer.threads,
        init_sha256=init_sha256,
        teacher_sha256=teacher_sha256,
    )


def run_training(job: Job, stopwatch: Stopwatch) -> RunResult:
    """Run a job end to end, from loading the data to the completed directory, and return its result.

    TensorFlow must have been started (`preparation.set_up`). Raises the same errors as
    `engine.run.TrainingRun.execute`.
    """
    from mnist_exp.engine.run import TrainingRun

    return TrainingRun(job, stopwatch).execute()
