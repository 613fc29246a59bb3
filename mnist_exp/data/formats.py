"""Read a data set in any format, as its config describes, and prepare it for a run. Add new formats here."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mnist_exp.config.data_schema import DataConfig
from mnist_exp.data import csv, digits, folder, idx, npz, pixels
from mnist_exp.data.dataset import (
    SET_NAMES,
    Dataset,
    Labels,
    Part,
    Progress,
    RawPart,
    Source,
    Tell,
    default_class_names,
    digest,
    no_progress,
)
from mnist_exp.data.faults import Faults
from mnist_exp.data.labels import RawLabels, as_labels
from mnist_exp.data.memory import refuse_too_large
from mnist_exp.data.pixels import described, dimness, refuse_zeros_and_ones
from mnist_exp.data.sources import given_paths, locate
from mnist_exp.data.splits import Indices, oversampled, split_stratified, stratified_order
from mnist_exp.errors import RequestError
from mnist_exp.suggest import did_you_mean
from mnist_exp.text import shape_override

_MOST_NAMES = 12  # in a message
_EMPTY = "no images in this class folder; remove it, or put images into it"
_ALL_BAD = "no usable images in this class folder; remove it, or put images into it"


def find(
    data: DataConfig, tell: Tell, progress: Progress = no_progress, trained: Sequence[str] | None = None
) -> Source:
    """Read a data set and verify that it is as the config declares.

    Args:
        data: The config.
        tell: Prints a note.
        progress: Shows the progress of reading image files.
        trained: The class names of the model to score, for which the training set may be missing; None: it is
            required.

    Raises:
        RequestError: The data is damaged or differs from the config.
        sources.NotFound: The data set is in none of the places searched.
    """
    read = {"idx": _idx, "csv": _csv, "npz": _npz, "digits": lambda *_: digits.load()}
    if data.source == "folder":
        source = _folder(data, tell, progress, trained)
    else:
        source = read[data.source](data, tell, trained)
    for name, part in source.parts.items():
        if name == "train" and not len(part) and trained is not None:
            continue
        verify(part, data, f"{source.origin}: {SET_NAMES[name]}")
    if data.scale is None and data.dir is not None and not data.mirrors:
        brightest = max(int(part.images.max()) for part in source.parts.values() if len(part))
        refuse_zeros_and_ones(brightest, source.origin)
        if remark := dimness(brightest):
            tell(f"{source.origin}: {remark}")
    return source


def split(labels: Labels, data: DataConfig) -> tuple[Indices, Indices]:
    """Split the training set into training and validation images, at most `data.limit` in total.

    The limit is applied to each part after the split, so it moves no image from one part to the other, and the
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
    """Split off the validation set, apply `data.limit`, and balance the training set.

    A data set without a training set stays as it is. Raises `RequestError` if either part becomes empty.
    """
    if not len(source.train) and source.test is not None:
        sha256 = digest([source.test])
        return Dataset(source.train, None, source.test, source.origin, source.class_names, sha256)
    kept, held_out = split(source.train.labels, data)
    if not len(kept) or (data.val_fraction and not len(held_out)):
        place = f"data.val_fraction={data.val_fraction}" if data.limit is None else f"data.limit={data.limit}"
        message = (
            f"{place} leaves {len(kept)} training and {len(held_out)} validation images; each needs at least one"
        )
        least = _smallest(source.train.labels, data, lambda train, val: len(train) > 0 and len(val) > 0)
        raise RequestError(message + (f"; data.limit={least} is the smallest that works" if least else ""))
    val = source.train.take(held_out) if len(held_out) else None
    used = limit_source(source, data)
    sha256 = digest([used.train, used.test])
    if data.balance == "oversample":
        kept = kept[oversampled(source.train.labels[kept], data.split_seed)]
        refuse_too_large(len(kept), math.prod(data.shape), data)
    return Dataset(source.train.take(kept), val, used.test, source.origin, source.class_names, sha256)


def smallest_limit(labels: Labels, data: DataConfig) -> int | None:
    """Return the smallest `data.limit` that leaves a training image of every class and a validation image.

    Returns None if some class has no training image even without a limit.
    """
    classes = len(np.unique(labels))
    return _smallest(
        labels,
        data,
        lambda train, val: len(np.unique(labels[train])) == classes and (len(val) > 0 or not data.val_fraction),
    )


def _smallest(labels: Labels, data: DataConfig, works: Callable[[Indices, Indices], bool]) -> int | None:
    """Return the smallest limit that works, assuming that all larger limits work too; None if none works."""

    def is_enough(limit: int) -> bool:
        return works(*split(labels, data.model_copy(update={"limit": limit})))

    least = bisect_left(range(1, len(labels) + 1), True, key=is_enough) + 1
    return least if least <= len(labels) else None


def missing_classes(train: Labels, names: Sequence[str]) -> str:
    """Return a remark on the declared classes without a training image; empty if all have one."""
    missing = [name for label, name in enumerate(names) if not (train == label).any()]
    if not missing:
        return ""
    listed = ", ".join(missing[:_MOST_NAMES]) + ", …" * (len(missing) > _MOST_NAMES)
    return f"{'class' if len(missing) == 1 else 'classes'} {listed} without a training image"


def _idx(data: DataConfig, tell: Tell, trained: Sequence[str] | None) -> Source:
    located = locate(data, tell, needs_train=trained is None)
    if located.npz is not None:
        parts, _ = npz.read(located.npz, tell)
        return _assemble(parts, data, located.origin, None, tell)
    assert located.idx is not None
    parts = {}
    for kind in ("train", "test"):
        if f"{kind}_images" in located.idx:
            images_name, labels_name = (located.names[f"{kind}_{what}"] for what in ("images", "labels"))
            images = idx.parse(located.idx[f"{kind}_images"], images_name, idx.IMAGES)
            parts[kind] = idx_part(images, located.idx[f"{kind}_labels"], images_name, labels_name)
    return _assemble(parts, data, located.origin, _names_of(parts, trained), tell)


def idx_part(images: pixels.Array, labels: bytes, images_name: str, labels_name: str) -> RawPart:
    """Return the part of the given images and the labels in an IDX file's content. Raises `RequestError`."""
    found = idx.parse(labels, labels_name, idx.LABELS)
    if found.ndim != 1 and found.shape[1:] != (1,):
        raise RequestError(f"{labels_name}: expected a label per image, found {described(found)}")
    if len(images) != len(found):
        raise RequestError(f"{images_name}: {len(images)} images, but {len(found)} labels in {labels_name}")
    return RawPart(images, found.reshape(-1), images_name, f"{labels_name}[{{}}]".format)


def _names_of(parts: Mapping[str, RawPart], trained: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the model's class names for data without a training set; None if the data names its classes."""
    return tuple(trained) if trained and "train" not in parts else None


def _csv(data: DataConfig, tell: Tell, trained: Sequence[str] | None) -> Source:
    paths = given_paths(data, tell, needs_train=trained is None)
    stored = pixels.stored_shape(data.shape, transposes(data, paths))
    parts = {part: csv.read(path, stored, data, tell) for part, path in paths.items()}
    return _assemble(parts, data, str(data.dir), _names_of(parts, trained), tell)


def _npz(data: DataConfig, tell: Tell, trained: Sequence[str] | None) -> Source:
    path = given_paths(data, tell)["archive"]
    for shape, dtype in npz.list_arrays(path).values():
        if len(shape) > 1:
            refuse_too_large(shape[0], math.prod(shape[1:]), data, dtype.itemsize)
    parts, named = npz.read(path, tell, needs_train=trained is None)
    if named is not None and len(named) != data.classes:
        raise RequestError(
            f"{path}: class_names has {len(named)} names, but data.classes={data.classes}; "
            f"set data.classes={len(named)} to match"
        )
    if named and data.class_names and named != data.class_names:
        raise RequestError(
            f"{path}: its class_names {_listed(named)} do not match data.class_names={_listed(data.class_names)}"
        )
    return _assemble(parts, data, str(path), named or _names_of(parts, trained), tell)


def transposes(data: DataConfig, files: Iterable[str | Path]) -> bool:
    """Return whether rows and columns are exchanged: as the config says or, by default, for EMNIST's files."""
    emnist = any("emnist" in Path(file).name.lower() for file in files)
    return emnist if data.transpose is None else data.transpose


def _assemble(
    raw: Mapping[str, RawPart], data: DataConfig, origin: str, named: tuple[str, ...] | None, tell: Tell
) -> Source:
    """Convert the pixels of raw parts to bytes, and their labels to numbers counted from 0.

    Raises `RequestError` if a pixel or a label is not allowed.
    """
    swaps = transposes(data, [part.images_place for part in raw.values()])
    if swaps and data.transpose is None:
        tell(f"{origin}: EMNIST's images are transposed to stand upright; data.transpose=false prevents this")
    stored = pixels.stored_shape(data.shape, swaps)
    images = {}
    for name, part in raw.items():
        _, remark = pixels.as_images(part.images, part.images_place, stored)
        if remark:
            tell(remark)
        as_stored = pixels.as_bytes(part.images, part.images_place, data.scale)
        found, _ = pixels.as_images(as_stored, part.images_place, stored)
        images[name] = found.transpose(0, 2, 1, 3) if swaps else found
    labels, names = as_labels(
        {name: RawLabels(part.labels, part.label_place) for name, part in raw.items()}, data, named
    )
    parts = {name: Part(images[name], labels[name]) for name in raw}
    return Source(parts.get("train") or _no_images(data), parts.get("test"), origin, names)


def _no_images(data: DataConfig) -> Part:
    return Part(np.empty((0, *data.shape), np.uint8), np.empty(0, np.int64))


def list_classes(
    data: DataConfig, tell: Tell, trained: Sequence[str] | None, progress: Progress = no_progress
) -> tuple[folder.Listing, tuple[str, ...], tuple[str, ...]]:
    """List the image files of a data set, the class folders, and the class names, both in label order.

    `trained` and `progress` are as in `find`. Raises `RequestError`.
    """
    paths = given_paths(data, tell, needs_train=trained is None)
    listing = folder.list_images(paths)
    if "train" not in listing.files:
        assert trained is not None
        listing.files = {"train": _classes_of_model(listing.files["test"], trained), **listing.files}
    folders, names = classes_of(listing.files, paths, data, tell)
    note_untrained_classes(listing, tell)
    if len(_empty_classes(listing, data)):
        listing.faults.include(folder.find_unreadable(listing, progress))  # reported in the same message
    refuse_empty_classes(listing, data, tell)
    return listing, folders, names


def _classes_of_model(tests: Mapping[str, object], trained: Sequence[str]) -> dict[str, list[str]]:
    """Return empty class folders in the order of a model's classes, for data without a training set."""
    numbers = default_class_names(len(trained))
    known = tuple(trained)
    if not set(tests) <= set(known):
        if set(tests) <= set(numbers):  # numbered folders of named classes
            known = numbers
        elif known == numbers == default_class_names(len(tests)):  # named folders of numbered classes
            known = tuple(tests)
    return {name: [] for name in known}


def _folder(data: DataConfig, tell: Tell, progress: Progress, trained: Sequence[str] | None) -> Source:
    listing, folders, names = list_classes(data, tell, trained, progress)
    count = sum(len(images) for part in listing.files.values() for images in part.values())
    refuse_too_large(count, math.prod(data.shape), data)
    parts = {
        part: folder.read(images, folders, data, listing.faults, tell, progress)
        for part, images in listing.files.items()
    }
    if listing.clutter:
        tell(f"{data.dir}: {listing.note_clutter()}")
    if data.transpose:
        parts = {name: replace(part, images=part.images.transpose(0, 2, 1, 3)) for name, part in parts.items()}
    skipped = tuple(listing.faults.places)
    if data.skip_bad and skipped:
        refuse_empty_classes(listing, data, tell)
        tell(listing.faults.note(str(data.dir)))
    else:
        advice = "; data.skip_bad=true leaves such files out" if len(listing.faults) < count else ""
        listing.faults.raise_any(f"{data.dir}, {count:,} images", advice)
    return Source(parts["train"], parts.get("test"), str(data.dir), names, skipped)


def note_untrained_classes(listing: folder.Listing, tell: Tell) -> None:
    """Report the classes that have test images only, unless there is no training set."""
    if "train" not in listing.folders:
        return
    for name, images in listing.files["train"].items():
        if not images and listing.files.get("test", {}).get(name):
            tell(f"{listing.folders['train'] / name}: no images; the class has test images only")


def refuse_empty_classes(listing: folder.Listing, data: DataConfig, tell: Tell) -> None:
    """Raise `RequestError` if a class has no images without faults.

    The message lists all faults found so far; those that `data.skip_bad` leaves out are only reported.
    """
    empty = _empty_classes(listing, data)
    if not len(empty):
        return
    if not data.skip_bad:
        empty.include(listing.faults)
    elif len(listing.faults):
        tell(listing.faults.note(str(data.dir)))
    empty.raise_any(str(listing.folders["train"]))


def _empty_classes(listing: folder.Listing, data: DataConfig) -> Faults:
    """Return a fault for each class folder without an image that can be used, if there is a training set."""
    empty = Faults()
    if "train" not in listing.folders:
        return empty
    unusable = set(listing.faults.places) if data.skip_bad else set()
    for name, images in listing.files["train"].items():
        if unusable.issuperset(images) and not listing.files.get("test", {}).get(name):
            what = _ALL_BAD if images else _EMPTY
            empty.add("class folders without images", str(listing.folders["train"] / name), what)
    return empty


def refuse_single_class(folders: Collection[str], place: object, advice: str = "") -> None:
    """Raise `RequestError` for a data set with a single class folder."""
    if len(folders) < 2:
        raise RequestError(
            f"{place}: expected a folder for each of at least two classes, found only {_listed(tuple(folders))}"
            f"{advice}"
        )


def classes_of(
    files: Mapping[str, Mapping[str, object]], paths: Mapping[str, Path], data: DataConfig, tell: Tell
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the class folders and the class names, both in label order. Raises `RequestError`."""
    folders = tuple(files["train"])
    refuse_single_class(folders, paths.get("train", data.dir))
    if len(folders) != data.classes:
        declared = f"data.classes={data.classes}; set data.classes={len(folders)} to match"
        raise RequestError(
            f"{paths.get('train', data.dir)}: {len(folders)} class folders ({_listed(folders)}), "
            f"but {declared if data.alternative is None else f'the model has {data.classes} classes'}"
        )
    if unknown := sorted(set(files.get("test", ())) - set(folders)):
        if "train" not in paths:
            raise RequestError(
                f"{paths['test']}: the model has no class named {' or '.join(unknown)}"
                f"{did_you_mean(unknown[0], folders)}; its classes are {_listed(folders)}"
            )
        differing = sorted(set(files["test"]) ^ set(folders))
        near = "".join(did_you_mean(name, folders) for name in unknown[:1])
        raise RequestError(
            f"{paths['test']}: its class folders differ from those of {paths['train']}; "
            f"in only one of the two: {_listed(tuple(differing))}{near}"
        )
    if "test" in files and (missing := [name for name in folders if name not in files["test"]]):
        tell(f"{paths['test']}: no folders for the classes {_listed(tuple(missing))}, which are not tested")
    names = data.class_names or folders
    if set(names) == set(folders):
        folders = names  # labels follow the declared order
    elif folders != default_class_names(data.classes):  # numbered folders may be given any names
        raise RequestError(
            f"{paths['train']}: its class folders {_listed(folders)} do not match "
            f"data.class_names={_listed(names)}"
        )
    return folders, names


def _listed(names: tuple[str, ...]) -> str:
    return f"[{', '.join(names[:_MOST_NAMES])}{', …' if len(names) > _MOST_NAMES else ''}]"


def verify(part: Part, data: DataConfig, name: str) -> None:
    """Raise `RequestError` if a part, called `name` in messages, is not as declared."""
    if not len(part):
        raise RequestError(f"{name}: no images")
    if part.images.shape[1:] != data.shape:
        found, expected = ("×".join(map(str, shape)) for shape in (part.images.shape[1:], data.shape))
        advice = f"; set {shape_override(part.images.shape[1:])} to match"
        if data.alternative is not None:
            advice = data.alternative
        raise RequestError(f"{name}: images of {found}, but data.shape says {expected}{advice}")
