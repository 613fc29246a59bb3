"""Images and labels in memory, and what identifies them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Shape = tuple[int, int, int]
"""Height, width and channels of an image."""

CHUNK = 2048
"""So many images are converted at a time: enough to be fast, too few to need much memory."""

Advance = Callable[[int], None]
"""Is told how many more images were written."""


@dataclass(frozen=True)
class Part:
    """Images (n, height, width, channels), uint8 0…255, and labels (n,), int64 from 0."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: npt.NDArray[np.int64]) -> Part:
        """The images and labels at these indices."""
        return Part(self.images[indices], self.labels[indices])

    def first_of_each(self, most: int) -> npt.NDArray[np.int64]:
        """The index of the first image of each class, in the order of the classes, of so many of them at most."""
        first: npt.NDArray[np.int64] = np.unique(self.labels, return_index=True)[1][:most]
        return first


@dataclass(frozen=True)
class Source:
    """A data set as it was found: the labelled training images and, where it has them, test images."""

    train: Part
    test: Part | None
    origin: str
    """Where it was found, for people."""
    class_names: tuple[str, ...]
    """The name of each class, in the order of the labels."""

    @property
    def parts(self) -> dict[str, Part]:
        """`train` and, if there is one, `test`."""
        return {"train": self.train} | ({"test": self.test} if self.test is not None else {})


@dataclass(frozen=True)
class Dataset:
    """What a run trains on, validates on and is scored on."""

    train: Part
    val: Part | None
    test: Part | None
    origin: str
    class_names: tuple[str, ...]
    sha256: str
    """SHA-256 of the pixels and labels that are used (train with validation, then test)."""


def numbered(classes: int) -> tuple[str, ...]:
    """The names of classes that have none: "0", "1", …"""
    return tuple(map(str, range(classes)))


def digest(parts: list[Part | None]) -> str:
    """SHA-256 over the shapes, pixels and labels of parts, in order."""
    sha256 = hashlib.sha256()
    for part in parts:
        if part is not None:
            sha256.update(str(part.images.shape).encode())
            sha256.update(np.ascontiguousarray(part.images).data)
            sha256.update(np.ascontiguousarray(part.labels, dtype="<i8").data)
    return sha256.hexdigest()
