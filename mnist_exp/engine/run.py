"""One training run, from a checked request to a finished directory."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from mnist_exp import registrations
from mnist_exp.analysis.design_advice import advice
from mnist_exp.analysis.summary import as_markdown
from mnist_exp.config.schema import TrainConfig, TrainingConfig
from mnist_exp.data.class_weights import class_weights
from mnist_exp.data.dataset import Dataset, Source
from mnist_exp.data.formats import missing_classes, prepare, smallest_limit, split
from mnist_exp.data.quality import remarks
from mnist_exp.engine.accuracy_warnings import report_guessing, report_imprecise
from mnist_exp.engine.callbacks import Checkpointing, Observation, PluginCallbacks, Recording, StopOnSignal
from mnist_exp.engine.job import Job, checkpoint_key, fingerprint_of
from mnist_exp.engine.plugins import keep_copies
from mnist_exp.engine.results import save_best, score_and_draw
from mnist_exp.engine.seen_images import count_seen, list_splits
from mnist_exp.errors import Diverged, Killed, Pruned, RequestError, WorkError, first_line
from mnist_exp.model.build import build
from mnist_exp.model.preprocessing import count_parameters, statistics
from mnist_exp.model.saving import function_sha256, weights_sha256
from mnist_exp.model.warm_start import load_donor, take_weights
from mnist_exp.report.progress import TrainingDisplay
from mnist_exp.runs import signals
from mnist_exp.runs.atomic import remove_folder, write_text
from mnist_exp.runs.directory import MODEL, PLOTS, RunDirectory, summarize
from mnist_exp.runs.fingerprint import as_values, code_digest
from mnist_exp.runs.log import say, warn
from mnist_exp.runs.lookup import read_config
from mnist_exp.runs.result import (
    DataRecord,
    DeviceRecord,
    ModelRecord,
    PluginRecord,
    RunResult,
    TeacherRecord,
    WarmStartRecord,
)
from mnist_exp.runs.stopwatch import Stopwatch
from mnist_exp.text import count_images, display_path, format_loss, format_percent
from mnist_exp.tracking.recorder import RunRecord, RunRecording
from mnist_exp.tracking.run_description import CARD, describe_run
from mnist_exp.tracking.store import tracking_uri
from mnist_exp.training.callback import Callback, Training, make_callbacks
from mnist_exp.training.checkpoint import FOLDER, Checkpoints, State
from mnist_exp.training.distillation import as_teacher
from mnist_exp.training.loop import Progress, fit, steps_per_epoch
from mnist_exp.training.time_budget import EpochTiming, time_epoch

_FEW_STEPS = 50  # warn if training the user's own data takes fewer


class TrainingRun:
    """Trains, saves, scores and plots one model, in a directory of its own."""

    def __init__(self, job: Job, stopwatch: Stopwatch) -> None:
        self._job = job
        self._config = job.config
        self._resumption = job.resumption
        self._stopwatch = stopwatch
        self._timing: EpochTiming | None = None
        self._teacher: keras.Model | None = None
        self._taught: TeacherRecord | None = None

    def execute(self) -> RunResult:
        """Run everything from loading the data to completing the directory, and return the run's result.

        Raises:
            WorkError: The training diverged, or a file could not be written.
            KeyboardInterrupt, Killed: A signal ended the run. Finished work is kept; `resume` continues from it.
            Pruned: `Job.observe` ended the run.
        """
        self.prepare()
        job, config = self._job, self._config
        with signals.raised(), self._directory, _explaining_resume(self._directory.path):
            self._directory.remove_leftovers()
            with start_record(
                job, self._directory, self._data, self._model, (self._origin, self._taught), self._stopwatch
            ) as self._record:
                announce(self._record, job, self._data, self._model)
                if self._timing is not None:
                    announce_epochs(config.training, self._timing)
                self._record.catch_up(self._progress.history, self._progress.best_epoch)
                self.fit()
                self.finalize()
            if not config.training.keep_checkpoint:
                remove_folder(self._checkpoint_folder)
        say(f"{display_path(self._record.path)}: done in {self._stopwatch.report()['total']:.1f} s")
        if job.stands_in_for:
            warn(f"these results are for {config.data.name}, the fallback for {job.stands_in_for}")
        return self._record.result

    # ---------------------------------------------------------------- data, model, directory

    def prepare(self) -> None:
        """Load the data, build the model with random, transferred or restored weights, and create a directory."""
        job, config, resumption = self._job, self._config, self._resumption
        signals.check()
        keras.utils.clear_session()  # an earlier job of a sweep may have run in this process
        with self._stopwatch.phase("data"):
            self._data = prepare(job.source, config.data)
            class_weights(config.training.class_weight, self._data.train.labels, self._data.class_names)
            self._statistics = statistics(self._data.train.images, config.preprocess)
        with self._stopwatch.phase("build"):
            if config.teacher is not None:
                donor = load_donor(Path(config.teacher))
                taught = resumption.result.teacher if resumption else describe_teacher(donor, config, job.source)
                self._teacher, self._taught = as_teacher(donor, job.computer.precision), taught
            self._model = build(config, self._statistics, job.computer.precision)
            if resumption is not None and resumption.state is not None:
                self._origin = resumption.result.init_from
                self._progress = self._restore(resumption.state)
            else:
                self._origin = load_initial_weights(self._model, config, job.source)
                self._progress = Progress()
            if resumption is None and config.training.max_seconds is not None:
                self._fit_into_budget(config.training.max_seconds)
        signals.check()
        self._directory = resumption.directory if resumption else RunDirectory.create(job.parent, job.name)

    def _fit_into_budget(self, seconds: float) -> None:
        """Replace the number of epochs by the number that fits into a time. Raises `RequestError`."""
        config, warmup = self._config, self._config.schedule.warmup_epochs
        self._timing = time_epoch(self._model, self._data, config, self._teacher)
        epochs = self._timing.count_epochs(seconds)
        if warmup > epochs:
            raise RequestError(
                f"schedule.warmup_epochs={warmup:g}: must not exceed the number of epochs that fit into "
                f"training.max_seconds={seconds:g}, found {epochs}; schedule.warmup_fraction fits any number"
            )
        training = config.training.model_copy(update={"epochs": epochs})
        self._config = config.model_copy(update={"training": training})
        self._job = replace(self._job, config=self._config)

    def _restore(self, state: State) -> Progress:
        """Load a checkpoint. Raises `RequestError` if it does not fit the model, for example after an upgrade."""
        try:
            return state.restore(self._model)
        except (ValueError, KeyError) as error:
            message = f"{state.path}: does not fit the model built from the config: {first_line(error)}"
            raise RequestError(message) from error

    # ---------------------------------------------------------------- training loop

    def fit(self) -> None:
        """Train until the last epoch, an early stop, or a signal."""
        config, progress = self._config, self._progress
        try:
            signals.check()
            self._job.observe(progress.history)
            with (
                self._stopwatch.phase("training"),
                TrainingDisplay(config.training.epochs) as display,
                signals.held() as signal,
            ):
                fit(self._model, self._data, config, self._callbacks(display, signal), progress, self._teacher)
        except (KeyboardInterrupt, Killed) as signalled:
            # SIGKILL may follow SIGTERM: don't spend time on files that a checkpoint can produce later.
            if isinstance(signalled, KeyboardInterrupt) and progress.best is not None:
                self._save_and_score(final=False)
            done = f"{progress.epochs} of {config.training.epochs} epochs"
            say(f"{display_path(self._record.path)}: interrupted after {done}; finished epochs are kept")
            raise
        except Diverged:
            if progress.best is not None:
                self._save_and_score(final=False)
                say(f"saved   epoch {progress.best_epoch}, the best before training diverged")
            raise
        except Pruned as pruned:
            say(f"pruned  {pruned}")
            if not config.training.keep_checkpoint:
                remove_folder(self._checkpoint_folder)
            raise
        if progress.epochs < config.training.epochs:
            patience = config.training.early_stopping.patience
            say(f"stopped early: {patience} epoch{'s' * (patience != 1)} without improvement")
            self._record.result.stopped_early = True

    def _callbacks(self, display: TrainingDisplay, signal: signals.Pending) -> list[Callback]:
        """Return the callbacks in the order in which they are called.

        A finished epoch is first saved in the checkpoint, then recorded in the journal, and only then printed. The
        callbacks of plug-ins come before that, so that the checkpoint contains what they change in the model.
        """
        config, progress, record = self._config, self._progress, self._record
        state = self._resumption.state if self._resumption else None
        checkpoints = Checkpoints(self._checkpoint_folder, checkpoint_key(record.result), state)
        checkpointing = Checkpointing(checkpoints, self._model, progress, config.training.checkpoint_seconds)
        callbacks: list[Callback] = [
            checkpointing,
            Recording(record, progress),
            display,
            StopOnSignal(signal, checkpointing),
            Observation(self._job.observe, progress),
        ]
        if config.training.watch:
            from mnist_exp.engine.feature_map_callback import FeatureMaps  # Matplotlib

            maps = FeatureMaps(config, self._statistics, self._data, record, self._model, progress)
            if state is None:  # not resumed
                maps.draw_initial()
            callbacks.insert(0, maps)
        if config.training.callbacks:
            own = PluginCallbacks(make_callbacks(config.training.callbacks))
            own.on_start(Training(record.path, self._model, progress.history, config.seed))
            callbacks.insert(0, own)
        return callbacks

    @property
    def _checkpoint_folder(self) -> Path:
        return self._record.path / FOLDER

    # ---------------------------------------------------------------- model files, test scores, plots

    def finalize(self) -> None:
        """Save the best epoch's model, score it on the test set, plot, and complete the record."""
        self._save_and_score(final=True)
        self._record.seconds(self._stopwatch.report())
        self._record.note(describe_run(self._record.path, self._record.result, self._config))
        print_result(self._record, self._data, self._progress.history, self._config)

    def _save_and_score(self, *, final: bool) -> None:
        """Save and plot the best epoch so far; only a `final` model is scored on the test set."""
        config, record, data, progress = self._config, self._record, self._data, self._progress
        record.history(progress.history)
        # The best job of a sweep is known only when all have ended.
        is_logged = "keras" in config.save and (self._job.sweep is None or config.sweep.keep_models == "all")
        with self._stopwatch.phase("save"):
            model = build(config, self._statistics, "float32")
            saved = save_best(model, progress, record, config, final=final, is_logged=is_logged)
        test = data.test if final and not self._job.withholds_test else None
        score_and_draw(saved, test, record, config, data, progress, self._stopwatch)
        if "keras" not in config.save:
            (record.path / MODEL).unlink()
        for picture in sorted((record.path / PLOTS).glob("*.png")):
            record.artifact(f"{PLOTS}/{picture.name}", PLOTS)


@contextmanager
def _explaining_resume(path: Path) -> Iterator[None]:
    """If the run ends early in the block, print the command that resumes it.

    Raises `WorkError` for files that cannot be written.
    """
    command = f"mnist-exp resume {shlex.quote(f'run={display_path(path)}')}"
    try:
        yield
    except (KeyboardInterrupt, Killed):
        if not _has_finished(path):
            say(f"to resume: {command}")
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if os.strerror(errno.ENOSPC) in reason:  # HDF5's message contains it
            reason = os.strerror(errno.ENOSPC)
        then = "" if _has_finished(path) else f"\nfix this, then resume with: {command}"
        raise WorkError(f"{error.filename or path}: cannot be written: {reason}{then}") from error


def _has_finished(path: Path) -> bool:
    """Return whether the run's result says that it finished."""
    summary = summarize(path)
    return summary is not None and summary.status == "finished"


def load_initial_weights(model: keras.Model, config: TrainConfig, source: Source) -> WarmStartRecord | None:
    """If `init_from` is set, load those weights of the other model that fit, and return a record of them."""
    if config.init_from is None:
        return None
    path = Path(config.init_from)
    donor = load_donor(path)
    transfer = take_weights(model, donor)
    settings = read_config(path) if path.is_dir() else {}
    theirs, ours = (settings.get("preprocess") or {}).get("type"), config.preprocess.type
    of_pixels = (
        [] if theirs == ours else [f"preprocessing: {theirs or 'unknown'} in the other model, {ours} in this one"]
    )
    return WarmStartRecord(
        **describe_model(donor, path, config, source).model_dump(),
        taken=list(transfer.taken),
        left=[*of_pixels, *transfer.left],
    )


def describe_teacher(teacher: keras.Model, config: TrainConfig, source: Source) -> TeacherRecord:
    """Return a record of the config's teacher, a model as it was loaded."""
    record = describe_model(teacher, Path(str(config.teacher)), config, source)
    return TeacherRecord(**record.model_dump(), sha256=function_sha256(teacher))


def describe_model(model: keras.Model, path: Path, config: TrainConfig, source: Source) -> ModelRecord:
    """Return a record of a model from a run's directory or a file, and of the images that it was trained on."""
    trained_on = list_splits(path, read_config(path) if path.is_dir() else {})
    return ModelRecord(
        run=str(path),
        weights_sha256=weights_sha256(model),
        trained_on=list(trained_on or ()),
        validation_images_seen=None if trained_on is None else count_seen(trained_on, config.data, source),
    )


def start_record(
    job: Job,
    directory: RunDirectory,
    data: Dataset,
    model: keras.Model,
    others: tuple[WarmStartRecord | None, TeacherRecord | None],
    stopwatch: Stopwatch,
) -> RunRecording:
    """Start a run's record, or continue that of a resumed run; `others` are its initial weights and its teacher.

    Raises `RequestError` if a new run's files cannot be written; in that case, its directory is removed.
    """
    config, computer, resumption = job.config, job.computer, job.resumption
    values = as_values(config) if resumption is None else resumption.values
    origin, teacher = others
    digests = origin.weights_sha256 if origin else None, teacher.sha256 if teacher else None
    known: dict[str, Any] = {
        "fingerprint": fingerprint_of(values, data.sha256, computer, *digests),
        "code_sha256": code_digest(),
        "init_from": origin,
        "teacher": teacher,
        "overrides": list(job.overrides),
        "withholds_test": job.withholds_test,
        "planned_epochs": config.training.epochs,
        "parameters": count_parameters(model),
        "data": DataRecord(
            name=config.data.name, sha256=data.sha256, origin=data.origin,
            shape=list(config.data.shape), class_names=list(data.class_names),
            images={name: len(part) if part else 0 for name, part in data.parts.items()},
            distinct_training_images=distinct_training_images(job.source, config),
            stands_in_for=job.stands_in_for, skipped=list(job.source.skipped),
        ),
        "device": DeviceRecord(
            kind=computer.kind, device=computer.name, threads=computer.threads, precision=computer.precision,
            deterministic=config.device.deterministic, cpu_features=list(computer.cpu_features),
            onednn=dict(computer.onednn),
        ),
    }  # fmt: skip
    if plugins := registrations.used_by(values):
        known["plugins"] = [PluginRecord(name=one.name, source=one.shown, sha256=one.sha256) for one in plugins]
    earlier = resumption.result if resumption else None
    try:
        if resumption is None:
            keep_copies(plugins, directory.path)
        return RunRecording(directory, values, known, config.tracking, job.sweep, earlier, stopwatch.report)
    except OSError as error:
        if resumption is not None:
            raise
        remove_folder(directory.path)
        raise RequestError(f"outputs: {error.filename} cannot be written: {error.strerror}") from error


def distinct_training_images(source: Source, config: TrainConfig) -> int | None:
    """Return the number of training images before `data.balance` repeats some; None if it repeats none."""
    return None if config.data.balance is None else len(split(source.train.labels, config.data)[0])


def announce(record: RunRecord, job: Job, data: Dataset, model: keras.Model) -> None:
    """Print what is about to be trained, and write the model's summary card."""
    config, origin = job.config, record.result.init_from
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in data.parts.items() if part)
    say(f"run     {display_path(record.path)}")
    say(f"data    {config.data.name} from {data.origin}: {sizes}")
    if (distinct := record.result.data.distinct_training_images) is not None:
        say(f"balance {len(data.train):,} training images, by repeating some of {distinct:,}")
    report_missing_classes(job, data)
    report_quality(job, len(data.train))
    say(f"model   {config.model.name}, {count_parameters(model):,} parameters; aug {config.aug.shown_name}")
    if origin is not None:
        taken = ", ".join(origin.taken)
        say(f"init    {taken} from {display_path(Path(origin.run))}")
        for sentence in origin.left:
            say(f"        not taken: {sentence}")
        report_seen(origin, len(data.val) if data.val else 0)
    if (taught := record.result.teacher) is not None:
        shares = config.training.distillation
        say(
            f"teacher {display_path(Path(taught.run))}, weight {shares.weight:g}, "
            f"temperature {shares.temperature:g}"
        )
        report_seen(taught, len(data.val) if data.val else 0)
    say(f"device  {job.computer}")
    if config.tracking.enabled:
        say(f"tracker {tracking_uri(config.tracking, Path(config.outputs))}")
    card = as_markdown(model, config.training.batch_size)
    card += "".join(f"\n- {remark}" for remark in advice(model)) + "\n"
    write_text(record.path / CARD, card)
    record.artifact(CARD)
    record.artifact("config.yaml")
    record.note(card)


def announce_epochs(training: TrainingConfig, timing: EpochTiming) -> None:
    """Print how many epochs fit into `training.max_seconds`."""
    budget, least = f"training.max_seconds={training.max_seconds:g}", timing.compilation + timing.epoch
    fit = "epochs fit" if training.epochs > 1 else "epoch fits"
    each = f"{timing.epoch:.1f}" if timing.epoch >= 1 else f"{timing.epoch:.2g}"
    if least > (training.max_seconds or 0):
        warn(f"{budget}: 1 epoch is trained, although it takes about {least:.1f} s")
    else:
        say(f"epochs  {budget}: {training.epochs} {fit}, at {each} s each")


def report_quality(job: Job, images: int) -> None:
    """Warn about weaknesses of the user's own data, and if it has too few images for the training's settings."""
    config = job.config
    if config.data.dir is None or config.data.mirrors:
        return
    for remark in remarks(job.source):
        warn(remark)
    steps, epochs = steps_per_epoch(images, config), config.training.epochs
    if steps * epochs < _FEW_STEPS and config.debug.max_steps is None:
        size = config.training.batch_size
        warn(
            f"{images:,} training images in batches of {size} make {steps} step{'s' * (steps > 1)} per epoch, "
            f"{steps * epochs} in all, which is often too few: lower training.batch_size or raise training.epochs"
        )


def report_missing_classes(job: Job, data: Dataset) -> None:
    """Warn about declared classes without training images, which the model cannot learn."""
    missing = missing_classes(data.train.labels, data.class_names)
    if missing:
        limit = job.config.data.limit
        least = smallest_limit(job.source.train.labels, job.config.data) if limit is not None else None
        advice = (
            f"; data.limit={least} is the smallest limit that includes every class"
            if least and least > (limit or 0)
            else ""
        )
        warn(f"{missing}: the model cannot learn the missing classes{advice}")


def report_seen(origin: ModelRecord, validation_images: int) -> None:
    """Warn if the initial weights or the teacher were trained on images that this run validates on."""
    if not validation_images:
        return
    run = display_path(Path(origin.run))
    if origin.validation_images_seen is None:
        say(
            f"        unknown whether {run} was trained on validation images of this run, as its data is unknown "
            "or different"
        )
    elif origin.validation_images_seen:
        warn(
            f"{run} was trained on {origin.validation_images_seen} of the {validation_images} validation images "
            "of this run, so validation results are too optimistic; use the other run's data.split_seed and "
            "data.val_fraction to avoid this"
        )


def print_result(record: RunRecord, data: Dataset, history: list[dict[str, float]], config: TrainConfig) -> None:
    """Print the saved epoch and the test figures."""
    best, test = record.result.best, record.result.test
    assert best is not None
    chosen = f"epoch {best['epoch']}"
    if "val/accuracy" in best:
        chosen += f" with {format_percent(best['val/accuracy'])} validation accuracy"
    say(f"saved   {chosen}")
    if data.val is not None and "val/accuracy" in best:
        compared = len(history) if config.training.select.metric == "val/accuracy" else 1
        limited = config.data.limit is not None
        report_imprecise(best["val/accuracy"], len(data.val), epochs=compared, limited=limited)
        report_guessing(best["val/accuracy"], data.val, data.class_names, history, config.model.name)
    if test is not None and data.test is not None:
        loss = format_loss(test["loss"])
        images = count_images(len(data.test))
        say(f"test    accuracy {format_percent(test['accuracy'])}, loss {loss}, on {images}")
