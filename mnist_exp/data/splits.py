"""Which images are used, and for what."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mnist_exp.data.dataset import Labels

Indices = npt.NDArray[np.int64]


def stratified(labels: Labels, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Split into (rest, chosen), both in the original order, `chosen` being `fraction` of all.

    The same share of each class, to within one image; which images is a function of `seed` and the labels.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    # Each image's place among its class, as a fraction: the images with the lowest are chosen.
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        rank[members] = (np.arange(len(members)) + rng.uniform()) / len(members)
    order = np.lexsort((shuffled, rank))
    count = round(fraction * len(labels))
    return np.sort(order[count:]), np.sort(order[:count])
