"""Images and labels in memory, and their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Shape = tuple[int, int, int]
"""Height, width and channels of an image."""

CHUNK = 2048
"""Number of images converted at a time: enough to be fast, few enough to need little memory."""

SET_NAMES = {"train": "training set", "val": "validation set", "test": "test set"}
"""The names of the parts of a data set in messages and reports."""

Tell = Callable[[str], None]
"""Prints a line."""

Advance = Callable[[int], None]
"""Progress callback; its argument is the number of images written or read since the last call."""

Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""Shows the progress of a task in a `with` block, given a description of the task and the number of images."""


@dataclass(frozen=True)
class Part:
    """Images (n, height, width, channels), uint8 0…255, and labels (n,), int64 from 0."""

    images: Images
    labels: Labels
    paths: Sequence[str] = ()
    """The file of each image; empty for images that have no file of their own."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: npt.NDArray[np.int64]) -> Part:
        """Return the images and labels at `indices`."""
        paths = [self.paths[index] for index in indices] if self.paths else ()
        return Part(self.images[indices], self.labels[indices], paths)

    def first_of_each(self, most: int) -> npt.NDArray[np.int64]:
        """Return the index of the first image of each class, in class order, for at most `most` classes."""
        first: npt.NDArray[np.int64] = np.unique(self.labels, return_index=True)[1][:most]
        return first


@dataclass(frozen=True)
class RawPart:
    """A part as it is in its file: images and labels of any type and arrangement, with names for messages."""

    images: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    images_place: str
    label_place: Callable[[int], str]
    """Describes the place of an image's label, given the image's index."""


@dataclass(frozen=True)
class Source:
    """A data set as read from its source: labelled training images and, if available, test images."""

    train: Part
    test: Part | None
    origin: str
    """The place where the data set was found, for display."""
    class_names: tuple[str, ...]
    """The class names, in label order."""
    skipped: tuple[str, ...] = ()
    """The paths of damaged files that were left out."""

    @property
    def parts(self) -> dict[str, Part]:
        """The available parts by name: `train` and, if there is one, `test`."""
        return {"train": self.train} | ({"test": self.test} if self.test is not None else {})


@dataclass(frozen=True)
class Dataset:
    """The training, validation and test data of a run."""

    train: Part
    val: Part | None
    test: Part | None
    origin: str
    class_names: tuple[str, ...]
    sha256: str
    """SHA-256 of the images and labels in use: training with validation, then test."""

    @property
    def parts(self) -> dict[str, Part | None]:
        """The parts by name."""
        return {"train": self.train, "val": self.val, "test": self.test}


@contextmanager
def no_progress(task: str, images: int) -> Iterator[Advance]:
    """Return a `Progress` that shows nothing."""
    yield lambda count: None


def default_class_names(classes: int) -> tuple[str, ...]:
    """Return default class names: "0", "1", …"""
    return tuple(map(str, range(classes)))


def first_class_names(classes: int, *candidates: Sequence[str] | None) -> tuple[str, ...]:
    """Return the first list of names that has one for each class; if there is none, default names.

    Candidates may come from an untrusted result, with more or fewer names than classes.
    """
    fitting = (tuple(names) for names in candidates if names and len(names) == classes)
    return next(fitting, default_class_names(classes))


def digest(parts: list[Part | None]) -> str:
    """Return the SHA-256 of the shapes, pixels and labels of the parts, in order; None is skipped."""
    sha256 = hashlib.sha256()
    for part in parts:
        if part is not None:
            sha256.update(str(part.images.shape).encode())
            sha256.update(np.ascontiguousarray(part.images).data)
            sha256.update(np.ascontiguousarray(part.labels, dtype="<i8").data)
    return sha256.hexdigest()
