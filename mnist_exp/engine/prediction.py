"""Load a saved model as a predictor of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.engine.saved_model import Saved, config_of, find_saved, normalizes
from mnist_exp.errors import RequestError
from mnist_exp.text import display_path

if TYPE_CHECKING:
    from mnist_exp.inference.predictor import Predictor


def load(run: str | Path = "latest", outputs: str | Path = "outputs", normalize: bool | None = None) -> Predictor:
    """Load a saved model as a predictor.

    Args:
        run: What `run=` takes: a run's directory or name, `latest`, `best`, or a model file.
        outputs: The output folder.
        normalize: Whether image files are converted to MNIST's form; None for models of digits only.

    Raises:
        RequestError: There is no such model, or it cannot be loaded.
    """
    saved = find_saved(str(run), Path(outputs).expanduser())
    return predictor_of(saved, config_of(saved, Request("train"), ()), normalize)


def predictor_of(saved: Saved, config: TrainConfig, normalize: bool | None) -> Predictor:
    """Load a saved model with the class names and settings of its run. Raises `RequestError`."""
    model = saved.load()

    from mnist_exp.data.dataset import numbered
    from mnist_exp.inference.predictor import Predictor
    from mnist_exp.inference.scoring import form

    shape, classes = form(model, str(display_path(saved.file)))
    known = (config.data.class_names, saved.result and saved.result.data.class_names)
    names = next((tuple(names) for names in known if names and len(names) == classes), numbered(classes))
    if normalize and shape[2] != 1:
        raise RequestError(f"predict.normalize: {saved.name} takes colour images; MNIST's form is grey")
    if normalize is None:
        normalize = normalizes(saved, config, shape)
    return Predictor(model, names, config, shape, normalize)
