"""Read and write CSV files: one image per line, its label, then its pixels in C order (height, width, channel).

The first line may be a header that names each column. CRLF line endings and a byte order mark are accepted; empty
lines, and lines before the first that begin with #, are skipped.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnist_exp.config.data_schema import DataConfig
from mnist_exp.data.dataset import CHUNK, Advance, Images, Part, RawPart, Shape, Tell
from mnist_exp.data.faults import Faults
from mnist_exp.data.label_column import (
    LINE_NUMBERS,
    Found,
    LabelColumn,
    Rows,
    as_number,
    describe,
    find_in_table_to_classify,
    find_in_training_table,
    looks_like_labels,
    refuse_contradiction,
    refuse_other_column,
)
from mnist_exp.data.pixels import Scale, advice, allowed, as_bytes, expected, square
from mnist_exp.errors import RequestError
from mnist_exp.text import shape_override

Array = npt.NDArray[Any]
FindColumn = Callable[[Path, Rows, Sequence[str] | None], Found]

_SEPARATORS = {";": "semicolons", "\t": "tabs", " ": "spaces"}  # used by some programs in their "CSV" files
_BLOCK = 1 << 20  # bytes per read: larger blocks were hardly faster and took 40 MB more
_MOST_COLUMNS, _MOST_NAMES = 2**20, 5  # of a header, and in a message
_PROBED = 5  # lines that are read to determine the columns
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
    table = _Table.of(path, shape, partial(find_in_training_table, wanted=data.label_column), tell)
    pixels, labels = _read(table, data.scale)
    if not table.is_certain:
        first = data.label_offset or 0
        refuse_other_column(path, labels, pixels[:, -1], range(first, first + data.classes))
    elif looks_like_labels(table.other_end(pixels)) and not looks_like_labels(labels):
        tell(f"{path}: {table.label_name} is read as the labels, but the opposite column looks more like labels")
    return RawPart(pixels.reshape(-1, *table.shape), labels, str(path), table.label_place)


def read_images(path: Path, shape: Shape, column: LabelColumn, scale: Scale = None) -> tuple[Images, str]:
    """Read the images to classify from a file, ignoring any labels. Raises `RequestError` with its problems.

    Args:
        path: The file.
        shape: The height, width and channels that the model takes.
        column: What is known about the column with the labels.
        scale: The value of white, or those of black and white; None: 255.

    Returns:
        The images, and a note on the column that was ignored; empty if there is none.
    """
    _, first = next(_rows(path), (0, []))
    labelled = len(first) == 1 + math.prod(shape)
    find_column = partial(find_in_table_to_classify, wanted=column) if labelled else None
    table = _Table.of(path, shape, find_column, lambda _: None)
    pixels, labels = _read(table, scale)
    note = ""
    if labelled:
        numbers_lines = table.header is not None and table.header[table.column].strip().lower() in LINE_NUMBERS
        holds = "numbers the lines" if numbers_lines else "holds the labels"
        note = f"{table.label_name} {holds} and is ignored"
        if not table.is_certain:
            refuse_contradiction(path, table.label_name, labels, table.other_end(pixels), column)
            note += ", as in the model's data"
    return as_bytes(pixels.reshape(-1, *shape), str(path), scale), note


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
    is_certain: bool
    """Whether the column of the label was declared, or is evident from the header or the first lines."""

    @classmethod
    def of(cls, path: Path, shape: Shape | None, find_column: FindColumn | None, tell: Tell) -> _Table:
        """Examine the first lines of a file. Raises `RequestError` if it is not a table of images.

        `find_column` finds the column of the label; it is None for images without labels.
        """
        _refuse_other_kinds(path)
        labelled = find_column is not None
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
        column = find_column(path, rows, header) if find_column else Found(0, is_certain=True)
        skip = line - (header is None)
        return cls(path, found, labelled, column.number, header, skip, column.is_certain)

    @property
    def count(self) -> int:
        """The number of columns."""
        return self.labelled + math.prod(self.shape)

    @property
    def label_name(self) -> str:
        """The column of the label, for messages."""
        return describe(self.column, self.count, self.header)

    def other_end(self, pixels: Array) -> Array:
        """Return the values of the outermost column that does not hold the labels."""
        return pixels[:, 0 if self.column else -1]

    def label_place(self, index: int) -> str:
        """Return the line and column of an image's label, for messages."""
        lines = (line for line, _ in _rows(self.path) if line > self.skip)
        return f"{self.path}, line {next(islice(lines, index, None), 0)}, column {self.column + 1}"


def _find_header(path: Path, rows: Rows, tell: Tell) -> Sequence[str] | None:
    """Return the first line if it is a header; None if it is an image. If it consists of numbers, report it."""
    first = rows[0][1]
    if not _is_header(first) or (len(rows) == 1 and as_number(first[0]) is not None):
        return None
    if all(as_number(text) is not None for text in first):
        tell(f"{path}: the first line ({', '.join(first[:3])}, … {first[-1]}) is read as a header")
    return first


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
    _refuse_other_encodings(path)


def _refuse_other_encodings(path: Path) -> None:
    """Raise `RequestError` with the first byte that is not UTF-8, as different names could look the same."""
    with path.open("rb") as file:
        if all(block.isascii() for block in iter(lambda: file.read(_BLOCK), b"")):
            return
        file.seek(0)
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise RequestError(
                    f"{path}, line {number}: not UTF-8: byte {error.start + 1} of the line is "
                    f"0x{line[error.start]:02x}; save the file as UTF-8 (in Excel, 'CSV UTF-8')"
                ) from error


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
        finite = numbers[np.isfinite(numbers)]
        bounds += [finite.min(), finite.max()] if len(finite) else []
        bounds += [math.nan] * (len(numbers) - len(finite))
        good = allowed(numbers, scale)
        if not good.all():
            index = int(np.argmin(good))
            column = index + 1 + (table.labelled and index >= table.column)
            text = f"expected a pixel, {expected(scale)}, found {values[index][:40]!r}"
            faults.add("values that are not pixels", f"{place}, column {column}", text)
    faults.raise_any(str(table.path), advice(np.array(bounds), scale) if bounds else "")
    return np.array(pixels, np.float32).reshape(len(pixels), -1), np.array(labels)


def _number(text: str) -> float:
    """Return the number that a string represents, or NaN if it is not a number in plain ASCII."""
    try:
        return float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return math.nan


def write(folder: Path, parts: dict[str, Part], header: bool, advance: Advance) -> None:
    """Write `train.csv` and, if there is a test set, `test.csv`.

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
    named = not any(as_number(text) is not None for text in row)
    if len(row) > 1 and as_number(row[0]) is None:
        named = named or names[1:] in (counted[:-1], counted[1:])
    return named or (len(row) > 2 and names == counted)


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


def _other_length(row: Sequence[str], shape: Shape | None, labelled: bool, rows: Rows) -> str:
    """Describe why a line's number of values is wrong, with the remedy if it is known."""
    found = len(row)
    values = f"{found} value{'s' * (found != 1)}"
    extra = _extra_column(rows)
    if shape is None:
        return _other_separator(row, 16) or values + (extra or _not_square(found, rows[0][1]))
    pixels, fitting = math.prod(shape), square(found - 1) if found > 2 else None
    if separator := _other_separator(row, pixels):
        return separator
    missing = _missing_columns(rows[0][1], None if fitting else pixels)
    if not labelled:
        images = "×".join(map(str, shape))
        return f"{values}, expected {pixels} (the pixels of {images}), or {1 + pixels} with a label{missing}"
    declared = shape_override(shape)
    if found == pixels and not missing:
        return f"{values}: the pixels of {declared}, without a label before them; each line needs a label"
    message = f"{values}, expected {1 + pixels}: a label and the pixels of {declared}{missing}"
    if extra and (found == pixels + 2 or not fitting):
        return message + extra
    return f"{message}; {shape_override(fitting)} would fit" if fitting else message


def _not_square(found: int, first: Sequence[str]) -> str:
    side = round(math.sqrt(max(found - 1, 1)))
    advice = _missing_columns(first, None) or "; data.shape=… declares height, width and channels"
    return f": not a label and the pixels of a square image (such as {1 + side * side} for {side}×{side}){advice}"


def _other_separator(row: Sequence[str], least: int) -> str:
    """Return a message if a line consists of at least `least` values with another separator; empty otherwise."""
    for separator, name in _SEPARATORS.items() if len(row) == 1 else ():
        if len(row[0].split(separator)) >= least:
            return f"its values are separated by {name}, expected commas"
    return ""


def _missing_columns(names: Sequence[str], pixels: int | None) -> str:
    """Return the end of a message that lists the gaps in a header's numbered columns; empty if there are none.

    Args:
        names: The first line, which may be a header.
        pixels: The expected number of columns, from which missing columns at the end are known.
    """
    numbers: dict[str, list[int]] = {}
    for name in names:
        if found := re.fullmatch(r"(\d{1,7}x|[A-Za-z_]+)(\d{1,7})", name.strip()):
            numbers.setdefault(found[1], []).append(int(found[2]))
    most = max((max(of) for of in numbers.values()), default=0)
    if most * len(numbers) > _MOST_COLUMNS:
        return ""
    gone = []
    for prefix, of in numbers.items():
        last = most if prefix[0].isdigit() else max(of)
        if pixels is not None and len(of) > pixels / 2:
            last = max(last, min(of) + pixels - 1)
        gone += [f"{prefix}{number}" for number in sorted({*range(min(of), last + 1)} - {*of})]
    listed = ", ".join(gone[:_MOST_NAMES]) + ", …" * (len(gone) > _MOST_NAMES)
    return f"; the header lacks {len(gone)} column{'s' * (len(gone) > 1)}: {listed}" if gone else ""


def _extra_column(rows: Rows) -> str:
    """Return the end of a message that explains an extra column in all lines; empty if there is none."""
    texts = [[text.strip() for text in row] for _, row in rows]
    if all(len(row) > 1 and not row[-1] for row in texts):
        return "; each line ends with a comma, so the last column is empty: remove this comma"
    if _counts_lines([row[0] for row in texts]):
        return "; the first column numbers the lines: remove it (in pandas, to_csv(…, index=False))"
    return ""


def _counts_lines(column: list[str]) -> bool:
    if column[0].lower() in LINE_NUMBERS:
        column = column[1:]
    numbers = [int(text) for text in column if text.isascii() and text.isdigit() and len(text) < 10]
    return len(numbers) == len(column) > 1 and all(b - a == 1 for a, b in pairwise(numbers))
