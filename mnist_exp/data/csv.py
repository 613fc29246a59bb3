"""Read and write CSV files: one image per line, its label, then its pixels in C order (height, width, channel).

The first line may be a header that names each column. CRLF line endings and a byte order mark are accepted; empty
lines, and lines before the first that begin with #, are skipped.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnist_exp.config.data_schema import DataConfig
from mnist_exp.data.dataset import CHUNK, Advance, Images, Part, RawPart, Shape, Tell
from mnist_exp.data.faults import Faults
from mnist_exp.data.pixels import Scale, advice, allowed, as_bytes, expected, square
from mnist_exp.errors import RequestError
from mnist_exp.text import shape_override

Array = npt.NDArray[Any]

_SEPARATORS = {";": "semicolons", "\t": "tabs", " ": "spaces"}  # used by some programs in their "CSV" files
_BLOCK = 1 << 20  # bytes per read: larger blocks were hardly faster and took 40 MB more
_PROBED = 5  # lines that are read to determine the columns
_LABELS = ("label", "labels", "class", "target", "y", "digit", "letter")  # headers of the label's column
_NUMBERS = ("", "id", "index", "unnamed: 0")  # headers of a column that numbers the lines
_STARTS = {
    b"\x1f\x8b": "a gzip archive; unpack it (gunzip)",
    b"PK\x03\x04": "a ZIP archive or an Excel workbook (.xlsx); unpack it, or save the table as CSV",
    b"\xff\xfe": "text in UTF-16; save it as UTF-8",
    b"\xfe\xff": "text in UTF-16; save it as UTF-8",
    b"\xd0\xcf\x11\xe0": "an Excel workbook (.xls); save the table as CSV",
    b"PAR1": "a Parquet file; save the table as CSV",
    b"<": "an HTML or XML page; fetch the file itself",
}


def read(path: Path, shape: Shape | None, data: DataConfig, tell: Tell = lambda _: None) -> RawPart:
    """Read the images and labels of a file. Raises `RequestError` with the lines of its problems, by kind.

    Args:
        path: The file.
        shape: The declared height, width and channels; None: square images.
        data: The config, for the label's column and the range of the pixels.
        tell: Called with notes on how the file was interpreted.
    """
    table = _Table.of(path, shape, labelled=True, column=data.label_column, tell=tell)
    pixels, labels = _read(table, data.scale)
    part = RawPart(pixels.reshape(-1, *table.shape), labels, str(path), table.label_place)
    undeclared = data.label_column is None and table.header is None
    if undeclared and _looks_like_labels(pixels[:, -1]) and not _looks_like_labels(labels):
        raise RequestError(
            f"{path}: the first column does not look like labels, but the last one does; use data.label_column=-1 "
            "to read the labels from the last column, or data.label_column=0 to read them from the first"
        )
    return part


def read_images(path: Path, shape: Shape, scale: Scale = None) -> tuple[Images, bool]:
    """Read the images from a file, ignoring any labels. Raises `RequestError` with the lines of its problems.

    Returns:
        The images, and whether each line has a label before its pixels.
    """
    _, first = next(_rows(path), (0, []))
    labelled = len(first) == 1 + math.prod(shape)
    table = _Table.of(path, shape, labelled=labelled, column=None, tell=lambda _: None)
    pixels, _ = _read(table, scale)
    return as_bytes(pixels.reshape(-1, *shape), str(path), scale), labelled


@dataclass(frozen=True)
class _Table:
    """The columns of a file: each line has the pixels in order and, if `labelled`, a label."""

    path: Path
    shape: Shape
    labelled: bool
    column: int
    """The column of the label, from 0."""
    header: Sequence[str] | None
    skip: int
    """The number of lines before the first image."""

    @classmethod
    def of(
        cls, path: Path, shape: Shape | None, *, labelled: bool, column: int | str | None, tell: Tell
    ) -> _Table:
        """Examine the first lines of a file. Raises `RequestError` if it is not a table of images."""
        _refuse_other_kinds(path)
        rows = list(islice(_rows(path), _PROBED))
        pixels = "its label, then its pixels" if labelled else "its pixels"
        if not rows:
            raise RequestError(f"{path}: is empty; expected a line per image: {pixels}")
        line, first = rows[0]
        header = _find_header(path, rows, tell)
        found = square(len(first) - labelled) if shape is None else shape
        alike = header is not None or len({len(row) for _, row in rows}) == 1
        if found is None or (alike and len(first) != labelled + math.prod(found)):
            raise RequestError(f"{path}, line {line}: {_other_length(first, shape, labelled, rows)}")
        if header is not None and len(rows) == 1:
            raise RequestError(f"{path}: has a header, but no images")
        number = _label_column(path, line, first, header, column) if labelled else 0
        return cls(path, found, labelled, number, header, line - (header is None))

    @property
    def count(self) -> int:
        """The number of columns."""
        return self.labelled + math.prod(self.shape)

    def label_place(self, index: int) -> str:
        """Return the line and column of an image's label, for messages."""
        lines = (line for line, _ in _rows(self.path) if line > self.skip)
        return f"{self.path}, line {next(islice(lines, index, None), 0)}, column {self.column + 1}"


def _find_header(path: Path, rows: Sequence[tuple[int, Sequence[str]]], tell: Tell) -> Sequence[str] | None:
    """Return the first line if it is a header; None if it is an image. If it consists of numbers, report it."""
    first = rows[0][1]
    if not _is_header(first) or (len(rows) == 1 and _is_number(first[0])):
        return None
    if all(map(_is_number, first)):
        tell(f"{path}: the first line ({', '.join(first[:3])}, … {first[-1]}) is read as a header")
    return first


def _label_column(
    path: Path, line: int, first: Sequence[str], header: Sequence[str] | None, wanted: int | str | None
) -> int:
    """Return the number of the label's column, from 0. Raises `RequestError` if it cannot be determined."""
    names = [name.strip().lower() for name in header or ()]
    if isinstance(wanted, int):
        if not -len(first) <= wanted < len(first):
            raise RequestError(
                f"data.label_column={wanted}: {path} has {len(first)} columns, 0 to {len(first) - 1}"
            )
        return wanted % len(first)
    if isinstance(wanted, str):
        if wanted.strip().lower() not in names:
            shown = (
                f"its header goes from {first[0][:40]!r} to {first[-1][:40]!r}" if names else "it has no header"
            )
            raise RequestError(f"data.label_column={wanted}: {path} has no such column; {shown}")
        return names.index(wanted.strip().lower())
    known = [index for index, name in enumerate(names) if name in _LABELS]
    if len(known) == 1:
        return known[0]
    if names and re.fullmatch(r"pixel\d*|\d+x\d+", names[0]):
        raise RequestError(
            f"{path}, line {line}: the header goes from {first[0][:40]!r} to {first[-1][:40]!r}; "
            "set data.label_column=… to the name or number of the label's column (0 is the first, -1 the last)"
        )
    return 0


def _refuse_other_kinds(path: Path) -> None:
    """Raise `RequestError` if a file is known not to be CSV text, naming what it is instead."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from error
    for begin, what in _STARTS.items():
        if start.startswith(begin):
            raise RequestError(f"{path}: is {what}")


def _read(table: _Table, scale: Scale) -> tuple[Array, Array]:
    """Read pixels (images, values) and labels (numbers or strings), without checking the labels.

    Raises `RequestError` for lines of the wrong length and values that are not pixels.
    """
    if not _has_hexadecimals(table.path, table.skip):  # pyarrow would read hexadecimals as numbers
        for pixel in ("uint8", "float32"):
            for label in ("int64", "string"):
                found = _read_as(table, pixel, label)
                if found is not None:
                    trusted = scale is None and pixel == "uint8"
                    return found if trusted or allowed(found[0], scale).all() else _scan(table, scale)
    return _scan(table, scale)


def _read_as(table: _Table, pixel: str, label: str) -> tuple[Array, Array] | None:
    """Read a file whose columns have the given types. Returns None if they have others."""
    import pyarrow as pa  # imported here because it takes a sixth of a second
    from pyarrow import csv as fast

    names = [str(column) for column in range(table.count)]
    types = {name: getattr(pa, pixel)() for name in names}
    if table.labelled:
        types[str(table.column)] = getattr(pa, label)()
    pixels_of = [name for name in names if not (table.labelled and name == str(table.column))]
    # An upper bound, as each value takes at least two bytes with its separator. Unused memory is never touched.
    most = table.path.stat().st_size // (2 * table.count) + 1
    images, labels = np.empty((most, len(pixels_of)), pixel), []
    count = 0
    try:
        batches = fast.open_csv(
            str(table.path),
            read_options=fast.ReadOptions(
                column_names=names, skip_rows=table.skip, block_size=max(_BLOCK, 16 * table.count)
            ),
            convert_options=fast.ConvertOptions(column_types=types, null_values=[]),
        )
        for batch in batches:
            end = count + batch.num_rows
            if table.labelled:
                labels.append(batch.column(table.column).to_numpy(zero_copy_only=False))
            images[count:end] = batch.select(pixels_of).to_tensor().to_numpy()
            count = end
    except (pa.ArrowException, OSError, ValueError):
        return None
    return images[:count], np.concatenate(labels) if labels else np.zeros(count, np.int64)


def _scan(table: _Table, scale: Scale) -> tuple[Array, Array]:
    """Read a file line by line. Raises a `RequestError` that lists all invalid lines.

    Slow, so used only for files that contain faults, or numbers in an unusual notation.
    """
    faults, pixels, labels = Faults(), [], []
    bounds: list[float] = []
    for line, row in _rows(table.path):
        if line <= table.skip:
            continue
        place = f"{table.path}, line {line}"
        if len(row) != table.count:
            text = _other_length(row, table.shape, table.labelled, [(line, row)])
            faults.add("lines of the wrong length", place, text)
            continue
        values = [text.strip() for index, text in enumerate(row) if not (table.labelled and index == table.column)]
        numbers = np.array([_number(text) for text in values])
        labels.append(row[table.column].strip() if table.labelled else "0")
        pixels.append(numbers)
        bounds += [numbers.min(), numbers.max()]
        good = allowed(numbers, scale)
        if not good.all():
            index = int(np.argmin(good))
            column = index + 1 + (table.labelled and index >= table.column)
            text = f"expected a pixel, {expected(scale)}, found {values[index][:40]!r}"
            faults.add("values that are not pixels", f"{place}, column {column}", text)
            if not values[index].isascii() or np.isnan(numbers[index]):
                bounds.append(np.nan)
    faults.raise_any(str(table.path), advice(np.array(bounds), scale) if bounds else "")
    return np.array(pixels, np.float32).reshape(len(pixels), -1), np.array(labels)


def _number(text: str) -> float:
    """Return the number that a string represents, or NaN if it is not a number in plain ASCII."""
    try:
        return float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return math.nan


def _looks_like_labels(values: Array) -> bool:
    """Return whether values are words, or a few consecutive integers starting at 0 or 1."""
    try:
        numbers = np.unique(values.astype(str).astype(np.float64) if values.dtype.kind in "OU" else values)
    except ValueError:
        return True
    steps = bool((np.diff(numbers) == 1).all()) and 2 <= len(numbers) <= len(values) / 2
    return steps and numbers[0] in (0, 1)


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


def _has_hexadecimals(path: Path, skip: int) -> bool:
    with path.open("rb") as file:
        for _ in range(skip):
            file.readline()
        return any(b"x" in block or b"X" in block for block in iter(lambda: file.read(_BLOCK), b""))


def _is_header(row: Sequence[str]) -> bool:
    """Return whether a row is a header: only names, a name followed by pixel numbers, or all column numbers.

    A line of values with a single damaged one is not a header.
    """
    names = [*map(str.strip, row)]
    counted = [*map(str, range(len(row)))]
    named = not any(map(_is_number, row))
    if len(row) > 1 and not _is_number(row[0]):
        named = named or names[1:] in (counted[:-1], counted[1:])
    return named or (len(row) > 2 and names == counted)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the non-empty lines, without comments at the start, with their numbers, from 1."""
    has_begun = False
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            rows = csv.reader(file)
            for row in rows:
                if row and (has_begun or not row[0].startswith("#")):
                    has_begun = True
                    yield rows.line_num, row
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from error
    except csv.Error as error:
        raise RequestError(f"{path}, line {rows.line_num}: {error}") from error


def _other_length(
    row: Sequence[str], shape: Shape | None, labelled: bool, rows: Sequence[tuple[int, Sequence[str]]]
) -> str:
    """Describe why a line's number of values is wrong, with the remedy if it is known."""
    found = len(row)
    least = 16 if shape is None else math.prod(shape)
    separators = [name for text, name in _SEPARATORS.items() if len(row[0].split(text)) >= least]
    if found == 1 and separators:
        return f"its values are separated by {separators[0]}, expected commas"
    values = f"{found} value{'s' * (found != 1)}"
    extra = _extra_column(rows)
    if shape is None:
        square_image = "not a label and the pixels of a square image"
        return values + (extra or f": {square_image}; data.shape=… declares height, width and channels")
    pixels = math.prod(shape)
    if not labelled:
        images = "×".join(map(str, shape))
        return f"{values}, expected {pixels}: the pixels of {images}, with or without a label before them"
    declared = shape_override(shape)
    if found == pixels:
        return f"{values}: the pixels of {declared}, without a label before them; each line needs a label"
    message = f"{values}, expected {1 + pixels}: a label and the pixels of {declared}"
    fitting = square(found - 1)
    if extra and (found == pixels + 2 or not fitting):
        return message + extra
    return f"{message}; {shape_override(fitting)} would fit" if fitting else message


def _extra_column(rows: Sequence[tuple[int, Sequence[str]]]) -> str:
    """Return the end of a message that explains an extra column in all lines; empty if there is none."""
    texts = [[text.strip() for text in row] for _, row in rows]
    if all(len(row) > 1 and not row[-1] for row in texts):
        return "; each line ends with a comma, so the last column is empty: remove this comma"
    if _counts_lines([row[0] for row in texts]):
        return "; the first column numbers the lines: remove it (in pandas, to_csv(…, index=False))"
    return ""


def _counts_lines(column: list[str]) -> bool:
    if column[0].lower() in _NUMBERS:
        column = column[1:]
    numbers = [int(text) for text in column if text.isascii() and text.isdigit() and len(text) < 10]
    return len(numbers) == len(column) > 1 and all(b - a == 1 for a, b in pairwise(numbers))
