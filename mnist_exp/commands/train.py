"""`mnist-exp train`: one run, from a request to a finished directory.

`train` settles what is to be done and finds everything that is wrong with it, before anything is created;
`run_training` is the story of a run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_exp.config.check import compose_checked, news
from mnist_exp.config.compose import Composition
from mnist_exp.config.identity import as_values, fingerprint
from mnist_exp.config.places import COMMAND_LINE
from mnist_exp.config.request import Request, key_of, override_value, quoted
from mnist_exp.config.schema import TrainConfig
from mnist_exp.errors import Problem, RequestError
from mnist_exp.model import backend
from mnist_exp.runs.directory import RUNS, RunDirectory, stamped
from mnist_exp.runs.files import remove_folder, write_text
from mnist_exp.runs.find import find_run, read_config
from mnist_exp.runs.log import say, warn
from mnist_exp.runs.stopwatch import Stopwatch

if TYPE_CHECKING:
    import keras

    from mnist_exp.data.dataset import Dataset, Source
    from mnist_exp.inference.saved import Scores
    from mnist_exp.tracking.record import RunRecord
    from mnist_exp.training.device import Device
    from mnist_exp.training.loop import Progress


# Keys that a new run does not take over from the one that it starts from.
NOT_TAKEN_OVER = ("from", "name", "outputs", "sweep", "tracking")


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


def train(request: Request, started: float) -> None:
    """Run what was asked for. Raises `RequestError` before anything is created, `WorkError` after."""
    stopwatch = Stopwatch(started)
    with stopwatch.phase("start"):
        request, config, computer = check_config(start_from_run(request))
    with stopwatch.phase("data"):
        request, config, source, stands_in_for = settle_data(request, config)
    name = stamped(config.name or f"{config.model.name}-{config.aug.shown_name}")
    job = Job(config, request.overrides, computer, source, Path(config.outputs) / RUNS, name, stands_in_for)
    run_training(job, stopwatch)


def start_from_run(request: Request) -> Request:
    """With `from=<run>`: the same request over that run's config. Raises `RequestError`."""
    wanted = override_value(request, "from")
    if wanted is None:
        return request
    if not isinstance(wanted, str):
        raise RequestError("from: takes one run")
    run = find_run(wanted, Path(override_value(request, "outputs") or "outputs"))
    saved = {key: value for key, value in read_config(run).items() if key not in NOT_TAKEN_OVER}
    return replace(request, base=saved, base_file=run.path / "config.yaml")


def settle_init(request: Request, config: TrainConfig) -> tuple[Request, TrainConfig]:
    """With `init_from=<run>`: the same with the path of that run, whatever it was called by.

    Raises `RequestError`.
    """
    if config.init_from is None:
        return request, config
    try:
        run = find_run(config.init_from, Path(config.outputs))
    except RequestError as error:
        raise RequestError([Problem(COMMAND_LINE, f"init_from={error}", "init_from")]) from error
    if run.status != "finished":
        message = f"init_from={config.init_from}: this run is {run.status}; a finished one is needed"
        raise RequestError([Problem(COMMAND_LINE, message, "init_from")])
    path = str(run.path.resolve())
    kept = tuple(text for text in request.overrides if key_of(text) != "init_from")
    request = replace(request, overrides=(*kept, f"init_from={quoted(path)}"))
    return request, config.model_copy(update={"init_from": path})


def check_config(request: Request) -> tuple[Request, TrainConfig, Device]:
    """A request to train as it was settled, its config, and what it computes on.

    Raises `RequestError` with all that is wrong.
    """
    try:
        config, composition = compose_checked(request, TrainConfig)
    except RequestError as error:
        if error.mended is None:
            raise
        config, composition = error.mended
        problems = error.problems
        try:
            _, config = settle_init(request, config)
        except RequestError as further:
            problems += further.problems
            config = config.model_copy(update={"init_from": None})
        refused = RequestError(sorted(set(problems)))
        # Told after the others, as Keras takes seconds to start.
        refused.more = partial(_problems_with_keras, config, composition, told=problems)
        raise refused from error
    if composition.remark:
        warn(composition.remark)
    request, config = settle_init(request, config)
    computer = set_up(config)
    check_with_keras(config, composition)
    return request, config, computer


def _problems_with_keras(
    config: TrainConfig, composition: Composition, *, told: tuple[Problem, ...]
) -> tuple[Problem, ...]:
    """What Keras finds wrong beside what was told."""
    try:
        set_up(config)
        check_with_keras(config, composition)
    except RequestError as error:
        return tuple(news(error.problems, told))
    return ()


def set_up(config: TrainConfig) -> Device:
    """Start TensorFlow on the device that the config asks for. Raises `RequestError`."""
    backend.load()
    from mnist_exp.training import device

    return device.resolve(config.device)


def check_with_keras(config: TrainConfig, composition: Composition) -> None:
    """Let Keras judge the layers, the optimizer, the loss and the metrics. Raises `RequestError`."""
    from mnist_exp.model.build import check

    check(config, composition)


def settle_data(request: Request, config: TrainConfig) -> tuple[Request, TrainConfig, Source, str | None]:
    """Find the data, and decide whether its fallback stands in: the request and config are the fallback's then.

    Raises `RequestError` for data that is damaged, and where nobody has it and there is no fallback.
    """
    from mnist_exp.data.load import find
    from mnist_exp.data.lookup import NotFound

    try:
        return request, config, find(config.data, say), None
    except NotFound as error:
        wanted, fallback = config.data.name, config.data.fallback
        if fallback is None:
            raise RequestError(f"{error}\n{error.advice}") from error
        warn(
            f"{error}\n{fallback.upper()} STANDS IN FOR {wanted.upper()}. data.fallback=null makes this an error."
        )
    request = request.with_option("data", fallback)
    config, composition = compose_checked(request, TrainConfig)
    check_with_keras(config, composition)
    try:
        return request, config, find(config.data, say), wanted
    except NotFound as error:
        raise RequestError(f"data.fallback={fallback}: {error}") from error


def run_training(job: Job, stopwatch: Stopwatch) -> dict[str, Any]:
    """Train, save, score and draw a run that was found right. Returns its `result.json`.

    Raises `WorkError` where the work fails; on `KeyboardInterrupt` what was finished is kept.
    """
    import keras

    from mnist_exp.data.load import prepare
    from mnist_exp.model.build import build
    from mnist_exp.model.preprocess import statistics
    from mnist_exp.report.progress import TrainingDisplay
    from mnist_exp.training import checkpoint
    from mnist_exp.training.loop import Progress, fit

    config = job.config
    keras.utils.clear_session()  # nothing of the jobs before in a sweep
    with stopwatch.phase("data"):
        data = prepare(job.source, config.data)
        found = statistics(data.train.images, config.preprocess)
    with stopwatch.phase("build"):
        model = build(config, found, job.computer.precision)
        origin = initialize(model, config)

    with start_record(job, data, model, origin) as record:
        progress = Progress()
        checkpoints = record.path / "checkpoint"

        def after_epoch() -> None:
            checkpoint.save(checkpoints, model, progress)
            record.epoch(progress.history, progress.best_epoch)

        def leave(test: bool) -> None:
            record.history(progress.history)
            with stopwatch.phase("save"):
                saved = save_best(build(config, found, "float32"), progress, record, config)
            with stopwatch.phase("test"):
                scores = score_test(saved, data, record, config) if test else None
            with stopwatch.phase("plots"):
                draw(record, config, data, saved, progress, scores)

        try:
            with stopwatch.phase("training"), TrainingDisplay(config.training.epochs) as display:
                fit(model, data, config, display, progress, after_epoch)
        except KeyboardInterrupt:
            if progress.best is not None:
                leave(test=False)
            done = f"{progress.epochs} of {config.training.epochs} epochs"
            say(f"{shown(record.path)}: interrupted after {done}, which are kept there")
            raise
        if progress.epochs < config.training.epochs:
            patience = config.training.early_stopping.patience
            say(f"stopped early: {patience} epoch{'s' * (patience != 1)} without a better one")
            record.result["stopped_early"] = True
        leave(test=data.test is not None)
        record.seconds(stopwatch.report())
        if not config.training.keep_checkpoint:
            remove_folder(checkpoints)
        conclude(record, data)
    say(f"{shown(record.path)}: done in {stopwatch.report()['total']:.1f} s")
    if job.stands_in_for:
        warn(f"these figures are for {config.data.name}, which stood in for {job.stands_in_for}")
    return record.result


def initialize(model: keras.Model, config: TrainConfig) -> dict[str, Any] | None:
    """With `init_from`, give the model the weights that fit; what came from where, for the record."""
    from mnist_exp.model.save import weights_sha256
    from mnist_exp.model.transfer import load_donor, take_weights

    if config.init_from is None:
        return None
    donor = load_donor(Path(config.init_from))
    transfer = take_weights(model, donor)
    return {
        "run": config.init_from,
        "weights_sha256": weights_sha256(donor),
        "taken": list(transfer.taken),
        "left": list(transfer.left),
    }


def start_record(job: Job, data: Dataset, model: keras.Model, origin: dict[str, Any] | None) -> RunRecord:
    """Make the run's directory and begin its record; tell what is about to be done."""
    from mnist_exp.model.advice import advice
    from mnist_exp.model.card import as_markdown
    from mnist_exp.model.preprocess import count_parameters
    from mnist_exp.tracking.record import RunRecord
    from mnist_exp.tracking.store import tracking_uri

    config, computer = job.config, job.computer
    values = as_values(config)
    parts = {"train": data.train, "val": data.val, "test": data.test}
    about = {
        "fingerprint": fingerprint(
            values,
            data_sha256=data.sha256,
            kind=computer.kind,
            precision=computer.precision,
            threads=computer.threads,
            init_sha256=origin["weights_sha256"] if origin else None,
        ),
        "init_from": origin,
        "overrides": list(job.overrides),
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
            "device": computer.name, "threads": computer.threads, "precision": computer.precision,
            "deterministic": config.device.deterministic,
        },
    }  # fmt: skip
    directory = RunDirectory.create(job.parent, job.name)
    record = RunRecord(directory, values, about, config.tracking, job.sweep)
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in parts.items() if part)
    say(f"run     {shown(record.path)}")
    say(f"data    {config.data.name} from {data.origin}: {sizes}")
    say(f"model   {config.model.name}, {count_parameters(model):,} parameters; aug {config.aug.shown_name}")
    if origin is not None:
        taken = ", ".join(origin["taken"])
        say(f"init    {taken} from {shown(Path(origin['run']))}")
        for sentence in origin["left"]:
            say(f"        not taken: {sentence}")
    say(f"device  {computer}")
    if config.tracking.enabled:
        say(f"tracker {tracking_uri(config.tracking, Path(config.outputs))}")
    card = as_markdown(model, config.training.batch_size)
    card += "".join(f"\n- {remark}" for remark in advice(model)) + "\n"
    write_text(record.path / "architecture.md", card)
    record.artifact("architecture.md")
    record.artifact("config.yaml")
    record.journal.write("note", text=card)
    return record


def save_best(model: keras.Model, progress: Progress, record: RunRecord, config: TrainConfig) -> keras.Model:
    """Save the best epoch in all formats, in float32, and return the model as plain Keras loads it.

    `model` is a float32 twin of the one that was trained.
    """
    from mnist_exp.inference.saved import load
    from mnist_exp.model.save import hdf5_takes, save_model, weights_sha256
    from mnist_exp.training.loop import build_state

    assert progress.best is not None
    assert progress.best_epoch is not None
    build_state(model)
    progress.best.restore(model)
    record.result["weights_sha256"] = weights_sha256(model)
    if not hdf5_takes(model.optimizer):
        say(f"note    model.h5 is without {config.optimizer.type}'s state: Keras has no way to restore it")
    save_model(model, record.path)
    record.best(progress.history[progress.best_epoch - 1])
    record.artifact("history.csv")
    record.artifact("architecture.yaml")
    record.model("model.keras", config.data.shape, config.data.classes)
    return load(record.path / "model.keras")


def score_test(saved: keras.Model, data: Dataset, record: RunRecord, config: TrainConfig) -> Scores:
    """Score the saved model on the test part: the one time that this run looks at it."""
    from mnist_exp.inference.saved import score

    assert data.test is not None
    scores = score(saved, data.test, config.training)
    record.test(scores.metrics)
    return scores


def draw(
    record: RunRecord,
    config: TrainConfig,
    data: Dataset,
    model: keras.Model,
    progress: Progress,
    scores: Scores | None,
) -> None:
    """Draw the run's pictures and give them to the tracker."""
    from mnist_exp.model.advice import advice
    from mnist_exp.model.card import HEADS, RIGHT, as_rows, card
    from mnist_exp.report import plots
    from mnist_exp.training.augment import samples
    from mnist_exp.training.loop import steps_per_epoch
    from mnist_exp.training.selection import rates_with_history

    folder = record.path / "plots"
    folder.mkdir(exist_ok=True)
    title = f"{record.directory.name} · {config.data.name}"
    if record.result["data"]["stands_in_for"]:
        title += f", standing in for {record.result['data']['stands_in_for']}"
    rows = as_rows(card(model), config.training.batch_size)
    plots.architecture(
        HEADS, rows, RIGHT, advice(model), f"{config.model.name} · {title}", folder / "architecture.png"
    )
    for metric in ("accuracy", "loss"):
        plots.curve(progress.history, metric, f"{metric} · {title}", folder / f"{metric}.png", progress.best_epoch)
    steps = steps_per_epoch(len(data.train), config)
    rates = rates_with_history(progress.history, config, steps)
    plots.learning_rate(rates, steps, f"learning rate · {title}", folder / "learning_rate.png")
    originals = data.train.images[:8]
    augmented = samples(config.aug, originals, config.seed, count=9)
    plots.augmentation_sheet(
        originals, augmented, f"aug {config.aug.shown_name} · {title}", folder / "augmentation.png"
    )
    if scores is not None and data.test is not None:
        names = data.class_names
        accuracy = f"test accuracy {scores.metrics['accuracy']:.2%}"
        plots.confusion_matrix(
            data.test.labels,
            scores.predicted,
            names,
            f"{accuracy} · {title}",
            folder / "confusion_matrix.png",
        )
        plots.misclassified(
            data.test.images, data.test.labels, scores.probabilities, names,
            f"misclassified test images · {title}", folder / "misclassified.png",
        )  # fmt: skip
    for picture in sorted(folder.glob("*.png")):
        record.artifact(f"plots/{picture.name}", "plots")


def conclude(record: RunRecord, data: Dataset) -> None:
    """Say what came out."""
    best, test = record.result["best"], record.result["test"]
    chosen = f"epoch {best['epoch']}"
    if "val/accuracy" in best:
        chosen += f" with {best['val/accuracy']:.2%} validation accuracy"
    say(f"saved   {chosen}")
    if test is not None and data.test is not None:
        say(f"test    accuracy {test['accuracy']:.2%}, loss {test['loss']:.4f}, on {len(data.test):,} images")


def shown(path: Path) -> Path:
    """A path as short as it can be said from here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
