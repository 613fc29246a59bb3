"""Load a Keras model so that MLflow can serve it for images with and without a channel axis.

A copy of this file is part of each logged model, so that serving needs only MLflow and Keras.
"""

from __future__ import annotations

import json
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE, ErrorCode


class PredictionError(MlflowException):  # type: ignore[misc]
    """No prediction is possible. A server answers with the message only.

    MLflow's server would add the input to the message, and a stack trace with its paths to other exceptions.
    """

    def __init__(self, message: str, error_code: int = INVALID_PARAMETER_VALUE) -> None:
        super().__init__(message, error_code=error_code)
        self._answer = json.dumps({"error_code": ErrorCode.Name(error_code), "message": message})

    def serialize_as_json(self) -> str:
        """Return the body of the server's answer."""
        return self._answer


class RawImages:
    """Predicts class probabilities (n, classes) of raw images (n, height, width[, channels])."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def predict(self, images: Any, params: Any = None) -> Any:
        """Return class probabilities. Raises `PredictionError` for anything but pixels from 0 to 255."""
        pixels = as_pixels(images, self._model.input_shape[1:])
        try:
            return self._model.predict(pixels, verbose=0)
        except Exception:
            raise PredictionError("the model could not be evaluated", INTERNAL_ERROR) from None


def as_pixels(images: Any, shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """Return images as the model's input (n, height, width, channels). Raises `PredictionError`."""
    try:
        found = np.asarray(images)
        # JSON arrives as an array of objects: numbers become an array of numbers here, anything else does not.
        found = np.asarray(found.tolist()) if found.dtype == object else found
    except (TypeError, ValueError):
        raise PredictionError("all images must have the same shape") from None
    if found.size and found.dtype.kind not in "iuf":
        raise PredictionError("pixels must be numbers from 0 to 255; found a value that is not a number")
    without_axis = shape[2] == 1 and found.shape[1:] == shape[:2]
    if not found.size or not (without_axis or found.shape[1:] == shape):
        height, width, channels = shape
        grey = f"(images, {height}, {width}) or " if channels == 1 else ""
        expected = f"{grey}(images, {height}, {width}, {channels})"
        raise PredictionError(f"images must have the shape {expected}, found {found.shape}")
    if not (found.min() >= 0 and found.max() <= 255):  # also refuses NaN
        raise PredictionError("pixels must be from 0 to 255; found a value outside this range, or NaN")
    return found.reshape(-1, *shape).astype(np.float32)


def _load_pyfunc(path: str) -> RawImages:
    """Load the model from its folder. MLflow calls this function by its name."""
    return RawImages(mlflow.keras.load_model(path))
