"""Split images into stratified parts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mnist_exp.data.dataset import Labels

Indices = npt.NDArray[np.int64]


def split_stratified(labels: Labels, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Select a `fraction` of the images, the same share of each class to within one image.

    The selection depends only on `seed` and the labels.

    Returns:
        The indices of the other images and of the selected ones, both in ascending order.
    """
    rng = np.random.default_rng(seed)
    classes, members = np.unique(labels, return_counts=True)
    # Round down, then add one image to the classes with the largest remainders.
    shares = fraction * members
    counts = np.floor(shares).astype(int)
    missing = round(fraction * len(labels)) - int(counts.sum())
    counts[np.argsort(counts - shares, kind="stable")[:missing]] += 1
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[:count]
        for label, count in zip(classes, counts, strict=True)
    ]
    held_out = np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)
    return np.setdiff1d(np.arange(len(labels)), held_out, assume_unique=True), held_out


def oversampled(labels: Labels, seed: int) -> Indices:
    """Return the indices of all images, repeated so that all classes that occur have the same number of images.

    Within a class, the numbers of repetitions differ by at most one. The selection depends only on `seed` and the
    labels.
    """
    rng = np.random.default_rng([seed, len(labels)])
    members = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    most = max(map(len, members), default=0)
    return (
        np.sort(np.concatenate([np.resize(images, most) for images in members])) if members else np.empty(0, int)
    )


def stratified_order(labels: Labels, seed: int) -> Indices:
    """Order the images so that the first n contain the classes in proportion, for any n.

    Each selection contains all smaller ones, unlike those of `split_stratified`, where rounding may drop an image
    from a larger selection. The order depends only on `seed` and the labels.
    """
    rng = np.random.default_rng(seed)
    members = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    # Spread each class evenly over the order (the Sainte-Laguë method of apportionment).
    places = [(np.arange(len(images)) + 0.5) / len(images) for images in members]
    if not members:
        return np.empty(0, np.int64)
    return np.concatenate(members)[np.argsort(np.concatenate(places), kind="stable")]
