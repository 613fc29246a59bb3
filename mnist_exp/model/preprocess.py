"""What the model does to raw pixels before its first layer: built-in Keras layers, saved with it."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from mnist_exp.config.schema import PreprocessConfig
from mnist_exp.data.dataset import Images


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of all pixels of the training part, in 0…255."""

    mean: float = 0.0
    std: float = 1.0


def statistics(images: Images) -> Statistics:
    """Exact, from the counts of the 256 pixel values."""
    counts = np.zeros(256, np.int64)
    for start in range(0, len(images), 4096):  # bincount widens what it is given to eight bytes
        counts += np.bincount(images[start : start + 4096].ravel(), minlength=256)
    values = np.arange(256)
    mean = float(counts @ values / counts.sum())
    std = float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum()))
    return Statistics(mean, std or 1.0)


def preprocessing(config: PreprocessConfig, found: Statistics) -> list[keras.Layer]:
    """Layers from raw pixels to the model's own input.

    `Normalization` is not used: adapted to one mean it does not load from HDF5, and its exports are wrong.
    """
    if config.type == "unit":
        return [keras.layers.Rescaling(1 / 255, name="preprocess")]
    return [keras.layers.Rescaling(1 / found.std, -found.mean / found.std, name="preprocess")]
