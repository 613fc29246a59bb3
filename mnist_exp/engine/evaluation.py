"""Score a saved model on labelled images; print, write and plot the results."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras

from mnist_exp.config.command_schemas import EvaluateConfig
from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.data.dataset import SET_NAMES, Dataset, Part, Shape, default_class_names, first_class_names
from mnist_exp.data.quality import light_background
from mnist_exp.engine.bounds import check_bounds, measured_values, refuse_missed
from mnist_exp.engine.saved_model import (
    Saved,
    compose_run_config,
    load_data,
    model_class_names,
    names_for_other_data,
    refuse_other_form,
)
from mnist_exp.errors import RequestError
from mnist_exp.inference.labelled_photographs import read_labelled_photographs
from mnist_exp.inference.metrics import Assessment, ClassFigures, assess
from mnist_exp.inference.outside_preprocessing import find_scaling
from mnist_exp.inference.scoring import Scores, inspect_classifier, score
from mnist_exp.model.saving import weights_sha256
from mnist_exp.report import plots
from mnist_exp.report.documents import BoundEntry, ClassEntry, EvaluatedData, EvaluateDocument
from mnist_exp.report.figure import resolution
from mnist_exp.report.predictions import COLUMNS, as_table, top_two
from mnist_exp.report.progress import images_bar
from mnist_exp.report.tables import print_table
from mnist_exp.runs.atomic import cannot_write, new_folder, write_text
from mnist_exp.runs.directory import add_timestamp, free_path
from mnist_exp.runs.fingerprint import LIBRARIES
from mnist_exp.runs.log import say, warn
from mnist_exp.text import count_images, display_path, format_loss, format_percent
from mnist_exp.training.device import Device

_MOST_MISTAKES = 3  # listed in the output
_MOST_CLASSES, _WORST_CLASSES = 30, 10  # of more classes, the worst are listed in the output
_PHOTOGRAPHS = "; normalize=true finds and scales the digits in photographs of digits"
_MEANING = {
    "train": "the model was trained on these images; expect lower accuracy on new ones",
    "val": "the saved epoch was selected on these images; expect a lower accuracy on new ones",
}


@dataclasses.dataclass(frozen=True)
class ImagesToScore:
    """A data set, and what is known about each image of the part to score."""

    data: Dataset
    names: Sequence[str] = ()
    """The path of each photograph; empty for images that are known by their index."""
    warnings: Sequence[str] = ()
    """Why each photograph might not show exactly one digit; empty if it looks like one."""


def evaluate_model(
    request: Request, config: EvaluateConfig, saved: Saved, run_config: TrainConfig, device: Device
) -> EvaluateDocument:
    """Score a saved model; print, write and plot the results, and return them as a document.

    Args:
        request: The command line.
        config: The verb's own config.
        saved: The model.
        run_config: The config of the model's run, with the overrides of the command line.
        device: The device on which TensorFlow was started.

    Raises:
        RequestError: The model or the data is unusable, or they do not fit each other.
        WorkError: The disk is full.
    """
    # Load the model first: if it is damaged or not a classifier, that is reported even if the data is missing.
    model = saved.load()
    shape, classes = inspect_classifier(model, str(display_path(saved.file)))
    images = load_images(request, config, saved, run_config, shape)
    data, config = images.data, with_part(config, images.data)
    part = select_part(data, str(config.part), run_config.data.name)
    refuse_other_form(saved, shape, classes, run_config.data)
    names = resolve_class_names(saved, classes, data, run_config)
    _warn_of_other_pixels(saved, model, part, run_config)
    scores = score(model, part, run_config.training)
    assessment = assess(part.labels, scores.probabilities)
    is_runs_data = bool(saved.result and data.sha256 == saved.result.data.sha256)
    about = {
        "model": str(saved.file.resolve()),
        "run": saved.name if saved.run else None,
        "weights_sha256": weights_sha256(model),
        "data": {
            **_describe_part(data, part, config),
            "name": saved.result.data.title if saved.result and is_runs_data else run_config.data.name,
            "class_names": list(names),
            "of_the_run": is_runs_data,
        },
        **_figures(scores, assessment),
        **environment(device),
    }
    bounds = check_bounds(config, measured_values(saved, str(config.part), scores, assessment))
    with resolution(run_config.plots.dpi):
        folder = write_evaluation(config, saved, about, part, images, scores, assessment)
    print_evaluation(saved, about, scores, assessment)
    if is_runs_data:
        qualify_figures(request, saved, run_config, about)
    say(f"saved   {display_path(folder)}")
    refuse_missed(document := as_document(about, assessment, folder, saved if is_runs_data else None, bounds))
    return document


def load_images(
    request: Request, config: EvaluateConfig, saved: Saved, run_config: TrainConfig, shape: Shape
) -> ImagesToScore:
    """Load the data to score; with `normalize`, photographs in MNIST style. Raises `RequestError`."""
    trained = names_for_other_data(saved, run_config)
    if config.normalize:
        if shape[2] != 1:
            raise RequestError(f"normalize: {saved.name} takes colour images, but MNIST style is grey")
        names = trained or model_class_names(saved, run_config)
        found = read_labelled_photographs(run_config.data, config.part, shape, names, say, images_bar)
        say(f"note    one digit is read from each of {len(found.paths):,} image files, in MNIST style")
        if doubtful := sum(map(bool, found.warnings)):
            warn(f"{doubtful} of {len(found.paths)} images might not show exactly one digit; see predictions.csv")
        return ImagesToScore(found.data, found.paths, found.warnings)
    if shape[2] == 1 and run_config.data.source == "folder":
        run_config = run_config.model_copy(update={"data": run_config.data.model_copy().for_model(_PHOTOGRAPHS)})
    data = load_data(run_config, request, trained if config.part in (None, "test") else None)
    if saved.result and not data.train and data.sha256 == saved.result.data.sha256:
        data = load_data(run_config, request)  # a copy of the run's own data: split it as in training
    return ImagesToScore(data)


def _warn_of_other_pixels(saved: Saved, model: keras.Model, part: Part, config: TrainConfig) -> None:
    """Warn if the images seem inverted, or if a model from plain Keras seems to expect scaled pixels."""
    scaling = "" if saved.settings is not None else find_scaling(model, part.images)
    light = light_background(part)
    if light and config.data.source == "folder":
        light += "; normalize=true converts photographs and scans to MNIST style"
    for remark in filter(None, (light, scaling)):
        warn(remark)


def _describe_part(data: Dataset, part: Part, config: EvaluateConfig) -> dict[str, Any]:
    """Return the values that identify the scored images."""
    return {
        "sha256": data.sha256,
        "origin": data.origin,
        "part": config.part,
        "images": len(part),
        "normalized": config.normalize,
    }


def _figures(scores: Scores, assessment: Assessment) -> dict[str, Any]:
    """Return all metrics by name."""
    error = assessment.calibration.error
    return {"metrics": scores.metrics, **dataclasses.asdict(assessment), "expected_calibration_error": error}


def as_document(
    about: Mapping[str, Any],
    assessment: Assessment,
    folder: Path,
    of_run: Saved | None,
    bounds: Sequence[BoundEntry],
) -> EvaluateDocument:
    """Return the results as a document; `of_run` is the model if it was scored on its run's data."""
    fallback_for = of_run.result.data.stands_in_for if of_run and of_run.result else None
    return EvaluateDocument(
        model=about["model"],
        run=about["run"],
        weights_sha256=about["weights_sha256"],
        data=EvaluatedData(**about["data"], fallback_for=fallback_for),
        metrics=about["metrics"],
        accuracy=assessment.accuracy,
        interval=assessment.interval,
        classes=[
            ClassEntry(name=name, **dataclasses.asdict(figures))
            for name, figures in zip(about["data"]["class_names"], assessment.classes, strict=True)
        ],
        confusion=[list(row) for row in assessment.confusion],
        expected_calibration_error=assessment.calibration.error,
        bounds=list(bounds),
        folder=str(folder.resolve()),
    )


def with_part(config: EvaluateConfig, data: Dataset) -> EvaluateConfig:
    """Return the config with the part of the data to score: the requested one, else test, else validation."""
    return config if config.part else config.model_copy(update={"part": "test" if data.test else "val"})


def environment(device: Device) -> dict[str, Any]:
    """Return the device and the library versions that the results were computed with."""
    return {
        "device": {"kind": device.kind, "device": device.name, "threads": device.threads},
        "versions": {name: version(name) for name in ("mnist-exp", *LIBRARIES)},
    }


def qualify_figures(request: Request, saved: Saved, run_config: TrainConfig, about: Mapping[str, Any]) -> None:
    """Print caveats about results on the data of the model's own run."""
    part = about["data"]["part"]
    if part != "test" and not has_runs_split(saved, request, run_config):
        warn("the run split its images differently, so it may have been trained on some of these images")
    else:
        explain_figures(saved, about)
    if saved.result and (instead := saved.result.data.stands_in_for):
        warn(f"these results are for {run_config.data.name}, the fallback for {instead}")


def print_evaluation(saved: Saved, about: Mapping[str, Any], scores: Scores, assessment: Assessment) -> None:
    """Print what was evaluated, and the results."""
    data, device = about["data"], about["device"]
    whose = "" if data["of_the_run"] or saved.run is None else ", not the data of the run"
    say(f"model   {display_path(saved.file)}")
    say(f"data    {data['name']} from {data['origin']}{whose}")
    threads = device["threads"]
    say(f"device  {device['device']}, {threads} thread{'s' * (threads > 1)}, float32")
    print_figures(scores, assessment, data["class_names"], data["part"])


def has_runs_split(saved: Saved, request: Request, run_config: TrainConfig) -> bool:
    """Return whether the data is split as in the model's run."""
    its = compose_run_config(saved, request, ()).data
    return (run_config.data.val_fraction, run_config.data.split_seed) == (its.val_fraction, its.split_seed)


def explain_figures(saved: Saved, about: Mapping[str, Any]) -> None:
    """Explain results on a run's own data, and report whether they equal those in its `result.json`."""
    part, result = about["data"]["part"], saved.result
    assert result is not None
    if about["weights_sha256"] != result.weights_sha256:
        warn(f"{display_path(saved.file)}: its weights differ from those recorded in the run's result.json")
    if part != "test":
        say(f"note    {_MEANING[part]}")
        recorded = (result.best or {}).get("val/accuracy")
        if part == "val" and recorded is not None and abs(recorded - about["metrics"]["accuracy"]) > 1e-6:
            computed = f", computed in {result.device.precision}" if result.device.precision else ""
            say(f"note    during training, the accuracy was {format_percent(recorded)}{computed}")
    elif result.test == about["metrics"]:
        say("same    bit-identical to the results in the run's result.json")
    elif result.test:
        was, now = (
            ", ".join(f"{name} {value:.8g}" for name, value in metrics.items())
            for metrics in (result.test, about["metrics"])
        )
        differing = [
            f"{name} was {before.get(name)}, is {value}"
            for before, after in (
                (result.device.model_dump(), about["device"]),
                (result.versions, about["versions"]),
            )
            for name, value in after.items()
            if before.get(name) != value
        ]
        why = "; ".join(differing) or "reason unknown"
        say(f"note    the run's result.json has {was}; this evaluation gave {now} ({why})")


def select_part(data: Dataset, part: str, name: str) -> Part:
    """Return a part of the data. Raises `RequestError` if the data has no such part."""
    if not (selected := data.parts[part]):
        there = " or ".join(f"part={name}" for name, part in data.parts.items() if part)
        raise RequestError(f"{name} from {data.origin} has no {SET_NAMES[part]}; use {there}")
    return selected


def resolve_class_names(saved: Saved, classes: int, data: Dataset, config: TrainConfig) -> tuple[str, ...]:
    """Return the class names of the model, which must be those of the data.

    A model whose classes have no names takes those of the data. `classes` is the model's number of classes. Raises
    `RequestError` if the names differ.
    """
    names, unnamed = data.class_names, default_class_names(classes)
    trained = first_class_names(classes, saved.result.data.class_names if saved.result else None)
    if names in (trained, unnamed):
        return trained
    if trained != unnamed:
        ours, theirs = (", ".join(listed) for listed in (trained, names))
        raise RequestError(
            f"{config.data.name} has the classes {theirs}, but {saved.name} was trained on {ours}; "
            "set their names in label order with 'data.class_names=[…]'"
        )
    if saved.run:
        warn(f"the classes of {saved.name} have no names: assuming that class 0 is {names[0]}, 1 is {names[1]}, …")
    return names


def write_evaluation(
    config: EvaluateConfig,
    saved: Saved,
    about: Mapping[str, Any],
    part: Part,
    images: ImagesToScore,
    scores: Scores,
    assessment: Assessment,
) -> Path:
    """Write results and plots into a new folder, and return its path. Raises `RequestError` or `WorkError`."""
    names, data = about["data"]["class_names"], about["data"]
    title = f"{saved.name} · {data['name']}, {SET_NAMES[data['part']]}"
    accuracy = f"accuracy {format_percent(assessment.accuracy)}, on {count_images(len(part))}"
    if config.output is not None:
        target = Path(config.output).expanduser()
    else:
        target = free_path(Path(config.outputs) / "evaluate", add_timestamp(saved.name))
    try:
        with new_folder(target) as folder:
            write_text(folder / "evaluation.json", json.dumps(about, indent=2, ensure_ascii=False) + "\n")
            columns = tuple(field.name for field in dataclasses.fields(ClassFigures))
            rows = [
                (name, *dataclasses.astuple(figures))
                for name, figures in zip(names, assessment.classes, strict=True)
            ]
            write_text(folder / "per_class.csv", as_table(("class", *columns), rows))
            write_text(folder / "predictions.csv", _predictions_table(part, images, scores, names))
            plots.confusion_matrix(
                part.labels, scores.predicted, names, f"{accuracy}\n{title}", folder / "confusion_matrix.png"
            )
            calibration = assessment.calibration
            plots.reliability(
                calibration.accuracy, calibration.confidence, calibration.counts,
                f"expected calibration error {format_percent(calibration.error)}, on {len(part):,} images\n"
                f"{title}",
                folder / "reliability.png",
            )  # fmt: skip
            plots.misclassified(
                part.images, part.labels, scores.probabilities, names, f"misclassified · {title}",
                folder / "misclassified.png",
            )  # fmt: skip
    except OSError as error:
        raise cannot_write(error, target) from error
    return target


def _predictions_table(part: Part, images: ImagesToScore, scores: Scores, names: Sequence[str]) -> str:
    """Return a line for each image as CSV: its index or path, its class, `COLUMNS`, and what else is known.

    That is the warning of a photograph, or the path of another image that has its own file.
    """
    best = top_two(images.names or range(len(part)), scores.probabilities, names)
    key, values = ("warning", images.warnings) if images.names else ("path", part.paths)
    extra = [[value] for value in values] or [[]] * len(part)
    rows = [
        (prediction.input, names[label], *prediction.cells, *cells)
        for prediction, label, cells in zip(best, part.labels, extra, strict=True)
    ]
    return as_table(("image", "true", *COLUMNS, *[key] * bool(values)), rows)


def print_figures(scores: Scores, assessment: Assessment, names: Sequence[str], part: str) -> None:
    """Print the results, overall and by class."""
    low, high = (f"{100 * bound:.2f}" for bound in assessment.interval)
    others = ", ".join(
        f"{name} {format_loss(value)}" for name, value in scores.metrics.items() if name != "accuracy"
    )
    images = sum(figures.images for figures in assessment.classes)
    say(
        f"{part:<7} accuracy {format_percent(assessment.accuracy)}, 95 % interval {low} … {high} (Wilson), "
        f"{others}, on {count_images(images)}"
    )
    print_class_figures(assessment, names)
    if mistakes := most_frequent_mistakes(assessment, names):
        say(f"confused {', '.join(mistakes)}")
    calibration = assessment.calibration
    say(
        f"confidence {format_percent(calibration.mean_confidence)} on average, "
        f"accuracy {format_percent(assessment.accuracy)}; "
        f"expected calibration error {format_percent(calibration.error)}, in {len(calibration.counts)} bins"
    )


def print_class_figures(assessment: Assessment, names: Sequence[str]) -> None:
    """Print a table of metrics by class (of many, the worst), and the classes that were never predicted."""
    columns = ("precision", "recall", "f1")
    by_class = list(zip(names, assessment.classes, strict=True))
    listed = by_class
    if len(by_class) > _MOST_CLASSES:
        with_images = [pair for pair in by_class if pair[1].images]
        listed = sorted(with_images, key=lambda pair: pair[1].f1 or 0.0)[:_WORST_CLASSES]
        say(f"classes the {len(listed)} of {len(by_class)} with the lowest F1; per_class.csv has all")
    rows = [
        [name, f"{figures.images:,}", *(format_percent(getattr(figures, column)) for column in columns)]
        for name, figures in listed
    ]
    rows.append(["mean", "", *(format_percent(assessment.macro(column)) for column in columns)])
    print_table(["class", "images", *columns], rows, right=("images", *columns))
    if never := [name for name, figures in by_class if figures.images and figures.precision is None]:
        others = f" and {len(never) - _WORST_CLASSES} more" if len(never) > _WORST_CLASSES else ""
        names = ", ".join(never[:_WORST_CLASSES])
        say(f"note    {names}{others}: never predicted; counted as 0 in the mean precision")


def most_frequent_mistakes(assessment: Assessment, names: Sequence[str]) -> list[str]:
    """Return descriptions of the pairs of classes that are confused most often, the most frequent first.

    The last description is the number of pairs that are left out although they are as frequent as the last one.
    """
    counts = {
        (row, column): count
        for row, line in enumerate(assessment.confusion)
        for column, count in enumerate(line)
        if row != column and count
    }
    most = sorted(counts, key=lambda pair: -counts[pair])[:_MOST_MISTAKES]
    texts = [f"{names[row]} → {names[column]}: {_format_times(counts[row, column])}" for row, column in most]
    ties = sum(count >= counts[most[-1]] for count in counts.values()) - len(most) if most else 0
    if ties:
        texts.append(
            f"{ties} other pair{'s' * (ties != 1)}: {_format_times(counts[most[-1]])}{' each' * (ties != 1)}"
        )
    return texts


def _format_times(count: int) -> str:
    return f"{count} time{'s' * (count != 1)}"
