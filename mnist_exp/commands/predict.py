"""`mnist-exp predict`: classify images with a saved model. `mnist_exp.load` does so from Python."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_exp.config.command_schemas import PredictConfig
from mnist_exp.config.overrides import Request
from mnist_exp.engine.prediction import predictor_of
from mnist_exp.engine.preparation import set_up
from mnist_exp.engine.saved_model import settle_saved
from mnist_exp.errors import RequestError, WorkError
from mnist_exp.runs.atomic import write_text
from mnist_exp.runs.log import say
from mnist_exp.text import display_path, escape_controls

if TYPE_CHECKING:
    from mnist_exp.inference.predictor import Predictor
    from mnist_exp.report.predictions import Prediction


def predict(request: Request, started: float) -> None:
    """Classify the inputs, and print or write the classes. Raises `RequestError`."""
    config, saved, of_run = settle_saved(request, PredictConfig)
    refuse_existing(config)
    # Predictions on standard output are for another program: print nothing else there.
    tell = partial(print, file=sys.stderr, flush=True) if config.output is None and config.format else say
    set_up(of_run)
    predictor = predictor_of(saved, of_run, config.predict.normalize)
    tell(f"model   {display_path(saved.file)}")
    predictions, problems = classify(predictor, config, tell)
    if problems and (not config.predict.skip_bad or not predictions):
        advice = "\npredict.skip_bad=true leaves them out" if predictions and config.format != "kaggle" else ""
        raise RequestError(listed(problems, len(predictions)) + advice)
    write(predictions, config, tell)
    if problems:
        tell(f"warning: {listed(problems, len(predictions))}")


def refuse_existing(config: PredictConfig) -> None:
    """Raise `RequestError` if the output file exists or cannot be written."""
    if config.output is None:
        return
    file = Path(config.output).expanduser()
    if file.exists():
        raise RequestError(f"output={config.output}: already exists; name a new file")
    folder = next(parent for parent in file.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise RequestError(f"output={config.output}: {folder} cannot be written")


def classify(
    predictor: Predictor, config: PredictConfig, tell: Callable[[str], None]
) -> tuple[list[Prediction], list[RequestError]]:
    """Return the predictions for the readable inputs, in their order, and the problems of the others."""
    from mnist_exp.inference.inputs import find_inputs, read_inputs
    from mnist_exp.report.predictions import two_best

    assert config.inputs is not None
    note = lambda text: tell(f"note    {text}")  # noqa: E731
    files, problems = find_inputs(config.inputs, note)
    predictions: list[Prediction] = []
    for batch in read_inputs(
        files, predictor.shape, normalized=predictor.normalizes, tell=note, refuse=problems.append
    ):
        predictions += two_best(batch.names, predictor.predict(batch.images), predictor.class_names)
    return predictions, problems


def listed(problems: Sequence[RequestError], good: int) -> str:
    """Format the problems of inputs that could not be read."""
    if len(problems) == 1 and not good:
        return str(problems[0])
    bad = f"{len(problems)} input{'s' * (len(problems) > 1)} cannot be classified"
    return "\n  ".join([f"{bad}, {good:,} image{'s' * (good != 1)} can:", *map(str, problems)])


def write(predictions: Sequence[Prediction], config: PredictConfig, tell: Callable[[str], None]) -> None:
    """Write the predictions in the requested format. Raises `RequestError` or `WorkError`."""
    from mnist_exp.report.predictions import as_csv, as_json_lines, as_submission, print_predictions

    if config.written_format is None:
        print_predictions(predictions)
        return
    text = {"csv": as_csv, "jsonl": as_json_lines, "kaggle": as_submission}[config.written_format](predictions)
    if config.output is None:
        # A program gets the names as they are, a terminal escaped.
        print(escape_controls(text) if sys.stdout.isatty() else text, end="", flush=True)
        return
    file = Path(config.output).expanduser()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except OSError as error:
        raise WorkError(f"{error.filename or file}: cannot be written: {error.strerror}") from error
    tell(f"written {display_path(file)}: {len(predictions):,} images")
