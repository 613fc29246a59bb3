"""Load a Keras model so that MLflow can serve it for images without a channel axis.

A copy of this file is part of each logged model, so that serving needs only MLflow and Keras.
"""

from __future__ import annotations

from typing import Any

import mlflow
import numpy as np


class RawImages:
    """Predicts class probabilities (n, classes) of raw images (n, height, width[, channels])."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def predict(self, images: Any, params: Any = None) -> Any:
        """Return class probabilities; MLflow has checked the shape against the model's signature."""
        return self._model.predict(np.reshape(images, (-1, *self._model.input_shape[1:])), verbose=0)


def _load_pyfunc(path: str) -> RawImages:
    """Load the model from its folder. MLflow calls this function by its name."""
    return RawImages(mlflow.keras.load_model(path))
