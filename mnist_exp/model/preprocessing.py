"""Preprocessing of raw pixels by built-in Keras layers, which are saved as part of the model."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from mnist_exp.config.schema import PreprocessConfig
from mnist_exp.data.dataset import Images


@dataclass(frozen=True)
class Whitening:
    """The transform `pixels @ matrix + offset` of raw pixels flattened to (n,); shapes (n, n) and (n,)."""

    matrix: npt.NDArray[np.float32]
    offset: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Statistics:
    """Statistics of the training images: mean and standard deviation of all pixels (0…255), and whitening."""

    mean: float = 0.0
    std: float = 1.0
    whitening: Whitening | None = None


def statistics(images: Images, config: PreprocessConfig) -> Statistics:
    """Compute the statistics of images that the preprocessing needs.

    They are based on exact sums of integers, so they depend neither on the order of addition nor on the number
    of threads.
    """
    if config.type == "unit":
        return Statistics()  # `unit` needs no statistics
    counts = np.zeros(256, np.int64)
    for start in range(0, len(images), 4096):  # in blocks, as bincount takes eight bytes per value
        counts += np.bincount(images[start : start + 4096].ravel(), minlength=256)
    values = np.arange(256)
    mean = float(counts @ values / counts.sum())
    std = float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum()))
    return Statistics(mean, std or 1.0, whitening(images, config) if config.whitens else None)


def whitening(images: Images, config: PreprocessConfig) -> Whitening:
    """Compute the transform that decorrelates the pixels (scaled to 0…1): variances v become v / (v + epsilon).

    `pca` yields the principal components, in order of decreasing variance. `zca` rotates them back, which yields
    the decorrelated images that are closest to the originals (Bell and Sejnowski, 1997).
    """
    assert config.epsilon is not None
    size = int(np.prod(images.shape[1:]))
    total, products = np.zeros(size), np.zeros((size, size))
    for start in range(0, len(images), 4096):
        block = images[start : start + 4096].reshape(-1, size).astype(np.float64)
        total += block.sum(axis=0)
        products += block.T @ block  # integers below 2^53: exact in any order
    mean = total / len(images)
    covariance = (products / len(images) - np.outer(mean, mean)) / 255**2
    with threadpool_limits(1, "blas"):  # the last bits depend on the number of threads
        variances, components = np.linalg.eigh(covariance)
        variances, components = np.maximum(variances[::-1], 0), components[:, ::-1]
        # The sign of an eigenvector is arbitrary: make its largest entry positive.
        greatest = np.abs(components).argmax(axis=0)
        components = components * np.sign(components[greatest, np.arange(size)])
        matrix = components / np.sqrt(variances + config.epsilon)
        if config.type == "zca":
            matrix = matrix @ components.T
        matrix /= 255
        return Whitening(matrix.astype(np.float32), (-mean @ matrix).astype(np.float32))


def apply_preprocessing(
    config: PreprocessConfig, found: Statistics, pixels: keras.KerasTensor
) -> keras.KerasTensor:
    """Preprocess raw pixels with layers whose names begin with `preprocess`.

    `Normalization` is not used: if it is adapted to a single mean, it cannot be loaded from HDF5, and its exports
    are wrong.
    """
    if config.type == "unit":
        return keras.layers.Rescaling(1 / 255, name="preprocess")(pixels)
    if config.type == "standardize":
        return keras.layers.Rescaling(1 / found.std, -found.mean / found.std, name="preprocess")(pixels)
    shape = pixels.shape[1:]
    size = int(np.prod(shape))
    # Always in float32: the layer computes small differences of large sums.
    dense = keras.layers.Dense(
        size, kernel_initializer="zeros", trainable=False, dtype="float32", name="preprocess"
    )
    flat = keras.layers.Reshape((size,), dtype="float32", name="preprocess_flatten")(pixels)
    whitened = dense(flat)
    if found.whitening is not None:
        dense.set_weights([found.whitening.matrix, found.whitening.offset])
    return keras.layers.Reshape(shape, dtype="float32", name="preprocess_shape")(whitened)


def is_preprocessing(layer: keras.Layer) -> bool:
    """Return whether a layer of a built or loaded model belongs to its preprocessing."""
    return bool(layer.name.split("_")[0] == "preprocess")


def count_parameters(model: keras.Model) -> int:
    """Count a model's parameters, excluding those of its preprocessing."""
    return int(sum(layer.count_params() for layer in model.layers if not is_preprocessing(layer)))
