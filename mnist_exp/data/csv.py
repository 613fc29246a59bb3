"""Read and write CSV files: one image per line, its label, then its pixels in C order (height, width, channel).

The first line may be a header that names each column. Values are integers, pixels from 0 to 255. CRLF line
endings and a byte order mark are accepted; empty lines are skipped.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnist_exp.data.dataset import CHUNK, Advance, Images, Labels, Part, Shape
from mnist_exp.errors import RequestError

_SEPARATORS = {";": "semicolons", "\t": "tabs", " ": "spaces"}  # used by some programs in their "CSV" files
_BLOCK = 1 << 20  # bytes per read: larger blocks were hardly faster and took 40 MB more


def read(path: Path, shape: Shape, classes: int) -> Part:
    """Read the images and labels of a file. Raises `RequestError` with the line of the first problem."""
    columns = _Columns(shape, classes)
    images, labels = _read(path, columns)
    if not len(labels) or labels.min() < 0 or labels.max() >= classes:
        _explain(path, columns, highest=int(labels.max(initial=0)))
    return Part(images, labels)


def read_images(path: Path, shape: Shape) -> tuple[Images, bool]:
    """Read the images of a file and ignore any labels. Raises `RequestError` with the line of the first problem.

    Returns:
        The images, and whether each line has a label before its pixels.
    """
    _, first = next(_rows(path), (0, []))
    labelled = len(first) == 1 + math.prod(shape)
    return _read(path, _Columns(shape, None, labelled))[0], labelled


@dataclass(frozen=True)
class _Columns:
    """The columns of a line: an optional label less than `classes` (None: ignored), then the pixels."""

    shape: Shape
    classes: int | None
    labelled: bool = True

    @property
    def count(self) -> int:
        return self.labelled + math.prod(self.shape)

    @property
    def expected(self) -> str:
        return "its label, then its pixels" if self.labelled else "its pixels"


def _read(path: Path, columns: _Columns) -> tuple[Images, Labels]:
    """Read the images and the unchecked labels (zeros if `classes` is None); there may be none."""
    import pyarrow as pa  # imported here because it takes a sixth of a second
    from pyarrow import csv as fast

    skip = _header_lines(path, columns)
    names = [str(column) for column in range(columns.count)]
    types = {name: pa.uint8() for name in names}
    if columns.labelled:
        types["0"] = pa.string() if columns.classes is None else pa.int64()
    pixels = names[columns.labelled :]
    # An upper bound, as each value takes at least two bytes with its separator. Unused memory is never touched.
    most = path.stat().st_size // (2 * columns.count) + 1
    images, labels = np.empty((most, len(pixels)), np.uint8), np.zeros(most, np.int64)
    count = 0
    if _has_hexadecimals(path, skip):  # pyarrow would read hexadecimals as numbers
        _explain(path, columns)
    try:
        batches = fast.open_csv(
            str(path),
            read_options=fast.ReadOptions(
                column_names=names, skip_rows=skip, block_size=max(_BLOCK, 16 * columns.count)
            ),
            convert_options=fast.ConvertOptions(column_types=types, null_values=[]),
        )
        for batch in batches:
            end = count + batch.num_rows
            if columns.classes is not None:
                labels[count:end] = batch.column(0).to_numpy()
            images[count:end] = batch.select(pixels).to_tensor().to_numpy()
            count = end
    except (pa.ArrowException, OSError, ValueError) as error:
        _explain(path, columns)
        raise RequestError(f"{path}: cannot be read: {error}") from error
    return images[:count].reshape(-1, *columns.shape), labels[:count]


def write(folder: Path, parts: dict[str, Part], header: bool, advance: Advance) -> None:
    """Write `train.csv` and, if there is a test part, `test.csv`.

    `header` adds the header of Kaggle's Digit Recognizer.
    """
    # Each value and its separator, padded with zero bytes to four; the padding is removed from the finished text.
    inner, last = (np.array([f"{value}{end}" for value in range(256)], "S4").view("u4") for end in ",\n")
    for name, part in parts.items():
        pixels = part.images.reshape(len(part), -1)
        with (folder / f"{name}.csv").open("wb") as file:
            if header:
                file.write(",".join(["label", *(f"pixel{i}" for i in range(pixels.shape[1]))]).encode() + b"\n")
            for start in range(0, len(part), CHUNK):
                values = pixels[start : start + CHUNK]
                labels = np.strings.add(part.labels[start : start + CHUNK].astype("S"), b",")
                lines = np.empty(len(values), [("label", labels.dtype), ("pixels", "u4", (pixels.shape[1],))])
                lines["label"] = labels
                lines["pixels"] = inner[values]
                lines["pixels"][:, -1] = last[values[:, -1]]
                file.write(lines.tobytes().translate(None, b"\0"))
                advance(len(values))


def _header_lines(path: Path, columns: _Columns) -> int:
    """Return the number of lines before the first image. Raises `RequestError` for a bad header or no images."""
    rows = _rows(path)
    line, first = next(rows, (0, []))
    if not first:
        raise RequestError(f"{path}: is empty; expected a line per image: {columns.expected}")
    if not _is_header(first):
        return line - 1
    if len(first) != columns.count:
        raise RequestError(f"{path}, line {line}: {_other_length(first, columns)}")
    begins, ends = (name.strip().lower() for name in (first[0], first[-1]))
    if columns.labelled and (
        re.fullmatch(r"pixel\d*|\d+x\d+", begins) or ends in ("label", "class", "target", "y")
    ):
        raise RequestError(
            f"{path}, line {line}: the label must be the first column, but the header goes "
            f"from {first[0][:40]!r} to {first[-1][:40]!r}"
        )
    if next(rows, None) is None:
        raise RequestError(f"{path}: has a header, but no images")
    return line


def _has_hexadecimals(path: Path, skip: int) -> bool:
    with path.open("rb") as file:
        for _ in range(skip):
            file.readline()
        return any(b"x" in block or b"X" in block for block in iter(lambda: file.read(_BLOCK), b""))


def _is_header(row: Sequence[str]) -> bool:
    """Return whether a row is a header: only names, or a name followed by pixel numbers.

    A line of values with a single damaged one is not a header.
    """
    named = not any(map(_is_number, row))
    counted = not _is_number(row[0]) and [*map(str.strip, row[1:])] in (
        [*map(str, range(len(row) - 1))],
        [*map(str, range(1, len(row)))],
    )
    return named or counted


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the non-empty lines with their numbers, from 1."""
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            rows = csv.reader(file)
            for row in rows:
                if row:
                    yield rows.line_num, row
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from error
    except csv.Error as error:
        raise RequestError(f"{path}, line {rows.line_num}: {error}") from error


def _explain(path: Path, columns: _Columns, highest: int = 0) -> None:
    """Scan a file line by line and raise `RequestError` for the first problem, if there is one.

    Slow, so only for files that appear to be invalid. `highest` is the highest label in the file, if known.
    """
    for number, (line, row) in enumerate(_rows(path)):
        if number == 0 and _is_header(row):
            continue
        place = f"{path}, line {line}"
        if len(row) != columns.count:
            raise RequestError(f"{place}: {_other_length(row, columns)}")
        for column, text in enumerate(row, start=1):
            is_label = columns.labelled and column == 1
            if not (is_label and columns.classes is None):
                _check_value(
                    text.strip(), f"{place}, column {column}", columns.classes if is_label else None, highest
                )


def _check_value(value: str, place: str, classes: int | None, highest: int) -> None:
    """Raise `RequestError` if a value is not a label less than `classes` or, if that is None, not a pixel."""
    what, limit = ("pixel", 255) if classes is None else ("label", classes - 1)
    whole = value.isascii() and value.isdigit()
    if not whole or float(value) > limit:  # not int(), which rejects more than 4,300 digits
        advice = ""
        if classes is not None and whole and len(value) < 10:
            advice = f"; data.classes={max(int(value), highest) + 1} would declare it"
        raise RequestError(
            f"{place}: expected a {what}, a whole number from 0 to {limit}, found {value[:40]!r}{advice}"
        )


def _other_length(row: Sequence[str], columns: _Columns) -> str:
    """Describe the mismatch in a line's number of values, with an override that would fix it if there is one."""
    found, shape, pixels = len(row), columns.shape, math.prod(columns.shape)
    for separator, name in _SEPARATORS.items():
        if found == 1 and len(row[0].split(separator)) >= pixels:
            return f"its values are separated by {name}, expected commas"
    values = f"{found} value{'s' * (found != 1)}"
    if columns.classes is None:
        images = "×".join(map(str, shape))
        return f"{values}, expected {pixels}: the pixels of {images}, with or without a label before them"
    declared = f"data.shape=[{','.join(map(str, shape))}]"
    if found == pixels:
        return f"{values}: the pixels of {declared}, but no label before them; these images are not labelled"
    message = f"{values}, expected {1 + pixels}: a label and the pixels of {declared}"
    for channels in (1, 3):
        side = math.isqrt(max(found - 1, 0) // channels)
        if side and side * side * channels == found - 1:
            return f"{message}; data.shape=[{side},{side},{channels}] would fit"
    return message
