"""What the model does to raw pixels before its first layer: built-in Keras layers, saved with it."""

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
    """Raw pixels, flattened to (n,), become `pixels @ matrix + offset`; float32, (n, n) and (n,)."""

    matrix: npt.NDArray[np.float32]
    offset: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Statistics:
    """What preprocessing knows of the training part: mean and deviation of all pixels (0…255), and whitening."""

    mean: float = 0.0
    std: float = 1.0
    whitening: Whitening | None = None


def statistics(images: Images, config: PreprocessConfig) -> Statistics:
    """From exact sums of whole numbers, so that no order of adding and no number of threads matters."""
    if config.type == "unit":
        return Statistics()  # it needs to know nothing
    counts = np.zeros(256, np.int64)
    for start in range(0, len(images), 4096):  # bincount widens what it is given to eight bytes
        counts += np.bincount(images[start : start + 4096].ravel(), minlength=256)
    values = np.arange(256)
    mean = float(counts @ values / counts.sum())
    std = float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum()))
    return Statistics(mean, std or 1.0, whitening(images, config) if config.whitens else None)


def whitening(images: Images, config: PreprocessConfig) -> Whitening:
    """Decorrelate the pixels (as 0…1): variances v become v / (v + epsilon).

    `pca` gives the principal components, the greatest variance first; `zca` turns them back, to the images that
    are nearest to the originals (Bell and Sejnowski, 1997).
    """
    assert config.epsilon is not None
    size = int(np.prod(images.shape[1:]))
    total, products = np.zeros(size), np.zeros((size, size))
    for start in range(0, len(images), 4096):
        block = images[start : start + 4096].reshape(-1, size).astype(np.float64)
        total += block.sum(axis=0)
        products += block.T @ block  # of whole numbers, below 2^53: exact in any order
    mean = total / len(images)
    covariance = (products / len(images) - np.outer(mean, mean)) / 255**2
    with threadpool_limits(1, "blas"):  # which gives other last bits with other numbers of threads
        variances, components = np.linalg.eigh(covariance)
        variances, components = np.maximum(variances[::-1], 0), components[:, ::-1]
        # An eigenvector's sign is arbitrary: its greatest entry is positive here.
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
    """From raw pixels to the model's own input, by layers whose names begin with `preprocess`.

    `Normalization` is not used: adapted to one mean it does not load from HDF5, and its exports are wrong.
    """
    if config.type == "unit":
        return keras.layers.Rescaling(1 / 255, name="preprocess")(pixels)
    if config.type == "standardize":
        return keras.layers.Rescaling(1 / found.std, -found.mean / found.std, name="preprocess")(pixels)
    shape = pixels.shape[1:]
    size = int(np.prod(shape))
    # In float32 whatever the net computes in: small differences of large sums.
    dense = keras.layers.Dense(
        size, kernel_initializer="zeros", trainable=False, dtype="float32", name="preprocess"
    )
    flat = keras.layers.Reshape((size,), dtype="float32", name="preprocess_flatten")(pixels)
    whitened = dense(flat)
    if found.whitening is not None:
        dense.set_weights([found.whitening.matrix, found.whitening.offset])
    return keras.layers.Reshape(shape, dtype="float32", name="preprocess_shape")(whitened)


def is_preprocessing(layer: keras.Layer) -> bool:
    """Whether a layer of a built or loaded model belongs to its preprocessing."""
    return bool(layer.name.split("_")[0] == "preprocess")


def count_parameters(model: keras.Model) -> int:
    """The model's parameters, without those of its preprocessing."""
    return int(sum(layer.count_params() for layer in model.layers if not is_preprocessing(layer)))
