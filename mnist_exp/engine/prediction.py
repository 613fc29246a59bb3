"""`mnist_exp.load`: load a saved model as a predictor of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mnist_exp.config.overrides import Request
from mnist_exp.engine.saved_model import compose_run_config, find_saved
from mnist_exp.model import backend

if TYPE_CHECKING:
    from mnist_exp.inference.predictor import Predictor


def load(run: str | Path = "latest", outputs: str | Path = "outputs", normalize: bool | None = None) -> Predictor:
    """Load a saved model as a predictor.

    Args:
        run: As for `run=`: a run's directory or name, `latest`, `best`, or a model file.
        outputs: The output folder.
        normalize: Whether to convert image files to MNIST's form. None converts them for models of digits only.

    Raises:
        RequestError: There is no such model, or it cannot be loaded.
    """
    saved = find_saved(str(run), Path(outputs).expanduser())
    config = compose_run_config(saved, Request("train"), ())
    backend.load()
    from mnist_exp.engine.classification import make_predictor  # Keras

    return make_predictor(saved, config, normalize)
