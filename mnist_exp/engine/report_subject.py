"""Collect what a run's report shows: its records and, if they exist, its model, its data and its predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.data.dataset import Dataset, Part, Source, first_class_names
from mnist_exp.data.formats import prepare
from mnist_exp.engine.picture_subject import select_part
from mnist_exp.engine.preparation import resolve_data, set_up
from mnist_exp.engine.saved_model import (
    Saved,
    compose_run_config,
    find_run_model,
    names_for_other_data,
    refuse_other_form,
    split_overrides,
)
from mnist_exp.errors import RequestError
from mnist_exp.inference.metrics import Assessment, assess
from mnist_exp.inference.scoring import Scores, inspect_classifier, score
from mnist_exp.runs.directory import MODEL, RunSummary, read_history
from mnist_exp.runs.lookup import read_config
from mnist_exp.text import display_path

if TYPE_CHECKING:
    import keras


_MOST_EPOCHS = 1000  # shown in charts and tables


@dataclass
class Scored:
    """A model's predictions for a part of the data."""

    model: keras.Model
    name: str
    """The part: test, val or train."""
    part: Part
    class_names: tuple[str, ...]
    scores: Scores
    assessment: Assessment


@dataclass
class ReportSubject:
    """The files of a run that exist and can be read, and what was computed from them."""

    summary: RunSummary
    values: Mapping[str, Any] = field(default_factory=dict)
    """The resolved config; empty if it cannot be read."""
    history: Sequence[Mapping[str, float]] = ()
    """The epochs, each with the same columns."""
    config: TrainConfig | None = None
    source: Source | None = None
    data: Dataset | None = None
    scored: Scored | None = None
    missing: list[str] = field(default_factory=list)
    """The parts that the report lacks, each with the reason."""


def collect_subject(request: Request, run: RunSummary) -> ReportSubject:
    """Collect what exists of a run. Overrides of `data` and `device` in the request apply to the run's config."""
    subject = ReportSubject(run)
    try:
        subject.values = read_config(run.path)
    except RequestError as error:
        subject.missing.append(f"the config, and all that depends on it: {error}")
    try:
        subject.history = same_columns(read_history(run.path))
    except RequestError as error:
        subject.missing.append(f"the curves: {error}")
    if subject.values:
        _collect_data(subject, request)
    if subject.config is not None:
        try:
            _score_model(subject)
        except RequestError as error:
            subject.missing.append(f"the model, and the pictures of what it does: {error}")
    return subject


def same_columns(history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Return the epochs with the columns that all of them have; of many epochs, evenly spaced ones."""
    rows = [row for row in history if "epoch" in row]
    stride = -(-len(rows) // _MOST_EPOCHS) or 1
    rows = rows[::-1][::stride][::-1]
    return [{key: row[key] for key in row if all(key in other for other in rows)} for row in rows]


def _collect_data(subject: ReportSubject, request: Request) -> None:
    """Compose the run's config, start TensorFlow as it says, and load the data."""
    _, over_run = split_overrides(request)
    run = subject.summary
    try:
        # Data that was the fallback in the run is named by its config.
        saved = Saved(run.name, run.path / MODEL, run.path, run.result, run.path)
        subject.config = config = compose_run_config(saved, request, over_run)
        with suppress(RequestError):  # any device will do, and one process has only one
            set_up(config)
        source = resolve_data(request, config, names_for_other_data(saved, config))[2]
        subject.data = prepare(source, config.data.model_copy(update={"balance": None}))
        subject.source = source
    except RequestError as error:
        subject.missing.append(f"the data, and the pictures that need it: {error}")


def _score_model(subject: ReportSubject) -> None:
    """Load the model and score it on the test set, else validation, else training. Raises `RequestError`."""
    config, data, run = subject.config, subject.data, subject.summary
    assert config is not None
    saved = find_run_model(run)
    model = saved.load()
    if data is None:
        return
    shape, classes = inspect_classifier(model, str(display_path(saved.file)))
    refuse_other_form(saved, shape, classes, config.data)
    name, part = select_part(data, saved)
    scores = score(model, part, config.training)
    names = first_class_names(classes, run.result.data.class_names, data.class_names)
    subject.scored = Scored(model, name, part, names, scores, assess(part.labels, scores.probabilities))
