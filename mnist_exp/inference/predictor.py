"""A saved model with everything that prediction needs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from mnist_exp.config.schema import TrainConfig
from mnist_exp.data.dataset import Shape
from mnist_exp.data.label_column import LabelColumn
from mnist_exp.data.pixels import as_bytes
from mnist_exp.errors import RequestError
from mnist_exp.inference.inputs import PictureOptions, find_inputs, read_inputs
from mnist_exp.inference.scoring import Probabilities, predict

_MOST_DOUBTS = 3  # listed in a warning

_UNKNOWN = LabelColumn()

FileName = str | Path


@dataclass(frozen=True)
class Predictor:
    """A model, its class names, and how it treats image files."""

    model: keras.Model
    class_names: tuple[str, ...]
    config: TrainConfig
    """The run's config, or the default config if the model does not belong to a run."""
    shape: Shape
    normalizes: bool
    """Whether image files are converted to MNIST style or only scaled."""
    is_of_run: bool = True
    """Whether the model belongs to a run, and therefore takes raw pixels."""
    labels: LabelColumn = _UNKNOWN
    """The column with the labels in CSV files, as far as it is known."""

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def predict(self, images: npt.ArrayLike | FileName | Sequence[FileName]) -> Probabilities:
        """Return class probabilities (n, classes), float32.

        Args:
            images: Pixels from 0 to 255, shape (n, height, width) or (n, height, width, channels), or without n
                for a single image; or one or more file names, as for `mnist-exp predict`.

        Raises:
            RequestError: The images or files are unusable; the message lists all problems with files.
        """
        if isinstance(images, (str, Path)):
            return self._predict_files([images])
        if isinstance(images, (list, tuple)) and images and all(isinstance(of, (str, Path)) for of in images):
            return self._predict_files(images)
        return predict(self.model, self._pixels(np.asarray(images)))

    def _predict_files(self, names: Sequence[FileName]) -> Probabilities:
        files, problems = find_inputs([os.fspath(name) for name in names], lambda _: None)
        batches = read_inputs(
            files,
            self.shape,
            PictureOptions(self.normalizes, self.config.data.resize),
            tell=lambda _: None,
            refuse=problems.append,
            scale=self.config.data.scale,
            labels=self.labels,
        )
        found = []
        doubts: list[str] = []
        for batch in batches:
            found.append(predict(self.model, batch.images))
            named = zip(batch.names, batch.readings, strict=False)  # arrays have no readings
            doubts += [f"{name}: {reading.warning}" for name, reading in named if reading.warning]
        if problems:
            raise RequestError("\n".join(map(str, problems)))
        if doubts:
            shown = "; ".join(doubts[:_MOST_DOUBTS]) + "; …" * (len(doubts) > _MOST_DOUBTS)
            count = f"{len(doubts)} image{'s' * (len(doubts) > 1)}"
            warnings.warn(f"{count} might not show exactly one digit: {shown}", stacklevel=4)
        return np.concatenate(found)

    def _pixels(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the array as (n, height, width, channels). Raises `RequestError`."""
        one = array.shape in (self.shape, self.shape[:2])
        whole = array[np.newaxis] if one else array
        if whole.ndim == 3 and self.shape[2] == 1:
            whole = whole[..., np.newaxis]
        if whole.shape[1:] != self.shape or not len(whole):
            expected = ", ".join(map(str, self.shape))
            raise RequestError(
                f"expected images of shape (n, {expected}), found {array.dtype} of shape {array.shape}"
            )
        if whole.dtype.kind not in "buif":
            raise RequestError(f"expected pixels, numbers from 0 to 255, found {array.dtype}")
        if whole.dtype == np.bool_:
            return as_bytes(whole, "images", None)
        if whole.dtype == np.uint8 and whole.max() != 1:  # if all are 0 or 1, 1 may be white
            return whole
        low, high = float(whole.min()), float(whole.max())
        if not 0 <= low <= high <= 255:
            raise RequestError(f"expected pixels from 0 to 255, found values from {low:g} to {high:g}")
        if 0 < high <= 1:
            raise RequestError("expected pixels from 0 to 255, found values from 0 to 1: multiply them by 255")
        return whole.astype(np.float32)
