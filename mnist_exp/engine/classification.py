"""Classify images with a saved model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

from mnist_exp.config.command_schemas import PredictConfig
from mnist_exp.config.schema import TrainConfig
from mnist_exp.data.dataset import default_class_names
from mnist_exp.engine.saved_model import Saved, normalizes
from mnist_exp.errors import RequestError
from mnist_exp.inference.inputs import find_inputs, read_inputs
from mnist_exp.inference.outside_preprocessing import find_scaling
from mnist_exp.inference.predictor import Predictor
from mnist_exp.inference.scoring import inspect_classifier
from mnist_exp.report.predictions import (
    Prediction,
    top_two,
)
from mnist_exp.report.progress import images_bar
from mnist_exp.text import display_path


def make_predictor(saved: Saved, config: TrainConfig, normalize: bool | None) -> Predictor:
    """Load a saved model with the class names and settings of its run. Raises `RequestError`."""
    model = saved.load()
    shape, classes = inspect_classifier(model, str(display_path(saved.file)))
    known = (config.data.class_names, saved.result and saved.result.data.class_names)
    names = next(
        (tuple(names) for names in known if names and len(names) == classes), default_class_names(classes)
    )
    if normalize and shape[2] != 1:
        raise RequestError(f"predict.normalize: {saved.name} takes colour images, but MNIST's form is grey")
    if normalize is None:
        normalize = normalizes(saved, config, shape)
    return Predictor(model, names, config, shape, normalize, saved.settings is not None)


def classify(
    predictor: Predictor, config: PredictConfig, tell: Callable[[str], None]
) -> tuple[list[Prediction], list[RequestError]]:
    """Return the predictions for the readable inputs, in their order, and the problems of the others."""
    assert config.inputs is not None
    note = lambda text: tell(f"note    {text}")  # noqa: E731
    files, problems = find_inputs(config.inputs, note)
    predictions: list[Prediction] = []
    is_known = predictor.is_of_run  # and takes raw pixels
    with images_bar("reading", len(files), tell, sys.stderr) as advance:
        for batch in read_inputs(
            _counting(files, advance),
            predictor.shape,
            normalized=predictor.normalizes,
            tell=note,
            refuse=problems.append,
            resize=predictor.config.data.resize,
            scale=predictor.config.data.scale,
        ):
            if not is_known and (remark := find_scaling(predictor.model, batch.images)):
                tell(f"warning: {remark}")
            is_known = True
            predictions += top_two(batch.names, predictor.predict(batch.images), predictor.class_names)
    return predictions, problems


def _counting(files: Sequence[str], advance: Callable[[int], None]) -> Iterator[str]:
    """Yield files, and advance the progress by each."""
    for file in files:
        yield file
        advance(1)
