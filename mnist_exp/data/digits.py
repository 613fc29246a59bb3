"""The handwritten digits included in scikit-learn, converted to MNIST style."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mnist_exp.data.dataset import Part, Source, default_class_names
from mnist_exp.data.splits import split_stratified

_SIZE, _MARGIN = 20, 4  # pixels: a digit and the border around it in MNIST's 28×28
_TEST_SEED = 0  # fixed: the test split does not depend on the config


def load() -> Source:
    """Load the 1,797 digits in MNIST style; a sixth of them are the test set.

    The original images have 8×8 pixels from 0 to 16. They are enlarged to 20×20, scaled to 0…255, and centred in
    28×28 pixels.
    """
    from scipy.ndimage import zoom  # importing it takes half a second

    small, labels = _read()
    large = zoom(small.reshape(-1, 8, 8), (1, _SIZE / 8, _SIZE / 8), order=1, grid_mode=True, mode="nearest")
    pixels = np.clip(np.rint(large * (255 / 16)), 0, 255).astype(np.uint8)
    pixels = np.pad(pixels, ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN)))
    whole = Part(pixels[..., np.newaxis], labels.astype(np.int64))
    train, test = split_stratified(whole.labels, 1 / 6, _TEST_SEED)
    return Source(whole.take(train), whole.take(test), "scikit-learn", default_class_names(10))


def _read() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the pixels (n, 64) and labels (n,). Importing scikit-learn for them would take two seconds."""
    spec = find_spec("sklearn")
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            table = np.loadtxt(file, delimiter=",")
            return table[:, :-1], table[:, -1]
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return pixels, labels
