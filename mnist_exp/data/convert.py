"""Write a data set in another format, preserving pixels, labels and order."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from mnist_exp.data import csv, folder, idx, npz
from mnist_exp.data.dataset import Advance, Source, default_class_names
from mnist_exp.data.pixels import square
from mnist_exp.errors import RequestError


def check(source: Source, to: str) -> None:
    """Raise `RequestError` if the format `to` cannot hold the data set."""
    if to == "idx" and (most := max(int(part.labels.max()) for part in source.parts.values())) > 255:
        raise RequestError(f"to=idx: labels are written as bytes, up to 255, but the largest is {most}")
    counts = np.bincount(source.train.labels, minlength=len(source.class_names))
    if to == "folder" and not counts.all():
        name = source.class_names[int(np.argmin(counts))]
        raise RequestError(f"to=folder: class {name} has no training images, so its folder would be empty")


def write(source: Source, to: str, target: Path, header: bool, advance: Advance) -> None:
    """Write a data set to the empty folder `target` in the format `to`. Raises `OSError`."""
    parts = source.parts
    if to == "idx":
        idx.write(target, parts, advance)
    elif to == "csv":
        csv.write(target, parts, header, advance)
    elif to == "npz":
        npz.write(target, parts, source.class_names, advance)
    else:
        folder.write(target, parts, source.class_names, advance)


def list_settings(source: Source, to: str) -> dict[str, object]:
    """Return the `data` settings needed to read the written data set; some may equal their defaults."""
    keys: dict[str, object] = {}
    shape = source.train.images.shape[1:]
    if to == "csv" and square(math.prod(shape)) != shape:
        keys["data.shape"] = list(shape)
    keys |= _class_settings(source, to)
    if source.test is None and to == "idx":
        keys |= {"data.files.test_images": None, "data.files.test_labels": None}
    elif source.test is None and to != "npz":
        keys["data.files.test"] = None
    return keys


def _class_settings(source: Source, to: str) -> dict[str, object]:
    keys: dict[str, object] = {}
    names = source.class_names
    named = to == "folder" or (to == "npz" and names != default_class_names(len(names)))
    labels = np.concatenate([part.labels for part in source.parts.values()])
    if not named and len(np.unique(labels)) < len(names):
        keys["data.classes"] = len(names)
    if to == "folder":
        # Folder names are the class names, sorted.
        written = folder.folder_names(names)
        keys["data.class_names"] = None if names == folder.sort_class_names(written) else list(names)
    elif to != "npz":
        keys["data.class_names"] = None if names == default_class_names(len(names)) else list(names)
    return keys
