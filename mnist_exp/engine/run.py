"""One training run, from a checked request to a finished directory."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_exp.config.schema import TrainConfig
from mnist_exp.engine.results import PLOTS, save_best, score_and_draw
from mnist_exp.errors import Killed, Pruned, RequestError, WorkError
from mnist_exp.runs import signals
from mnist_exp.runs.atomic import remove_folder, write_text
from mnist_exp.runs.directory import RunDirectory, summarize
from mnist_exp.runs.fingerprint import as_values, code_digest, fingerprint
from mnist_exp.runs.log import say, warn
from mnist_exp.runs.lookup import read_config
from mnist_exp.runs.stopwatch import Stopwatch, Timer
from mnist_exp.text import display_path

if TYPE_CHECKING:
    import keras

    from mnist_exp.data.dataset import Dataset, Source
    from mnist_exp.tracking.recorder import RunRecord
    from mnist_exp.training.checkpoint import State
    from mnist_exp.training.device import Device


@dataclass(frozen=True)
class Resumption:
    """A run that goes on: its directory, which this process has locked, and what is known of it."""

    directory: RunDirectory
    result: Mapping[str, Any]
    """Its `result.json`, with this resumption as the last of `resumed`."""
    values: Mapping[str, Any]
    """Its config, as it is from now on."""
    state: State | None
    """The checkpoint to go on from; None: from the beginning."""


@dataclass(frozen=True)
class Job:
    """A run that was found right: what to do, on which data, and where to keep it."""

    config: TrainConfig
    overrides: tuple[str, ...]
    computer: Device
    source: Source
    parent: Path
    name: str
    """Of the run's directory, in `parent`."""
    stands_in_for: str | None = None
    """The data set that was asked for and not found, if this is its fallback."""
    sweep: Path | None = None
    """The directory of the sweep that this is a job of."""
    resumption: Resumption | None = None
    withholds_test: bool = False
    """Whether nobody may see yet how it does on the test part: it is a trial of a search."""
    watch: Callable[[Sequence[Mapping[str, float]]], None] = lambda history: None
    """Is told the history after each epoch, and where the run goes on; raises `Pruned` to end it."""


def run_training(job: Job, stopwatch: Stopwatch) -> dict[str, Any]:
    """Train, save, score and draw a run that was found right. Returns its `result.json`.

    Raises `WorkError` where the work fails; on `KeyboardInterrupt` what was finished is kept.
    """
    import keras

    from mnist_exp.data.load import prepare
    from mnist_exp.engine.feature_map_callback import watching
    from mnist_exp.model.build import build
    from mnist_exp.model.preprocessing import statistics
    from mnist_exp.report.progress import TrainingDisplay
    from mnist_exp.training.checkpoint import FOLDER, Checkpoints
    from mnist_exp.training.loop import Progress, fit

    config, resumption = job.config, job.resumption
    keras.utils.clear_session()  # nothing of the jobs before in a sweep
    with stopwatch.phase("data"):
        data = prepare(job.source, config.data)
        found = statistics(data.train.images, config.preprocess)
    with stopwatch.phase("build"):
        model = build(config, found, job.computer.precision)
        if resumption is not None and resumption.state is not None:
            origin, progress = resumption.result["init_from"], resumption.state.restore(model)
        else:
            origin, progress = initialize(model, config), Progress()

    directory = resumption.directory if resumption else RunDirectory.create(job.parent, job.name)
    with signals.raised(), directory, going_on(directory.path):
        directory.remove_leftovers()
        with start_record(job, directory, data, model, origin) as record:
            introduce(record, job, data, model)
            record.catch_up(progress.history, progress.best_epoch)
            folder = record.path / FOLDER
            checkpoints = Checkpoints(folder, run_key(record.result), resumption.state if resumption else None)
            timer = Timer(config.training.checkpoint_seconds)
            watch = watching(config, found, data, record) if config.training.watch else None

            def leave(final: bool) -> None:
                record.history(progress.history)
                with stopwatch.phase("save"):
                    saved = save_best(build(config, found, "float32"), progress, record, config, final)
                test = data.test if final and not job.withholds_test else None
                score_and_draw(saved, test, record, config, data, progress, stopwatch)
                for picture in sorted((record.path / PLOTS).glob("*.png")):
                    record.artifact(f"{PLOTS}/{picture.name}", PLOTS)

            try:
                job.watch(progress.history)
                with (
                    stopwatch.phase("training"),
                    TrainingDisplay(config.training.epochs, lambda: job.watch(progress.history)) as display,
                    signals.held() as signal,
                ):

                    def after_epoch() -> None:
                        if watch is not None:
                            watch(model, progress.epochs)
                        checkpoints.save(model, progress)
                        timer.restart()
                        record.epoch(progress.history, progress.best_epoch)

                    def after_steps() -> None:
                        if signal.came or timer.is_up():
                            checkpoints.save(model, progress)
                            timer.restart()
                        signal.raise_it()

                    fit(model, data, config, display, progress, after_epoch, after_steps)
            except (KeyboardInterrupt, Killed) as signalled:
                # Who kills has no time for the files that are made from a checkpoint later.
                if isinstance(signalled, KeyboardInterrupt) and progress.best is not None:
                    leave(final=False)
                done = f"{progress.epochs} of {config.training.epochs} epochs"
                say(f"{display_path(record.path)}: interrupted after {done}, which are kept there")
                raise
            except Pruned as pruned:
                say(f"pruned  {pruned}")
                if not config.training.keep_checkpoint:
                    remove_folder(folder)
                raise
            if progress.epochs < config.training.epochs:
                patience = config.training.early_stopping.patience
                say(f"stopped early: {patience} epoch{'s' * (patience != 1)} without a better one")
                record.result["stopped_early"] = True
            leave(final=True)
            record.seconds(stopwatch.report())
            conclude(record, data)
        if not config.training.keep_checkpoint:
            remove_folder(folder)
    say(f"{display_path(record.path)}: done in {stopwatch.report()['total']:.1f} s")
    if job.stands_in_for:
        warn(f"these figures are for {config.data.name}, which stood in for {job.stands_in_for}")
    return record.result


def run_key(result: Mapping[str, Any]) -> str:
    """What tells a run from others, also when its directory is moved."""
    return f"{result['name']} of {result['started']}"


@contextmanager
def going_on(path: Path) -> Iterator[None]:
    """Where a run ends before its time, say how to go on with it; not where only what comes after its end is cut.

    Raises `WorkError` for files that cannot be written.
    """
    command = f"mnist-exp resume {shlex.quote(f'run={display_path(path)}')}"
    try:
        yield
    except (KeyboardInterrupt, Killed):
        if not has_finished(path):
            say(f"to go on: {command}")
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if os.strerror(errno.ENOSPC) in reason:  # HDF5 says it among other things
            reason = os.strerror(errno.ENOSPC)
        then = "" if has_finished(path) else f"\nto go on then: {command}"
        raise WorkError(f"{error.filename or path}: cannot be written: {reason}{then}") from error


def has_finished(path: Path) -> bool:
    """Whether a run's directory says that it has."""
    summary = summarize(path)
    return summary is not None and summary.status == "finished"


def initialize(model: keras.Model, config: TrainConfig) -> dict[str, Any] | None:
    """With `init_from`, give the model the weights that fit; what came from where, for the record."""
    from mnist_exp.model.saving import weights_sha256
    from mnist_exp.model.warm_start import load_donor, take_weights

    if config.init_from is None:
        return None
    path = Path(config.init_from)
    donor = load_donor(path)
    transfer = take_weights(model, donor)
    theirs, ours = (read_config(path).get("preprocess") or {}).get("type"), config.preprocess.type
    of_pixels = [] if theirs == ours else [f"preprocessing: {theirs} there, {ours} here"]
    return {
        "run": config.init_from,
        "weights_sha256": weights_sha256(donor),
        "taken": list(transfer.taken),
        "left": [*of_pixels, *transfer.left],
    }


def start_record(
    job: Job, directory: RunDirectory, data: Dataset, model: keras.Model, origin: dict[str, Any] | None
) -> RunRecord:
    """Begin a run's record, or go on with it.

    Raises `RequestError` where a new run's files cannot be written: its directory is removed then.
    """
    from mnist_exp.model.preprocessing import count_parameters
    from mnist_exp.tracking.recorder import RunRecord

    config, computer, resumption = job.config, job.computer, job.resumption
    values = as_values(config) if resumption is None else resumption.values
    parts = {"train": data.train, "val": data.val, "test": data.test}
    about = {
        "fingerprint": fingerprint_of(
            values, data.sha256, computer, origin["weights_sha256"] if origin else None
        ),
        "code_sha256": code_digest(),
        "init_from": origin,
        "overrides": list(job.overrides),
        "withholds_test": job.withholds_test,
        "planned_epochs": config.training.epochs,
        "parameters": count_parameters(model),
        "data": {
            "name": config.data.name,
            "sha256": data.sha256,
            "origin": data.origin,
            "shape": list(config.data.shape),
            "class_names": list(data.class_names),
            "images": {name: len(part) if part else 0 for name, part in parts.items()},
            "stands_in_for": job.stands_in_for,
        },
        "device": {
            "kind": computer.kind, "device": computer.name, "threads": computer.threads,
            "precision": computer.precision, "deterministic": config.device.deterministic,
        },
    }  # fmt: skip
    earlier = resumption.result if resumption else None
    try:
        return RunRecord(directory, values, about, config.tracking, job.sweep, earlier)
    except OSError as error:
        if resumption is None:
            remove_folder(directory.path)
            raise RequestError(f"outputs: {error.filename} cannot be written: {error.strerror}") from error
        raise


def fingerprint_of(values: Mapping[str, Any], data_sha256: str, computer: Device, init_sha256: str | None) -> str:
    """What identifies a run of a config on its data and device."""
    return fingerprint(
        values,
        data_sha256=data_sha256,
        kind=computer.kind,
        precision=computer.precision,
        threads=computer.threads,
        init_sha256=init_sha256,
    )


def introduce(record: RunRecord, job: Job, data: Dataset, model: keras.Model) -> None:
    """Tell what is about to be done, and keep the model's card."""
    from mnist_exp.analysis.design_advice import advice
    from mnist_exp.analysis.summary import as_markdown
    from mnist_exp.model.preprocessing import count_parameters
    from mnist_exp.tracking.store import tracking_uri

    config, origin = job.config, record.result["init_from"]
    parts = {"train": data.train, "val": data.val, "test": data.test}
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in parts.items() if part)
    say(f"run     {display_path(record.path)}")
    say(f"data    {config.data.name} from {data.origin}: {sizes}")
    say(f"model   {config.model.name}, {count_parameters(model):,} parameters; aug {config.aug.shown_name}")
    if origin is not None:
        taken = ", ".join(origin["taken"])
        say(f"init    {taken} from {display_path(Path(origin['run']))}")
        for sentence in origin["left"]:
            say(f"        not taken: {sentence}")
    say(f"device  {job.computer}")
    if config.tracking.enabled:
        say(f"tracker {tracking_uri(config.tracking, Path(config.outputs))}")
    card = as_markdown(model, config.training.batch_size)
    card += "".join(f"\n- {remark}" for remark in advice(model)) + "\n"
    write_text(record.path / "architecture.md", card)
    record.artifact("architecture.md")
    record.artifact("config.yaml")
    record.note(card)


def conclude(record: RunRecord, data: Dataset) -> None:
    """Say what came out."""
    best, test = record.result["best"], record.result["test"]
    chosen = f"epoch {best['epoch']}"
    if "val/accuracy" in best:
        chosen += f" with {best['val/accuracy']:.2%} validation accuracy"
    say(f"saved   {chosen}")
    if test is not None and data.test is not None:
        say(f"test    accuracy {test['accuracy']:.2%}, loss {test['loss']:.4f}, on {len(data.test):,} images")
