"""Load a saved model as a predictor of images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnist_exp.config.schema import TrainConfig
from mnist_exp.engine.saved_model import Saved
from mnist_exp.model import backend

if TYPE_CHECKING:
    from mnist_exp.inference.predictor import Predictor


def load_predictor(
    saved: Saved, config: TrainConfig, normalize: bool | None = None, label_column: int | str | None = None
) -> Predictor:
    """Load a saved model as a predictor.

    Args:
        saved: The model.
        config: The config of its run.
        normalize: Whether to convert image files to MNIST style; None to do so only for models of digits.
        label_column: The column with the labels in CSV files; None: that of the run's data, if it was CSV files.

    Raises:
        RequestError: The model cannot be loaded.
    """
    backend.load()
    from mnist_exp.engine.classification import make_predictor  # Keras

    return make_predictor(saved, config, normalize, label_column)
