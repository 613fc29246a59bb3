"""Lets MLflow serve a Keras model on images as they are: height × width, without an axis for a single channel.

A copy of this file goes with each logged model, so that serving needs nothing but MLflow and Keras.
"""

from __future__ import annotations

from typing import Any

import mlflow
import numpy as np


class RawImages:
    """Class probabilities (n, classes) of raw images (n, height, width) or (n, height, width, channels)."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def predict(self, images: Any, params: Any = None) -> Any:
        """MLflow has seen to the shape, by the model's signature."""
        return self._model.predict(np.reshape(images, (-1, *self._model.input_shape[1:])), verbose=0)


def _load_pyfunc(path: str) -> RawImages:
    """What MLflow calls with the model's folder."""
    return RawImages(mlflow.keras.load_model(path))
