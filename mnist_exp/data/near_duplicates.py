"""Find images that are nearly the same: copies that were scaled, compressed or brightened."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mnist_exp.data.dataset import CHUNK, Images

Vectors = npt.NDArray[np.float32]
Pairs = npt.NDArray[np.int64]

SIMILAR = 0.998
"""Minimum correlation at which the thumbnails of two images count as nearly the same."""
_SIDE = 8  # pixels: side of a thumbnail
_MOST = 6 * _SIDE  # pixels per side: in images twice, three times, … as large, every second, third, … is used
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_TABLES, _BITS = 8, 20
_NEIGHBOURS = 3  # images with the same hash that an image is compared with
_FLAT = 2.0  # of 255: an image shows nothing to compare if the standard deviation of its thumbnail is lower


def find_near_pairs(images: list[Images]) -> Pairs:
    """Return the pairs of images that are nearly or exactly the same, as indices into all images, (pairs, 2).

    Images are hashed by the signs of random projections of their thumbnails, and compared only with images of the
    same hash, so that the time grows with the number of images, not with its square. A few pairs may be missed.
    """
    vectors = np.concatenate([thumbnails(part) for part in images])
    rng = np.random.default_rng(0)
    found = [np.empty((0, 2), np.int64)]
    for _ in range(_TABLES):
        projected = vectors @ rng.standard_normal((vectors.shape[1], _BITS + 1), np.float32)
        hashes = (projected[:, 1:] > 0) @ (1 << np.arange(_BITS))
        order = np.lexsort((projected[:, 0], hashes))
        for distance in range(1, _NEIGHBOURS + 1):
            first, second = order[:-distance], order[distance:]
            same = hashes[first] == hashes[second]
            first, second = first[same], second[same]
            near = np.einsum("ij,ij->i", vectors[first], vectors[second]) > SIMILAR
            found.append(np.sort(np.stack([first[near], second[near]], axis=1), axis=1))
    return np.unique(np.concatenate(found), axis=0)


def thumbnails(images: Images) -> Vectors:
    """Return each image's grey thumbnail as a vector, (n, values), of mean 0 and length 1, or 0 if it is flat."""
    height, width = images.shape[1:3]
    steps = max(1, height // _MOST), max(1, width // _MOST)
    vectors = np.empty((len(images), _SIDE * _SIDE), np.float32)
    for start in range(0, len(images), CHUNK):
        some = images[start : start + CHUNK, :: steps[0], :: steps[1]]
        grey = some[..., 0].astype(np.float32) if some.shape[3] == 1 else some @ _LUMA
        small = _block_means(_block_means(grey, 1), 2).reshape(len(grey), -1)
        small -= small.mean(axis=1, keepdims=True)
        length = np.linalg.norm(small, axis=1, keepdims=True)
        vectors[start : start + CHUNK] = np.where(length > _FLAT * _SIDE, small / np.maximum(length, 1e-9), 0)
    return vectors


def _block_means(values: Vectors, axis: int) -> Vectors:
    """Return the means of `_SIDE` blocks along an axis; the values of a shorter axis are repeated first."""
    size = values.shape[axis]
    if size < _SIDE:
        values, size = np.repeat(values, -(-_SIDE // size), axis), size * -(-_SIDE // size)
    edges = np.arange(_SIDE) * size // _SIDE
    sums = np.add.reduceat(values, edges, axis)
    shape = [1, 1, 1]
    shape[axis] = _SIDE
    return (sums / np.diff([*edges, size]).reshape(shape)).astype(np.float32)
