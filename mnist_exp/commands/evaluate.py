"""`mnist-exp evaluate`: score a saved model on its own data set or another."""

from __future__ import annotations

import dataclasses
import errno
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_exp.config.command_schemas import EvaluateConfig
from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.engine.preparation import set_up
from mnist_exp.engine.saved_model import Saved, config_of, data_of, refuse_other_form, settle_saved
from mnist_exp.errors import RequestError, WorkError
from mnist_exp.runs.atomic import new_folder, refuse_existing, write_text
from mnist_exp.runs.directory import free_path, stamped
from mnist_exp.runs.fingerprint import LIBRARIES
from mnist_exp.runs.log import say, warn
from mnist_exp.text import display_path

if TYPE_CHECKING:
    from mnist_exp.data.dataset import Dataset, Part
    from mnist_exp.inference.metrics import Assessment
    from mnist_exp.inference.scoring import Scores

_OFTEN = 3  # mistakes listed in the output
_MEANING = {
    "train": "the model was trained on these images: new ones will be harder for it",
    "val": "the saved epoch was chosen by these images: new ones will be a little harder",
}


def evaluate(request: Request, started: float) -> None:
    """Score a saved model; print, write and plot the figures. Raises `RequestError`."""
    config, saved, of_run = settle_saved(request, EvaluateConfig)
    if config.output is not None:
        refuse_existing(Path(config.output).expanduser())
    refuse_withheld(saved, config)
    device = set_up(of_run)
    # The model comes first: one that is damaged or no classifier is reported even if the data is missing.
    model = saved.load()

    from mnist_exp.inference.metrics import assess
    from mnist_exp.inference.scoring import form, score
    from mnist_exp.model.saving import weights_sha256

    shape, classes = form(model, str(display_path(saved.file)))
    data = data_of(of_run, request)
    part = part_of(data, config.part, of_run.data.name)
    refuse_other_form(saved, shape, classes, of_run.data)
    names = agreed_classes(saved, classes, data, of_run)
    scores = score(model, part, of_run.training)
    found = assess(part.labels, scores.probabilities)
    own = saved.result is not None and data.sha256 == saved.result.data.sha256
    about = {
        "model": str(saved.file.resolve()),
        "run": saved.name if saved.run else None,
        "weights_sha256": weights_sha256(model),
        "data": {
            "name": saved.result.data.title if saved.result and own else of_run.data.name,
            "sha256": data.sha256,
            "origin": data.origin,
            "part": config.part,
            "images": len(part),
            "class_names": list(names),
            "of_the_run": own,
        },
        "metrics": scores.metrics,
        **dataclasses.asdict(found),
        "expected_calibration_error": found.calibration.error,
        "device": {"kind": device.kind, "device": device.name, "threads": device.threads},
        "versions": {name: version(name) for name in ("mnist-exp", *LIBRARIES)},
    }
    folder = keep(config, saved, about, part, scores, found)
    print_evaluation(saved, about, scores, found)
    if own and config.part != "test" and not has_runs_split(saved, request, of_run):
        warn(f"the run split its images in another way: it may be trained on some of this {config.part} part")
    elif own:
        tell_meaning(saved, about)
    if own and saved.result and (instead := saved.result.data.stands_in_for):
        warn(f"these figures are for {of_run.data.name}, the fallback for {instead}")
    say(f"kept    {display_path(folder)}")


def print_evaluation(saved: Saved, about: Mapping[str, Any], scores: Scores, found: Assessment) -> None:
    """Print what was evaluated, and its figures."""
    data, device = about["data"], about["device"]
    whose = "" if data["of_the_run"] or saved.run is None else ", not the data of the run"
    say(f"model   {display_path(saved.file)}")
    say(f"data    {data['name']} from {data['origin']}{whose}")
    threads = device["threads"]
    say(f"device  {device['device']}, {threads} thread{'s' * (threads > 1)}, float32")
    tell_figures(scores, found, data["class_names"], data["part"])


def refuse_withheld(saved: Saved, config: EvaluateConfig) -> None:
    """Raise `RequestError` for a trial and the test part, which a search scores for its best trial only."""
    if config.part == "test" and saved.result and saved.result.withholds_test:
        raise RequestError(
            f"{saved.name}: a trial of a search, which keeps the test part from all but its best; "
            "part=val scores it on what it was chosen by"
        )


def has_runs_split(saved: Saved, request: Request, of_run: TrainConfig) -> bool:
    """Whether the data is split as in the run."""
    its = config_of(saved, request, ()).data
    return (of_run.data.val_fraction, of_run.data.split_seed) == (its.val_fraction, its.split_seed)


def tell_meaning(saved: Saved, about: Mapping[str, Any]) -> None:
    """Explain figures on a run's own data, and whether they equal those in its result."""
    part, result = about["data"]["part"], saved.result
    assert result is not None
    if about["weights_sha256"] != result.weights_sha256:
        warn(f"{display_path(saved.file)}: these are not the weights that the run's result.json records")
    if part != "test":
        say(f"note    {_MEANING[part]}")
    elif result.test == about["metrics"]:
        say("same    bit-identical to the run's result.json")
    elif result.test:
        was, now = (
            ", ".join(f"{name} {value:.8g}" for name, value in of.items())
            for of in (result.test, about["metrics"])
        )
        differing = [
            f"{name} {before.get(name)} then, {value} now"
            for before, after in (
                (result.device.model_dump(), about["device"]),
                (result.versions, about["versions"]),
            )
            for name, value in after.items()
            if before.get(name) != value
        ]
        why = "; ".join(differing) or "for no known reason"
        say(f"note    the run's result.json says {was}; this is {now} ({why})")


def part_of(data: Dataset, part: str, name: str) -> Part:
    """Return a part of the data. Raises `RequestError` if there is none."""
    parts = {"train": data.train, "val": data.val, "test": data.test}
    if (found := parts[part]) is None:
        there = " or ".join(f"part={name}" for name, part in parts.items() if part)
        raise RequestError(f"{name} from {data.origin} has no {part} part; {there} scores another")
    return found


def agreed_classes(saved: Saved, classes: int, data: Dataset, config: TrainConfig) -> tuple[str, ...]:
    """Return the names of the classes that the model (it knows `classes` of them) and the data share.

    Raises `RequestError` if the model was trained for classes with other names.
    """
    from mnist_exp.data.dataset import numbered

    names, unnamed = data.class_names, numbered(classes)
    trained = tuple((saved.result and saved.result.data.class_names) or unnamed)
    if names in (trained, unnamed):
        return trained
    if trained != unnamed:
        ours, theirs = (", ".join(listed) for listed in (trained, names))
        raise RequestError(
            f"{config.data.name} has the classes {theirs}, but {saved.name} was trained for {ours}; "
            "data.class_names=[…] names them in the order of the labels"
        )
    if saved.run:
        warn(f"the classes of {saved.name} have no names: class 0 is taken for {names[0]}, 1 for {names[1]}, …")
    return names


def keep(
    config: EvaluateConfig,
    saved: Saved,
    about: Mapping[str, Any],
    part: Part,
    scores: Scores,
    found: Assessment,
) -> Path:
    """Write the figures and pictures into a new folder. Returns it. Raises `RequestError` or `WorkError`."""
    from mnist_exp.inference.metrics import ClassFigures
    from mnist_exp.report import plots
    from mnist_exp.report.predictions import COLUMNS, as_table, two_best

    names, data = about["data"]["class_names"], about["data"]
    title = f"{saved.name} · {data['name']}, {data['part']} part"
    accuracy = f"accuracy {found.accuracy:.2%}, on {len(part):,} images"
    if config.output is not None:
        target = Path(config.output).expanduser()
    else:
        target = free_path(Path(config.outputs) / "evaluate", stamped(saved.name))
    try:
        with new_folder(target) as folder:
            write_text(folder / "evaluation.json", json.dumps(about, indent=2, ensure_ascii=False) + "\n")
            columns = tuple(field.name for field in dataclasses.fields(ClassFigures))
            rows = [(name, *dataclasses.astuple(of)) for name, of in zip(names, found.classes, strict=True)]
            write_text(folder / "per_class.csv", as_table(("class", *columns), rows))
            best = two_best(range(len(part)), scores.probabilities, names)
            rows = [(of.input, names[label], *of.cells) for of, label in zip(best, part.labels, strict=True)]
            write_text(folder / "predictions.csv", as_table(("image", "true", *COLUMNS), rows))
            plots.confusion_matrix(
                part.labels, scores.predicted, names, f"{accuracy}\n{title}", folder / "confusion_matrix.png"
            )
            sure = found.calibration
            plots.reliability(
                sure.accuracy, sure.confidence, sure.counts,
                f"expected calibration error {sure.error:.2%}, on {len(part):,} images\n{title}",
                folder / "reliability.png",
            )  # fmt: skip
            plots.misclassified(
                part.images, part.labels, scores.probabilities, names, f"misclassified · {title}",
                folder / "misclassified.png",
            )  # fmt: skip
    except OSError as error:
        kind = WorkError if error.errno == errno.ENOSPC else RequestError
        raise kind(f"output: {target} cannot be written: {error.strerror}") from error
    return target


def tell_figures(scores: Scores, found: Assessment, names: Sequence[str], part: str) -> None:
    """Print the figures, overall and by class."""
    from mnist_exp.report.tables import percent, print_table

    low, high = (f"{100 * bound:.2f}" for bound in found.interval)
    others = ", ".join(f"{name} {value:.4f}" for name, value in scores.metrics.items() if name != "accuracy")
    images = sum(of.images for of in found.classes)
    say(
        f"{part:<7} accuracy {percent(found.accuracy)}, 95 % interval {low} … {high} (Wilson), "
        f"{others}, on {images:,} images"
    )
    shown_figures = ("precision", "recall", "f1")
    rows = [
        [name, f"{of.images:,}", *(percent(getattr(of, figure)) for figure in shown_figures)]
        for name, of in zip(names, found.classes, strict=True)
    ]
    rows.append(["mean", "", *(percent(found.macro(figure)) for figure in shown_figures)])
    print_table(["class", "images", *shown_figures], rows, right=("images", *shown_figures))
    if never := [
        name for name, of in zip(names, found.classes, strict=True) if of.images and of.precision is None
    ]:
        say(f"note    {', '.join(never)}: never predicted; the mean precision counts it as 0")
    counts = {
        (row, column): count
        for row, line in enumerate(found.confusion)
        for column, count in enumerate(line)
        if row != column and count
    }
    often = sorted(counts, key=lambda pair: -counts[pair])[:_OFTEN]
    if often:
        mistakes = (f"{names[row]} taken for {names[column]}: {counts[row, column]}" for row, column in often)
        say(f"often   {', '.join(mistakes)}")
    sure = found.calibration
    say(
        f"sure    {percent(sure.mean_confidence)} on average, right {percent(found.accuracy)}; "
        f"expected calibration error {percent(sure.error)}, in {len(sure.counts)} bins"
    )
