"""The checkpoint that a run is resumed from, and the check that its data and learning rates are still the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mnist_exp.config.schema import TrainConfig
from mnist_exp.data.dataset import Source
from mnist_exp.data.formats import prepare
from mnist_exp.engine.job import checkpoint_key
from mnist_exp.errors import RequestError
from mnist_exp.model.saving import function_sha256
from mnist_exp.model.warm_start import load_donor
from mnist_exp.runs.fingerprint import as_values, fingerprint
from mnist_exp.runs.log import warn
from mnist_exp.runs.result import RunResult
from mnist_exp.text import display_path
from mnist_exp.training.batch_augmentation import count_augmented_steps
from mnist_exp.training.checkpoint import FOLDER, State, read_newest
from mnist_exp.training.loop import steps_per_epoch
from mnist_exp.training.schedule import learning_rates


def find_state(path: Path, result: RunResult) -> State | None:
    """Return the checkpoint to resume from; None if the run has none yet. Raises `RequestError`."""
    state, damaged = read_newest(path / FOLDER, checkpoint_key(result))
    again = f"mnist-exp from={display_path(path)} starts a new run with its config"
    if state is None:
        if damaged:
            raise RequestError(
                "\n".join([f"{display_path(path)}: all checkpoints are damaged; {again}", *damaged])
            )
        if result.status == "finished":
            why = (
                "it has finished, and its checkpoint was removed; training.keep_checkpoint=true would have kept it"
            )
            raise RequestError(f"{display_path(path)}: nothing to resume: {why}")
        if (path / "history.csv").exists():
            raise RequestError(f"{path / FOLDER}: no checkpoint found; {again}")
    for message in damaged:
        warn(f"{message}; using the previous checkpoint")
    return state


def check_data(
    path: Path,
    result: RunResult,
    source: Source,
    config: TrainConfig,
    same: TrainConfig,
    state: State | None,
    *,
    same_code: bool,
) -> None:
    """Raise `RequestError` if images, teacher or config changed, or more epochs would have altered past steps.

    Without `same_code`, the config is not compared: its fingerprint, which covers the code, differs anyway.
    """
    data = prepare(source, config.data)
    if data.sha256 != result.data.sha256:
        raise RequestError(
            f"{data.origin}: not the images that {display_path(path)} was trained on: "
            f"their SHA-256 is {data.sha256[:12]}…, was {str(result.data.sha256)[:12]}…"
        )
    check_teacher(path, result, config)
    # Don't use the epochs in `config.yaml`: a killed resumption may have changed them without writing a result.
    training = same.training.model_copy(update={"epochs": result.planned_epochs})
    same = same.model_copy(update={"training": training})
    recomputed = fingerprint(
        as_values(same),
        data_sha256=data.sha256,
        kind=result.device.kind,
        precision=str(result.device.precision),
        threads=int(result.device.threads or 0),
        init_sha256=result.init_from.weights_sha256 if result.init_from else None,
        teacher_sha256=result.teacher.sha256 if result.teacher else None,
    )
    if same_code and recomputed != result.fingerprint:
        raise RequestError(f"{path / 'config.yaml'}: changed since the run began: its fingerprint differs")
    steps = steps_per_epoch(len(data.train), config)
    done = state.progress["epochs"] * steps + state.progress["steps"] if state else 0
    _check_finished_steps(config, same, steps, done)


def check_teacher(path: Path, result: RunResult, config: TrainConfig) -> None:
    """Raise `RequestError` if the teacher is not the model that the run learned from so far."""
    was = result.teacher
    if config.teacher is None:
        if was is not None:
            raise RequestError(f"teacher=null: {display_path(path)} learned from {was.run}; name its place")
        return
    found = function_sha256(load_donor(Path(config.teacher)))
    if was is None:
        raise RequestError(f"teacher={config.teacher}: {display_path(path)} has no teacher; omit it")
    if found != was.sha256:
        raise RequestError(
            f"teacher={config.teacher}: not the teacher of {display_path(path)}: the SHA-256 of its weights, "
            f"architecture and plug-ins is {found[:12]}…, was {was.sha256[:12]}…"
        )


def _check_finished_steps(config: TrainConfig, same: TrainConfig, steps: int, done: int) -> None:
    """Raise `RequestError` if other epochs would have altered the finished steps' learning rates or augmentation.

    Args:
        config: The config to resume with.
        same: The config of the run.
        steps: The number of steps in an epoch.
        done: The number of finished steps.
    """
    epochs = config.training.epochs
    instead = (
        f"depends on the number of epochs: with {epochs} instead of {same.training.epochs}, "
        f"the {done} finished steps would have"
    )
    stops = {count_augmented_steps(c, steps * c.training.epochs) for c in (same, config)}
    if not config.aug.is_identity and len(stops) > 1 and min(stops) < done:
        raise RequestError(
            f"training.epochs={epochs}: aug.until={config.aug.until} {instead} been augmented differently"
        )
    before, after = (
        learning_rates(c.schedule, c.optimizer.learning_rate, steps, c.training.epochs)[:done]
        for c in (same, config)
    )
    if not np.array_equal(before, after):
        raise RequestError(
            f"training.epochs={epochs}: schedule={config.schedule.type} {instead} had different learning rates"
        )
