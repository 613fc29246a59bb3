"""Find what makes a data set hard to learn or its results misleading: rare classes, duplicates, blank images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from mnist_exp.data.dataset import Part, Source, default_class_names
from mnist_exp.data.near_duplicates import find_near_pairs
from mnist_exp.text import format_percent

_FEW = 10  # a class with fewer training images is reported
_IMBALANCED = 3  # times as many images in the largest class as in the smallest
_MOST_NAMES = 5  # in a remark
_MOST_PAIRS = 3  # in a remark
_BY_CHANCE = 0.002  # share of images that are nearly the same without being copies, as among MNIST's images of 1
_LIGHT = 170  # of 255: from here, the pixels at the border are a light background
_SAMPLE = 1000  # images that are examined for a light background or for digits on their side
_LYING = 1.5  # times as wide as high; no image of 1 in MNIST is
MNISTS_SHAPE = (28, 28, 1)


def remarks(source: Source) -> list[str]:
    """Return a sentence for each weakness of a data set, with counts.

    Classes without a training image are left to `formats.missing_classes`.
    """
    keys = {name: _keys(part) for name, part in source.parts.items()}
    found = [_few(source), _imbalance(source), _blank(source), *_duplicates(source, keys)]
    found += [*_near_duplicates(source, keys), light_background(source.train), _lying_digits(source)]
    return [remark for remark in found if remark]


def _few(source: Source) -> str:
    counts = np.bincount(source.train.labels, minlength=len(source.class_names))
    few = np.flatnonzero((counts > 0) & (counts < _FEW))
    if not len(few):
        return ""
    names = ", ".join(f"{source.class_names[label]} ({counts[label]})" for label in few[:_MOST_NAMES])
    return (
        f"{len(few)} class{'es have' if len(few) > 1 else ' has'} fewer than {_FEW} training images: "
        f"{names}{', …' * (len(few) > _MOST_NAMES)}"
    )


def _imbalance(source: Source) -> str:
    counts = np.bincount(source.train.labels, minlength=len(source.class_names))
    present = counts[counts > 0]
    if len(present) < 2 or present.max() < _IMBALANCED * present.min():
        return ""
    largest = int(counts.argmax())
    name, scored = source.class_names[largest], source.test or source.train
    share = float((scored.labels == largest).mean())
    return (
        f"class {name} has {counts[largest]:,} training images, the smallest class {present.min():,}; always "
        f"predicting {name} has an accuracy of {format_percent(share, 1)} on the "
        f"{'test' if source.test else 'training'} set; "
        "training.class_weight=balanced gives the classes equal weight"
    )


def _blank(source: Source) -> str:
    counts = {}
    for name, part in source.parts.items():
        flat = part.images.reshape(len(part), -1)
        counts[name] = int((flat == flat[:, :1]).all(axis=1).sum())
    total = sum(counts.values())
    if not total:
        return ""
    where = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    return f"{total:,} image{'s' if total > 1 else ''} of a single colour: {where}"


def _duplicates(source: Source, keys: dict[str, list[int]]) -> list[str]:
    train, labels = keys["train"], source.train.labels
    first: dict[int, int] = {}
    same: list[tuple[int, int]] = []
    different: list[tuple[int, int]] = []
    for index, key in enumerate(train):
        earlier = first.setdefault(key, index)
        if earlier != index:
            (same if labels[earlier] == labels[index] else different).append((earlier, index))
    found = []
    if count := len(different):
        found.append(
            f"{count:,} training image{'s are copies' if count > 1 else ' is a copy'} of another with a "
            f"different label, such as {_classes(source, different[0])}{_shown(source, different)}"
        )
    if count := len(same):
        found.append(
            f"{count:,} training image{'s are copies' if count > 1 else ' is a copy'} of another of the same class"
            f"{_shown(source, same)}"
        )
    tests = keys.get("test", ())
    if shared := [(first[key], len(train) + index) for index, key in enumerate(tests) if key in first]:
        found.append(
            f"{len(shared):,} of {len(tests):,} test images are also training images, "
            f"so the test results are too optimistic{_shown(source, shared)}"
        )
    return found


def _near_duplicates(source: Source, keys: dict[str, list[int]]) -> list[str]:
    """Return remarks on images that are nearly, but not exactly, the same."""
    key = np.array([one for part in keys.values() for one in part])
    labels = np.concatenate([part.labels for part in source.parts.values()])
    pairs = find_near_pairs([part.images for part in source.parts.values()])
    pairs = pairs[key[pairs[:, 0]] != key[pairs[:, 1]]]
    first, second = pairs[:, 0], pairs[:, 1]
    train = len(source.train)
    differ, tested = labels[first] != labels[second], (first < train) & (second >= train)
    found = []
    different, same = pairs[differ & (second < train)], pairs[~differ & (second < train)]
    if count := len(np.unique(different[:, 1])):
        found.append(
            f"{count:,} training image{'s are' if count > 1 else ' is'} nearly the same as another with a "
            f"different label, such as {_classes(source, different[0])}{_shown(source, different)}"
        )
    count = len(np.unique(same[:, 1]))
    if count > train * _BY_CHANCE:
        found.append(
            f"{count:,} training image{'s are' if count > 1 else ' is'} nearly the same as others of their class, "
            f"such as scaled or compressed copies{_shown(source, same)}"
        )
    count, tests = len(np.unique(second[tested])), len(labels) - train
    if count > tests * _BY_CHANCE:
        found.append(
            f"{count:,} of {tests:,} test images {'are' if count > 1 else 'is'} nearly the same as training "
            f"images, so the test results are too optimistic{_shown(source, pairs[tested])}"
        )
    return found


def _classes(source: Source, pair: Iterable[int]) -> str:
    """Return the class names of a pair of training images."""
    return " and ".join(source.class_names[label] for label in source.train.labels[list(pair)])


def _shown(source: Source, pairs: Sequence[Iterable[int]] | npt.NDArray[np.int64]) -> str:
    """Return the end of a remark: the first pairs of indices, which count the training, then the test images."""
    shown = [" and ".join(_place(source, int(index)) for index in pair) for pair in pairs[:_MOST_PAIRS]]
    return f": {'; '.join(shown)}{'; …' * (len(pairs) > _MOST_PAIRS)}"


def _place(source: Source, index: int) -> str:
    """Return the file of an image inside the data set's folder or, if it has none, its number in its part."""
    name, number = ("training", index) if index < len(source.train) else ("test", index - len(source.train))
    part = source.train if name == "training" else source.test
    if part is not None and part.paths:
        return part.paths[number].removeprefix(f"{source.origin}/")
    return f"{name} image {number:,}"


def light_background(part: Part) -> str:
    """Return a remark if images in MNIST's size are dark on light, unlike MNIST's; empty otherwise."""
    if part.images.shape[1:] != MNISTS_SHAPE:
        return ""
    some = part.images[:: max(1, len(part) // _SAMPLE), ..., 0]
    border = np.concatenate([some[:, 0], some[:, -1], some[:, :, 0], some[:, :, -1]], axis=1)
    if np.median(border) < _LIGHT:
        return ""
    return (
        "the images have a light background, but models trained on MNIST's digits expect a dark one; "
        "'data.scale=[255,0]' inverts the images"
    )


def _lying_digits(source: Source) -> str:
    """Return a remark if digits lie on their side, as in transposed images: an upright 1 is higher than wide."""
    part = source.train
    if source.class_names != default_class_names(10) or part.images.shape[3] != 1:
        return ""
    ones = part.images[part.labels == 1][:_SAMPLE, ..., 0].astype(np.float32)
    if len(ones) < _FEW:
        return ""
    contrast = np.abs(ones - np.median(ones, axis=(1, 2), keepdims=True))
    ink = np.where(contrast > contrast.max(axis=(1, 2), keepdims=True) / 2, contrast, 0)
    down, across = _spread(ink.sum(axis=2)), _spread(ink.sum(axis=1))
    if np.count_nonzero(across > _LYING * down) <= len(ones) / 2:
        return ""
    return (
        "most images of the digit 1 are wider than high, as if rows and columns were swapped; data.transpose=true "
        "swaps them (data.transpose=false, if they have been swapped)"
    )


def _spread(ink: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the standard deviation of the ink's position in each row of an array."""
    places = np.arange(ink.shape[1], dtype=np.float32)
    total = np.maximum(ink.sum(axis=1), 1)
    mean = (ink @ places / total)[:, np.newaxis]
    spread: npt.NDArray[np.float32] = np.sqrt((ink * (places - mean) ** 2).sum(axis=1) / total)
    return spread


def _keys(part: Part) -> list[int]:
    """Return a hash of each image."""
    flat: npt.NDArray[np.uint8] = np.ascontiguousarray(part.images).reshape(len(part), -1)
    return [hash(row.tobytes()) for row in flat]
