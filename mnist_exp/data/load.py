"""Load the images and labels of a run as its data config describes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from mnist_exp.config.schema import DataConfig
from mnist_exp.data import csv, digits, folder, idx, npz
from mnist_exp.data.dataset import Dataset, Labels, Part, Source, default_class_names, digest
from mnist_exp.data.sources import given_paths, locate
from mnist_exp.data.splits import Indices, split_stratified, stratified_order
from mnist_exp.errors import RequestError

_MOST_NAMES = 12  # in a message


def find(data: DataConfig, tell: Callable[[str], None]) -> Source:
    """Read a data set and verify that it is as the config declares.

    Raises:
        RequestError: The data is damaged or differs from the config.
        sources.NotFound: The data set is in none of the places searched.
    """
    read = {"idx": _idx, "csv": _csv, "npz": _npz, "folder": _folder, "digits": lambda *_: digits.load()}
    source = read[data.source](data, tell)
    for name, part in source.parts.items():
        whole = f"{source.origin}: {'training' if name == 'train' else 'test'} set"
        labels = whole
        if data.source == "idx":
            labels = f"{source.origin}/{data.parts[f'{name}_labels'].name}"
        elif data.source == "npz":
            labels = f"{source.origin}: y_{name}"
        _verify(part, data, whole, labels)
    return source


def split(labels: Labels, data: DataConfig) -> tuple[Indices, Indices]:
    """Divide the training set into images to train on and to validate on, at most `data.limit` in total.

    The limit is applied to each part after the division, so it moves no image from one part to the other, and the
    parts for a smaller limit are contained in those for a larger one.

    Returns:
        The indices of each part, in ascending order.
    """
    kept, held_out = split_stratified(labels, data.val_fraction, data.split_seed)
    if data.limit is None or data.limit >= len(labels):
        return kept, held_out
    to_validate = int(data.limit * len(held_out) / len(labels) + 0.5)
    return (
        _first(labels, kept, data.limit - to_validate, data.split_seed),
        _first(labels, held_out, to_validate, data.split_seed),
    )


def _first(labels: Labels, part: Indices, count: int, seed: int) -> Indices:
    return np.sort(part[stratified_order(labels[part], seed)[:count]])


def limit_source(source: Source, data: DataConfig) -> Source:
    """Apply `data.limit`: keep the training images that `split` selects, and the same share of the test images."""
    if data.limit is None or data.limit >= len(source.train):
        return source
    train = source.train.take(np.sort(np.concatenate(split(source.train.labels, data))))
    test = source.test
    if test is not None:
        count = int(data.limit * len(test) / len(source.train) + 0.5)
        test = test.take(_first(test.labels, np.arange(len(test)), count, data.split_seed))
    return replace(source, train=train, test=test or None)


def prepare(source: Source, data: DataConfig) -> Dataset:
    """Split off the validation part and apply `data.limit`. Raises `RequestError` if either part is empty."""
    kept, held_out = split(source.train.labels, data)
    if not len(kept) or (data.val_fraction and not len(held_out)):
        place = f"data.val_fraction={data.val_fraction}" if data.limit is None else f"data.limit={data.limit}"
        message = (
            f"{place} leaves {len(kept)} training and {len(held_out)} validation images; both need at least one"
        )
        least = _smallest(source.train.labels, data, lambda train, val: len(train) > 0 and len(val) > 0)
        raise RequestError(message + (f"; data.limit={least} is the smallest that works" if least else ""))
    val = source.train.take(held_out) if len(held_out) else None
    used = limit_source(source, data)
    sha256 = digest([used.train, used.test])
    return Dataset(source.train.take(kept), val, used.test, source.origin, source.class_names, sha256)


def smallest_limit(labels: Labels, data: DataConfig) -> int | None:
    """Return the smallest `data.limit` that leaves every class a training image, and an image to validate on.

    Returns None if some class has no training image even without a limit.
    """
    classes = len(np.unique(labels))
    return _smallest(
        labels,
        data,
        lambda train, val: len(np.unique(labels[train])) == classes and (len(val) > 0 or not data.val_fraction),
    )


def _smallest(labels: Labels, data: DataConfig, works: Callable[[Indices, Indices], bool]) -> int | None:
    """Return the smallest limit that works, provided that all larger ones work too; None if there is none."""

    def is_enough(limit: int) -> bool:
        return works(*split(labels, data.model_copy(update={"limit": limit})))

    least = bisect_left(range(1, len(labels) + 1), True, key=is_enough) + 1
    return least if least <= len(labels) else None


def missing_classes(train: Part, names: Sequence[str]) -> str:
    """Return a sentence about the declared classes without a training image; empty if all have one."""
    missing = [name for label, name in enumerate(names) if not (train.labels == label).any()]
    if not missing:
        return ""
    listed = ", ".join(missing[:_MOST_NAMES]) + ", …" * (len(missing) > _MOST_NAMES)
    return f"{'class' if len(missing) == 1 else 'classes'} {listed} without a training image"


def _idx(data: DataConfig, tell: Callable[[str], None]) -> Source:
    located = locate(data, tell)
    names = data.class_names or default_class_names(data.classes)
    if located.npz is not None:
        train, test, _ = npz.read(located.npz)
        return Source(train, test, located.origin, names)
    assert located.idx is not None
    parts: dict[str, Part] = {}
    for kind in ("train", "test"):
        if f"{kind}_images" not in located.idx:
            continue
        images_name, labels_name = (
            f"{located.origin}/{data.parts[f'{kind}_{what}'].name}" for what in ("images", "labels")
        )
        images = idx.parse(located.idx[f"{kind}_images"], images_name, idx.IMAGES)
        labels = idx.parse(located.idx[f"{kind}_labels"], labels_name, idx.LABELS)
        if len(images) != len(labels):
            raise RequestError(f"{images_name}: {len(images)} images, but {len(labels)} labels in {labels_name}")
        parts[kind] = Part(images if images.ndim == 4 else images[..., np.newaxis], labels.astype(np.int64))
    return Source(parts["train"], parts.get("test"), located.origin, names)


def _csv(data: DataConfig, tell: Callable[[str], None]) -> Source:
    parts = {part: csv.read(path, data.shape, data.classes) for part, path in given_paths(data).items()}
    return Source(
        parts["train"], parts.get("test"), str(data.dir), data.class_names or default_class_names(data.classes)
    )


def _npz(data: DataConfig, tell: Callable[[str], None]) -> Source:
    path = given_paths(data)["archive"]
    train, test, named = npz.read(path)
    if named is not None and len(named) != data.classes:
        raise RequestError(
            f"{path}: class_names has {len(named)} names, but data.classes={data.classes}; "
            f"data.classes={len(named)} would declare them"
        )
    if named and data.class_names and named != data.class_names:
        raise RequestError(
            f"{path}: its class_names {_listed(named)} are not data.class_names={_listed(data.class_names)}"
        )
    return Source(train, test, str(path), named or data.class_names or default_class_names(data.classes))


def _folder(data: DataConfig, tell: Callable[[str], None]) -> Source:
    paths = given_paths(data)
    folders = folder.class_folders(paths["train"])
    if len(folders) != data.classes:
        raise RequestError(
            f"{paths['train']}: {len(folders)} class folders ({_listed(folders)}), "
            f"but data.classes={data.classes}; data.classes={len(folders)} would declare them"
        )
    if "test" in paths and set(found := folder.class_folders(paths["test"])) != set(folders):
        differing = sorted(set(found) ^ set(folders))
        raise RequestError(
            f"{paths['test']}: its class folders are not those of {paths['train']}: {_listed(tuple(differing))} "
            "only in one of them"
        )
    names = data.class_names or folders
    if set(names) == set(folders):
        folders = names  # labels follow the declared order
    elif folders != default_class_names(data.classes):  # numbered folders may be given any names
        raise RequestError(
            f"{paths['train']}: its class folders {_listed(folders)} are not data.class_names={_listed(names)}"
        )
    parts = {part: folder.read(path, folders, data.shape, part == "test") for part, path in paths.items()}
    return Source(parts["train"], parts.get("test"), str(data.dir), names)


def _listed(names: tuple[str, ...]) -> str:
    return f"[{', '.join(names[:_MOST_NAMES])}{', …' if len(names) > _MOST_NAMES else ''}]"


def _verify(part: Part, data: DataConfig, name: str, labels: str) -> None:
    """Raise `RequestError` if a part is not as declared.

    `name` and `labels` refer to the part and its labels in messages.
    """
    if not len(part):
        raise RequestError(f"{name}: no images")
    if part.images.shape[1:] != data.shape:
        found, expected = ("×".join(map(str, shape)) for shape in (part.images.shape[1:], data.shape))
        raise RequestError(
            f"{name}: images of {found}, but data.shape says {expected}; "
            f"data.shape=[{','.join(map(str, part.images.shape[1:]))}] would declare them"
        )
    if part.labels.min() < 0 or part.labels.max() >= data.classes:
        place = int(np.argmax((part.labels < 0) | (part.labels >= data.classes)))
        raise RequestError(
            f"{labels}: label {part.labels[place]} at image {place} (from 0); data.classes={data.classes} "
            f"allows 0 to {data.classes - 1}; data.classes={part.labels.max() + 1} would declare them"
        )
