"""One rule for labels, whatever file or array they come from.

Labels are whole numbers, counted from `data.label_offset` (by default 0), or words, which then name the classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mnist_exp.config.data_schema import DataConfig
from mnist_exp.data.dataset import Labels, default_class_names
from mnist_exp.data.folder import sort_class_names
from mnist_exp.data.pixels import described
from mnist_exp.errors import RequestError
from mnist_exp.suggest import did_you_mean

Array = npt.NDArray[Any]

_MOST_NAMES = 12  # in a message
_MOST_PLACES = 3  # in a message
_MOST_CLASSES = 2**20
_MOSTLY = 0.5  # if more than this share of the distinct labels are numbers, the others count as mistakes
_TRUE_LABELS = ("U", "S", "O", "T")


@dataclass(frozen=True)
class RawLabels:
    """The labels of a part as they are in its file: numbers or strings."""

    values: Array
    place: Callable[[int], str]
    """Describes the place of an image's label, given the image's index, for messages."""


def as_labels(
    parts: Mapping[str, RawLabels], data: DataConfig, named: tuple[str, ...] | None = None
) -> tuple[dict[str, Labels], tuple[str, ...]]:
    """Return the labels of each part, counted from 0, and the class names.

    Args:
        parts: The raw labels.
        data: The config; `data.classes` must match the labels.
        named: The class names that the file declares, if any.

    Raises:
        RequestError: A label is not allowed.
    """
    numbers = {name: _numbers(part) for name, part in parts.items()}
    if any(found is None for found in numbers.values()):
        return _from_words(parts, data, named)
    labels: dict[str, Labels] = {name: found for name, found in numbers.items() if found is not None}
    _refuse_outside(parts, labels, data)
    offset = data.label_offset or 0
    names = named or data.class_names or default_class_names(data.classes)
    return {name: found - offset for name, found in labels.items()}, names


def count_classes(parts: Mapping[str, RawLabels], data: DataConfig) -> int:
    """Return the number of classes that labels imply. Raises `RequestError` if it is ambiguous."""
    numbers = [_numbers(part) for part in parts.values()]
    if any(found is None for found in numbers):
        return len(_words(_first(parts)))
    present = [found for found in numbers if found is not None and len(found)]
    if not present:
        return 2
    lowest, highest = min(int(found.min()) for found in present), max(int(found.max()) for found in present)
    if data.label_offset is None and lowest > 0:
        raise RequestError(
            f"{_where(_first(parts))}: the labels range from {lowest} to {highest}; set "
            f"data.label_offset={lowest} to count them from {lowest}, or data.label_offset=0 to count them from 0"
        )
    return max(highest - (data.label_offset or 0) + 1, 2)


def refuse_gaps(parts: Mapping[str, RawLabels], classes: int) -> None:
    """Raise `RequestError` if whole numbers between the lowest and the highest label label no image."""
    numbers = [found for part in parts.values() if (found := _numbers(part)) is not None and len(found)]
    present = np.unique(np.concatenate(numbers)) if len(numbers) == len(parts) else np.empty(0, np.int64)
    gaps = np.flatnonzero(np.diff(present) > 1)
    if not len(gaps):
        return
    missing = sum(int(present[gap + 1] - present[gap]) - 1 for gap in gaps)
    first, last = int(present[gaps[0]]) + 1, int(present[gaps[0] + 1]) - 1
    shown = f"{first}" if first == last else f"{first} to {last}"
    others = f" and {missing - (last - first + 1):,} more" if len(gaps) > 1 else ""
    raise RequestError(
        f"{_where(_first(parts))}: the labels range from {present[0]} to {present[-1]}, but no image has the "
        f"label {shown}{others}; correct the labels, or set data.classes={classes} to keep classes without images"
    )


def _refuse_missing(part: RawLabels) -> None:
    """Raise `RequestError` with the place of the first empty label and the number of the others."""
    empty = np.flatnonzero(np.strings.strip(part.values.astype(str)) == "")
    if len(empty):
        places = [part.place(int(index)) for index in empty[:_MOST_PLACES]]
        others = ", ".join([*places[1:], *["…"] * (len(empty) > _MOST_PLACES)])
        also = f"; {len(empty) - 1:,} more {'are' if len(empty) > 2 else 'is'} missing: {others}" if others else ""
        raise RequestError(f"{places[0]}: the label is missing{also}; enter it, or remove the image")


def _numbers(part: RawLabels) -> Labels | None:
    """Return labels as whole numbers, or None if they are words. Raises `RequestError` for other values."""
    values = part.values
    if values.dtype.kind in _TRUE_LABELS:
        _refuse_missing(part)
        numeric = np.array([_is_number(str(text)) for text in np.unique(values.astype(str))])
        if numeric.mean() <= _MOSTLY:
            return None
        if not numeric.all():
            index = next(index for index, text in enumerate(values.astype(str)) if not _is_number(str(text)))
            found = str(values[index])[:40]
            raise RequestError(f"{part.place(index)}: expected a label, a whole number, found {found!r}")
        values = values.astype(str).astype(np.float64)
    if values.dtype.kind not in "buif":
        raise RequestError(f"{part.place(0)}: expected numbers or words as labels, found {described(values)}")
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            good = (values == np.floor(values)) & (np.abs(values) < 2**31)
        if not good.all():
            index = int(np.argmin(good))
            raise RequestError(
                f"{part.place(index)}: expected a label, a whole number, found {str(part.values[index])[:40]}"
            )
    return values.astype(np.int64)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) or len(text) > 9
    except ValueError:
        return False


def _words(part: RawLabels) -> tuple[str, ...]:
    words = np.unique(np.strings.strip(part.values.astype(str)))
    return sort_class_names([str(word) for word in words])


def _from_words(
    parts: Mapping[str, RawLabels], data: DataConfig, named: tuple[str, ...] | None
) -> tuple[dict[str, Labels], tuple[str, ...]]:
    names = named or data.class_names or _words(_first(parts))
    if len(names) != data.classes:
        raise RequestError(
            f"{_where(_first(parts))}: the labels are {len(names)} words ({_listed(names)}), but data.classes="
            f"{data.classes}; set data.classes={len(names)} to match"
        )
    numbers = {name: label for label, name in enumerate(names)}
    labels = {}
    for name, part in parts.items():
        words = [str(word).strip() for word in part.values.astype(str)]
        for index, word in enumerate(words):
            if word not in numbers:
                raise RequestError(
                    f"{part.place(index)}: expected one of the labels {_listed(names)}, found {word[:40]!r}"
                    f"{did_you_mean(word, names)}"
                )
        labels[name] = np.array([numbers[word] for word in words], np.int64)
    return labels, names


def _refuse_outside(parts: Mapping[str, RawLabels], labels: Mapping[str, Labels], data: DataConfig) -> None:
    """Raise `RequestError` for the first label outside of the declared classes."""
    first = data.label_offset or 0
    last = first + data.classes - 1
    lowest = min((int(found.min()) for found in labels.values() if len(found)), default=0)
    highest = max((int(found.max()) for found in labels.values() if len(found)), default=0)
    for name, found in labels.items():
        wrong = np.flatnonzero((found < first) | (found > last))
        if not len(wrong):
            continue
        others = f"; {len(wrong) - 1:,} more out of range" if len(wrong) > 1 else ""
        advice = ""
        if data.label_offset is None and lowest > 0 and highest - lowest < data.classes:
            advice = f"; the labels range from {lowest} to {highest}: set data.label_offset={lowest}"
        elif first <= lowest and highest < _MOST_CLASSES:
            advice = f"; set data.classes={highest - first + 1} to include them"
        raise RequestError(
            f"{parts[name].place(int(wrong[0]))}: expected a label, a whole number from {first} to {last}, "
            f"found {found[wrong[0]]}{others}{advice}"
        )


def _first(parts: Mapping[str, RawLabels]) -> RawLabels:
    """Return the training set or, if there is none, the test set."""
    return next(iter(parts.values()))


def _where(part: RawLabels) -> str:
    return part.place(0).partition("[")[0].partition(", line")[0]


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:_MOST_NAMES])}{', …' if len(names) > _MOST_NAMES else ''}"
