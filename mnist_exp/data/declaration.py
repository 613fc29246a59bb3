"""Look at a data set without reading its pixels: infer what the config leaves open, and check the rest."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from mnist_exp.config.data_schema import DataConfig
from mnist_exp.data import csv, folder, idx, npz
from mnist_exp.data.dataset import SET_NAMES, Labels, Part, Progress, RawPart, Shape, Tell, no_progress
from mnist_exp.data.faults import Faults
from mnist_exp.data.formats import (
    classes_of,
    find,
    idx_part,
    missing_classes,
    note_untrained_classes,
    refuse_empty_classes,
    refuse_single_class,
    transposes,
    verify,
)
from mnist_exp.data.labels import RawLabels, as_labels, count_classes, refuse_gaps
from mnist_exp.data.memory import refuse_too_large
from mnist_exp.data.pixels import as_images, stored_shape
from mnist_exp.data.sources import given_paths
from mnist_exp.errors import RequestError
from mnist_exp.text import shape_override

_ODD = 0.1  # maximum share of images of other sizes that are taken for mistakes, and reported when they are read
_LARGE = 128  # pixels: images up to this size are not scaled
_SIDES = (64, 32)  # sides of scaled images: the first that the median shorter side reaches, or else the last


def infer(
    text: str, tell: Tell, progress: Progress = no_progress, *, needs_train: bool = True
) -> Mapping[str, Any]:
    """Return the `shape` and `classes` of a data config, given in JSON; infer those that are null.

    Reports the overrides that pin the inferred values. Without `needs_train`, the training set may be missing.

    Raises `RequestError` if the data is missing or ambiguous.
    """
    values = json.loads(text)
    known = {
        "shape": values["shape"] or [1, 1, 1],
        "classes": values["classes"] or len(values.get("class_names") or ()) or 2,
    }
    try:
        data = DataConfig.model_validate_json(json.dumps({**values, **known}))
    except ValueError:  # reported with all other problems of the config
        return {"shape": values["shape"] or [28, 28, 1], "classes": values["classes"] or 10}
    shape, classes, remark = _look(data, values, progress, needs_train)
    declared = {"shape": list(shape), "classes": values["classes"] or classes}
    words = [f"data.{key}={value}".replace(" ", "") for key, value in declared.items() if values[key] is None]
    tell(f"inferred {shlex.join(words)} from {data.dir}{remark}")
    return declared


def examine(data: DataConfig, tell: Tell, progress: Progress = no_progress) -> dict[str, int]:
    """Check what can be seen in file names, headers and labels; with `data.verify`, read all pixels.

    Data outside a given folder, which may have to be downloaded, is not examined.

    Returns:
        The number of images in each part; empty for data that is not examined.

    Raises:
        RequestError: The data is missing, damaged or not as declared.
    """
    if data.verify or data.source == "digits":
        source = find(data, tell, progress)
        _report_missing_classes(source.train.labels, source.class_names, data, tell)
        return {name: len(part) for name, part in source.parts.items()}
    if data.dir is None:
        return {}
    paths = given_paths(data, tell)
    if data.source == "folder":
        return _examine_folders(paths, data, tell, progress)
    swaps = transposes(data, paths.values())
    parts, named = _raw_parts(paths, data, stored_shape(data.shape, swaps))
    labels, names = as_labels(_labels_of(parts), data, named)
    _report_missing_classes(labels["train"], names, data, tell)
    for name, part in parts.items():
        arranged, _ = as_images(part.images, part.images_place, stored_shape(data.shape, swaps))
        upright = arranged.transpose(0, 2, 1, 3) if swaps else arranged
        verify(Part(upright, labels[name]), data, f"{data.dir}: {SET_NAMES[name]}")
    count = sum(len(part.images) for part in parts.values())
    refuse_too_large(count, math.prod(data.shape), data, parts["train"].images.dtype.itemsize)
    return {name: len(part.images) for name, part in parts.items()}


def _report_missing_classes(train: Labels, names: Sequence[str], data: DataConfig, tell: Tell) -> None:
    if missing := missing_classes(train, names):
        tell(f"{data.dir or data.name}: {missing}")


def _examine_folders(
    paths: Mapping[str, Path], data: DataConfig, tell: Tell, progress: Progress
) -> dict[str, int]:
    listing = folder.list_images(paths)
    classes_of(listing.files, paths, data, tell)
    note_untrained_classes(listing, tell)
    sizes = folder.measure(listing, progress)
    listing.faults.include(sizes.faults)
    refuse_empty_classes(listing, data, tell)
    height, width = stored_shape(data.shape, bool(data.transpose))[:2]
    others = sizes.other_than((height, width)) if data.resize is None else folder.Sizes()
    folder.refuse_other_sizes(others, sizes.counts.total(), data, listing.faults, Faults())
    if listing.clutter:
        tell(f"{data.dir}: {listing.note_clutter()}")
    if not data.skip_bad:
        listing.faults.raise_any(str(data.dir), "; data.skip_bad=true leaves such files out")
    elif len(listing.faults):
        tell(listing.faults.note(str(data.dir)))
    bad = set(listing.faults.places)
    counts = {
        part: sum(path not in bad for paths in images.values() for path in paths)
        for part, images in listing.files.items()
    }
    refuse_too_large(sum(counts.values()), math.prod(data.shape), data)
    return counts


def _look(
    data: DataConfig, values: Mapping[str, Any], progress: Progress, needs_train: bool
) -> tuple[Shape, int, str]:
    """Return a data set's shape, declared or found, its number of classes, and a remark on its sizes.

    Raises `RequestError`, also if `values` does not declare the number of classes, and there is only one, or one
    without an image to train with.
    """
    declared = data.shape if values["shape"] else None
    counts = values["classes"] is None
    paths = given_paths(data, _nothing, needs_train=needs_train)
    if data.source == "folder":
        return _look_at_folders(paths, data, declared, progress, counts)
    swaps = transposes(data, paths.values())
    parts, named = _raw_parts(paths, data, stored_shape(declared, swaps) if declared else None, needs_train)
    first = next(iter(parts.values()))
    stored = as_images(first.images, first.images_place, declared)[0].shape[1:]
    labels = _labels_of(parts)
    classes = len(named) if named else count_classes(labels, data)
    if counts and classes < 2:
        place = f"{paths['archive']}: class_names" if named else first.label_place(0)
        raise RequestError(f"{place}: expected at least two classes, found only one in the data set")
    if counts and needs_train and not named:
        refuse_gaps(labels, classes)
    return declared or stored_shape((stored[0], stored[1], stored[2]), swaps), classes, ""


def _labels_of(parts: Mapping[str, RawPart]) -> dict[str, RawLabels]:
    return {name: RawLabels(part.labels, part.label_place) for name, part in parts.items()}


def _raw_parts(
    paths: Mapping[str, Path], data: DataConfig, shape: Shape | None, needs_train: bool = True
) -> tuple[dict[str, RawPart], tuple[str, ...] | None]:
    """Return the parts with their labels. Images in IDX and NPZ files are not read, but replaced by black ones."""
    if data.source == "csv":
        return {part: csv.read(path, shape, data) for part, path in paths.items()}, None
    if data.source == "npz":
        return npz.read_labels(paths["archive"], needs_train=needs_train)
    parts = {}
    for kind in ("train", "test"):
        if f"{kind}_images" in paths:
            images_path, labels_path = paths[f"{kind}_images"], paths[f"{kind}_labels"]
            sizes, dtype = idx.read_header(images_path, idx.IMAGES)
            images = np.broadcast_to(np.zeros((), dtype), sizes)
            content = idx.read_content(labels_path, data.parts[f"{kind}_labels"])
            parts[kind] = idx_part(images, content, str(images_path), str(labels_path))
    return parts, None


def _nothing(message: str) -> None:
    """Ignore a note, which will be reported when the data is read."""


def _look_at_folders(
    paths: Mapping[str, Path], data: DataConfig, shape: Shape | None, progress: Progress, counts: bool
) -> tuple[Shape, int, str]:
    listing = folder.list_images(paths)
    part, folders = next(iter(listing.files.items()))
    classes = len(folders)
    if counts:
        advice = "" if part == "train" else "; data.classes=… declares the number of classes of the model"
        refuse_single_class(folders, paths[part], advice)
    if shape is not None:
        return shape, classes, ""
    sizes = folder.measure(listing, progress)
    found = _shape_of(sizes, data)
    return found, classes, f" ({sizes}, {sizes.colours})" if len(sizes.counts) > 1 else ""


def _shape_of(sizes: folder.Sizes, data: DataConfig) -> Shape:
    """Return the shape for images of given sizes. Raises `RequestError` if sizes differ, but are not scaled."""
    channels = 3 if sizes.coloured else 1
    [(most, count)] = sizes.counts.most_common(1)
    few_others = sizes.counts.total() - count <= _ODD * sizes.counts.total()
    if few_others and (data.resize is None or max(most) <= _LARGE):
        return (most[1], most[0], channels) if data.transpose else (*most, channels)
    shorter = median(min(size) for size in sizes.counts.elements())
    side = next((side for side in _SIDES if shorter >= side), _SIDES[-1])
    if data.resize is None:
        raise RequestError(
            f"{data.dir}: {sizes} (height×width) in {sizes.counts.total():,} images; "
            f"data.resize=fit {shape_override((side, side, channels))} scales them"
        )
    return side, side, channels
