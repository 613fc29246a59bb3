"""`mnist-exp predict`: classify images with a saved model. `mnist_exp.load` does the same from Python."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mnist_exp.config.command_schemas import PredictConfig
from mnist_exp.config.overrides import Request, key_of, override_value
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.engine.preparation import set_up
from mnist_exp.engine.saved_model import resolve_saved
from mnist_exp.errors import Problem, RequestError
from mnist_exp.report.documents import PredictDocument
from mnist_exp.runs.log import say
from mnist_exp.text import display_path

_LABEL_COLUMN = "data.label_column"


def predict(request: Request, started: float) -> PredictDocument:
    """Classify the inputs, and print or write the classes. Raises `RequestError`."""
    request, label_column = take_label_column(request)
    config, saved, of_run = resolve_saved(request, PredictConfig)
    refuse_existing(config)
    # Predictions on standard output are for another program: print nothing else there.
    tell = partial(print, file=sys.stderr, flush=True) if config.output is None and config.format else say
    from mnist_exp.inference.inputs import find_inputs  # NumPy

    assert config.inputs is not None
    notes: list[str] = []
    files, problems = find_inputs(config.inputs, notes.append)
    if not files:  # before the model is loaded, which takes many times longer
        raise RequestError(format_problems(problems, 0))
    set_up(of_run)
    from mnist_exp.engine.classification import classify, input_sheets, make_predictor  # Keras, Matplotlib
    from mnist_exp.report.predictions import predict_document, write_predictions  # NumPy

    predictor = make_predictor(saved, of_run, config.predict.normalize, label_column, many=config.predict.many)
    tell(f"model   {display_path(saved.file)}")
    with input_sheets(config, saved, of_run.plots.dpi, tell) as sheets:
        for text in notes:
            tell(f"note    {text}")
        predictions, unreadable = classify(predictor, files, config, sheets, tell)
        problems += unreadable
        if problems and (not config.predict.skip_bad or not predictions):
            advice = "\npredict.skip_bad=true skips them" if predictions and config.format != "kaggle" else ""
            raise RequestError(format_problems(problems, len(predictions)) + advice)
    if config.format != "json":
        write_predictions(predictions, config, tell)
    if problems:
        tell(f"warning: {format_problems(problems, len(predictions))}")
    return predict_document(saved.file, predictions, list(map(str, problems)))


def take_label_column(request: Request) -> tuple[Request, int | str | None]:
    """Return the request without `data.label_column`, and its value, which describes the inputs of any run.

    Raises `RequestError` if the value is invalid.
    """
    kept = tuple(text for text in request.overrides if key_of(text) != _LABEL_COLUMN)
    if kept == request.overrides:
        return request, None
    value = override_value(request, _LABEL_COLUMN)
    if isinstance(value, bool) or not isinstance(value, int | str | None):
        text = next(text for text in reversed(request.overrides) if key_of(text) == _LABEL_COLUMN)
        message = f"{text}: must be the name or number of a column"
        raise RequestError([Problem("wrong-type", COMMAND_LINE, message, _LABEL_COLUMN)])
    return replace(request, overrides=kept), value


def refuse_existing(config: PredictConfig) -> None:
    """Raise `RequestError` if the output file or folder exists or cannot be written."""
    for key, value, kind in (
        ("output", config.output, "file"),
        ("predict.save_inputs", config.predict.save_inputs, "folder"),
    ):
        if value is None:
            continue
        path = Path(value).expanduser()
        if path.exists():
            raise RequestError(f"{key}={value}: already exists; give a new {kind}")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise RequestError(f"{key}={value}: {folder} cannot be written")


def format_problems(problems: Sequence[RequestError], good: int) -> str:
    """Format the problems of inputs that could not be read."""
    if len(problems) == 1 and not good:
        return str(problems[0])
    bad = f"{len(problems)} input{'s' * (len(problems) > 1)} cannot be classified"
    return "\n  ".join([f"{bad} ({good:,} image{'s' * (good != 1)} can):", *map(str, problems)])
