"""Classify images with a saved model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from mnist_exp.config.command_schemas import PredictConfig
from mnist_exp.config.schema import DataConfig, TrainConfig
from mnist_exp.data.dataset import first_class_names
from mnist_exp.data.label_column import LabelColumn
from mnist_exp.engine.saved_model import Saved, normalizes
from mnist_exp.errors import RequestError, WorkError
from mnist_exp.inference.inputs import Batch, PictureOptions, read_inputs
from mnist_exp.inference.outside_preprocessing import find_scaling
from mnist_exp.inference.predictor import Predictor
from mnist_exp.inference.scoring import inspect_classifier
from mnist_exp.report.class_labels import class_labels
from mnist_exp.report.figure import resolution
from mnist_exp.report.input_sheets import InputSheets, ReadPicture
from mnist_exp.report.predictions import Prediction, top_two
from mnist_exp.report.progress import images_bar
from mnist_exp.runs.atomic import new_folder
from mnist_exp.runs.directory import add_timestamp
from mnist_exp.text import display_path, format_percent

_SHORT_NAME, _LONGEST_NAME = 8, 20  # columns


def make_predictor(
    saved: Saved,
    config: TrainConfig,
    normalize: bool | None,
    label_column: int | str | None = None,
    *,
    many: bool = False,
) -> Predictor:
    """Load a saved model with the class names and settings of its run. Raises `RequestError`.

    If `many` is set, the predictor must be able to find several digits in one picture. `label_column` is the
    column with the labels in CSV files; None: that of the run's data, if it was read from CSV files.
    """
    model = saved.load()
    shape, classes = inspect_classifier(model, str(display_path(saved.file)))
    trained = saved.result.data.class_names if saved.result else None
    names = first_class_names(classes, config.data.class_names, trained)
    if normalize and shape[2] != 1:
        raise RequestError(f"predict.normalize: must be false, as {saved.name} takes colour images")
    if normalize is None:
        normalize = normalizes(saved, config, shape)
    if many and not normalize:
        advice = "; set predict.normalize=true" if shape[2] == 1 else ", but the model takes colour images"
        raise RequestError(f"predict.many: needs inputs that are converted to MNIST style{advice}")
    labels = _label_column(config.data, label_column)
    return Predictor(model, names, config, shape, normalize, saved.settings is not None, labels)


def _label_column(data: DataConfig, given: int | str | None) -> LabelColumn:
    if given is not None:
        return LabelColumn(given, is_given=True)
    if data.source != "csv":
        return LabelColumn()
    first = data.label_offset or 0
    return LabelColumn(
        0 if data.label_column is None else data.label_column, labels=range(first, first + data.classes)
    )


@contextmanager
def input_sheets(
    config: PredictConfig, saved: Saved, dpi: int, tell: Callable[[str], None]
) -> Iterator[InputSheets | None]:
    """Yield an object that draws the inputs into a new folder, in `dpi` pixels per inch; None unless requested.

    If the block fails, the folder is removed.
    """
    wanted = config.predict.save_inputs
    if wanted is None and not config.predict.many:
        yield None
        return
    path = Path(wanted).expanduser() if wanted else Path(config.outputs) / "predict" / add_timestamp(saved.name)
    try:
        with resolution(dpi), new_folder(path) as folder:
            sheets = InputSheets(folder, f"{saved.name}: inputs")
            yield sheets
            sheets.finish()
    except OSError as error:
        raise WorkError(f"{error.filename or path}: cannot be written: {error.strerror}") from error
    pages = f"{sheets.pages} page{'s' * (sheets.pages != 1)}" if sheets.pages else "no image files"
    tell(f"inputs  {display_path(path)}: {pages}")


def classify(
    predictor: Predictor,
    files: Sequence[str],
    config: PredictConfig,
    sheets: InputSheets | None,
    tell: Callable[[str], None],
) -> tuple[list[Prediction], list[RequestError]]:
    """Return the predictions for the readable files, in their order, and the problems of the others."""
    note = lambda text: tell(f"note    {text}")  # noqa: E731
    predictions: list[Prediction] = []
    problems: list[RequestError] = []
    is_known = predictor.is_of_run  # a run's model takes raw pixels
    options = PictureOptions(
        predictor.normalizes,
        predictor.config.data.resize,
        many=config.predict.many,
        keep_originals=sheets is not None,
    )
    with images_bar("reading", len(files), tell, sys.stderr) as advance:
        for batch in read_inputs(
            _counting(files, advance),
            predictor.shape,
            options,
            tell=note,
            refuse=problems.append,
            scale=predictor.config.data.scale,
            labels=predictor.labels,
        ):
            if not is_known and (remark := find_scaling(predictor.model, batch.images)):
                tell(f"warning: {remark}")
            is_known = True
            found = top_two(batch.names, predictor.predict(batch.images), predictor.class_names)
            if batch.readings:
                found = [
                    replace(one, warning=reading.warning, box=reading.box)
                    for one, reading in zip(found, batch.readings, strict=True)
                ]
            if sheets is not None:
                _add_to_sheets(sheets, batch, found, predictor.class_names)
            predictions += found
    if doubtful := sum(bool(prediction.warning) for prediction in predictions):
        rows = "digits found" if config.predict.many else "images"
        tell(f"warning: {doubtful} of {len(predictions)} {rows} might not show exactly one digit")
    return predictions, problems


def _add_to_sheets(
    sheets: InputSheets, batch: Batch, predictions: Sequence[Prediction], class_names: Sequence[str]
) -> None:
    """Draw each picture of a batch with everything that was read in it."""
    labels = class_labels(class_names, _LONGEST_NAME)
    entries = zip(batch.originals, batch.readings, predictions, strict=True)
    for _, group in groupby(entries, key=lambda entry: id(entry[0])):
        originals, readings, found = zip(*group, strict=True)
        between = "  " if max(map(len, labels)) <= _SHORT_NAME else "\n"
        captions = [f"{labels[one.label]}{between}{format_percent(one.probability)}" for one in found]
        sheets.add(ReadPicture(str(found[0].input), originals[0], readings, captions))


def _counting(files: Sequence[str], advance: Callable[[int], None]) -> Iterator[str]:
    """Yield the files, advancing the progress bar after each."""
    for file in files:
        yield file
        advance(1)
