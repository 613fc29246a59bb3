"""Find the column that holds the labels in a CSV table. A column that is not certain is reported or refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnist_exp.errors import RequestError

Array = npt.NDArray[Any]
Rows = Sequence[tuple[int, Sequence[str]]]
"""The first lines of a table with their numbers, from 1."""

_LABELS = ("label", "labels", "class", "target", "y", "digit", "letter")  # headers of the label's column
LINE_NUMBERS = ("", "id", "index", "unnamed: 0")  # headers of a column that numbers the lines
_CHOICE = "data.label_column=0 takes the labels from the first column, data.label_column=-1 from the last"


@dataclass(frozen=True)
class LabelColumn:
    """The column and values of the labels in tables of images to classify, as far as they are known."""

    column: int | str | None = None
    """The name or number of their column; None: only known if the table shows it."""
    is_given: bool = False
    """Whether the user declared the column for these tables; otherwise, it is that of the model's data."""
    labels: range = range(0)
    """The labels in the model's data."""


@dataclass(frozen=True)
class Found:
    """The column that holds the labels."""

    number: int
    """Its number, from 0."""
    is_certain: bool
    """Whether it was declared, or is evident from the header or the first lines."""


def find_in_training_table(
    path: Path, rows: Rows, header: Sequence[str] | None, wanted: int | str | None
) -> Found:
    """Return the declared column, else the one that the header names, else the first. Raises `RequestError`."""
    line, first = rows[0]
    if wanted is not None:
        return Found(_number_of(path, first, header, wanted), is_certain=True)
    named = _named_in(header)
    if named is not None:
        return Found(named, is_certain=True)
    if header and re.fullmatch(r"pixel\d*|\d+x\d+", header[0].strip().lower()):
        raise RequestError(
            f"{path}, line {line}: the header goes from {first[0][:40]!r} to {first[-1][:40]!r}; "
            "set data.label_column=… to the name or number of the label's column (0 is the first, -1 the last)"
        )
    if _words_in(rows, header) == len(first) - 1:
        raise _other_column(path)
    return Found(0, is_certain=False)


def find_in_table_to_classify(path: Path, rows: Rows, header: Sequence[str] | None, wanted: LabelColumn) -> Found:
    """Return the column to ignore in a table with one more column than pixels. Raises `RequestError`."""
    line, first = rows[0]
    if wanted.is_given and wanted.column is not None:
        return Found(_number_of(path, first, header, wanted.column), is_certain=True)
    names = [name.strip().lower() for name in header or ()]
    if isinstance(wanted.column, str) and wanted.column.strip().lower() in names:
        return Found(names.index(wanted.column.strip().lower()), is_certain=True)
    named = _named_in(header)
    if named is None and names and names[0] in LINE_NUMBERS:
        named = 0
    if named is None:
        named = _words_in(rows, header)
    if named is not None:
        return Found(named, is_certain=True)
    if isinstance(wanted.column, int):
        return Found(_number_of(path, first, header, wanted.column), is_certain=False)
    raise RequestError(
        f"{path}, line {line}: {len(first)} values, one more than an image has pixels, and no header names the "
        f"label's column; {_CHOICE}"
    )


def _number_of(path: Path, first: Sequence[str], header: Sequence[str] | None, wanted: int | str) -> int:
    if isinstance(wanted, int):
        if not -len(first) <= wanted < len(first):
            raise RequestError(
                f"data.label_column={wanted}: {path} has {len(first)} columns, 0 to {len(first) - 1}"
            )
        return wanted % len(first)
    names = [name.strip().lower() for name in header or ()]
    if wanted.strip().lower() not in names:
        shown = f"its header goes from {first[0][:40]!r} to {first[-1][:40]!r}" if names else "it has no header"
        raise RequestError(f"data.label_column={wanted}: {path} has no such column; {shown}")
    return names.index(wanted.strip().lower())


def _named_in(header: Sequence[str] | None) -> int | None:
    """Return the only column that the header calls a label; None if there is not exactly one."""
    known = [index for index, name in enumerate(header or ()) if name.strip().lower() in _LABELS]
    return known[0] if len(known) == 1 else None


def _words_in(rows: Rows, header: Sequence[str] | None) -> int | None:
    """Return the first or last column if it alone holds words, which cannot be pixels; None otherwise."""
    lines = [row for _, row in (rows if header is None else rows[1:])]
    ends = [end for end in (0, -1) if lines and all(_is_word(row[end]) for row in lines)]
    return ends[0] % len(rows[0][1]) if len(ends) == 1 else None


def _is_word(text: str) -> bool:
    return any(map(str.isalpha, text)) and as_number(text) is None


def as_number(text: str) -> float | None:
    """Return the number that a string represents in any of Python's notations; None if there is none."""
    try:
        return float(text)
    except ValueError:
        return None


def refuse_other_column(path: Path, labels: Array, last: Array, declared: range) -> None:
    """Raise `RequestError` if the last column of a training table looks more like labels than the first."""
    if (looks_like_labels(last) and not looks_like_labels(labels)) or _is_swapped(labels, last, declared):
        raise _other_column(path)


def _other_column(path: Path) -> RequestError:
    return RequestError(
        f"{path}: the first column does not look like labels, but the last one does; use data.label_column=-1 "
        "to read the labels from the last column, or data.label_column=0 to read them from the first"
    )


def refuse_contradiction(path: Path, place: str, labels: Array, other: Array, wanted: LabelColumn) -> None:
    """Raise `RequestError` if a table's values contradict the column that holds the labels in the model's data.

    Args:
        path: The table.
        place: The column's name in the message.
        labels: Its values.
        other: The values of the other outermost column.
        wanted: The column and labels of the model's data.
    """
    known = wanted.labels
    numbers = _numbers(labels)
    if numbers is not None and not _are_in(numbers, known):
        wrong = f"has {_shown(numbers, known)}, but the labels are {known[0]} to {known[-1]}"
    elif _is_swapped(labels, other, known):
        wrong = "has the same value in each line, and the column at the other end looks like the labels"
    else:
        return
    raise RequestError(f"{path}: {place}, which holds the labels in the model's data, {wrong}; {_CHOICE}")


def _shown(numbers: Array, known: range) -> str:
    first = next(number for number in numbers if number not in known)
    return f"{first:g}"


def _is_swapped(labels: Array, other: Array, known: range) -> bool:
    """Return whether labels are all 0, like a corner pixel, and another column has several values, all labels."""
    zeros, numbers = _numbers(labels), _numbers(other)
    if zeros is None or zeros.any() or numbers is None:
        return False
    return len(np.unique(numbers)) > 1 and _are_in(numbers, known)


def _are_in(numbers: Array, known: range) -> bool:
    return bool(np.isin(numbers, np.array(known)).all())


def _numbers(values: Array) -> Array | None:
    """Return values as numbers; None if they are words."""
    try:
        return values.astype(str).astype(np.float64) if values.dtype.kind in "OU" else values
    except ValueError:
        return None


def looks_like_labels(values: Array) -> bool:
    """Return whether values are words, or a few consecutive integers starting at 0 or 1."""
    found = _numbers(values)
    if found is None:
        return True
    numbers = np.unique(found)
    steps = bool((np.diff(numbers) == 1).all()) and 2 <= len(numbers) <= len(values) / 2
    return steps and numbers[0] in (0, 1)


def describe(number: int, count: int, header: Sequence[str] | None) -> str:
    """Return the name of a column for messages, such as `the last column (label)`."""
    place = {0: "the first column", count - 1: "the last column"}.get(number, f"column {number + 1}")
    return f"{place} ({header[number].strip()[:40]})" if header and header[number].strip() else place
