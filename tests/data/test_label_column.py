"""CSV tables to classify: the column with the labels is declared, evident or refused, but never guessed silently."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mnist_exp.data.csv import read_images
from mnist_exp.data.dataset import Images
from mnist_exp.data.label_column import LabelColumn
from mnist_exp.errors import RequestError

SHAPE = (3, 3, 1)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 9))
PIXELS[:, [0, -1]] = 0  # as in the corners of most images
LABELS = np.arange(12) % 10
NAMES = [f"pixel{number}" for number in range(9)]
UNKNOWN = LabelColumn()
FIRST, LAST = (LabelColumn(column, labels=range(10)) for column in (0, -1))  # of the model's data


def write(
    column: int | None, header: Sequence[str] = (), labels: Sequence[object] = tuple(LABELS.tolist())
) -> Path:
    """Write a table with its labels in a column, if any, and return its path."""
    rows: list[list[object]] = [list(row) for row in PIXELS.tolist()]
    for row, label in zip(rows, labels, strict=True):
        if column is not None:
            row.insert(len(row) if column == -1 else column, label)
    Path("table.csv").write_text(
        "".join(",".join(map(str, row)) + "\n" for row in [*[header] * bool(header), *rows])
    )
    return Path("table.csv")


def pixels(images: Images) -> list[list[int]]:
    return images.reshape(len(images), -1).tolist()


@pytest.mark.parametrize(
    ("column", "header", "known", "note"),
    [
        (None, [], UNKNOWN, ""),
        (None, NAMES, LabelColumn("label", is_given=True), ""),
        (0, ["label", *NAMES], UNKNOWN, "the first column (label) holds the labels and is ignored"),
        (-1, [*NAMES, "Label"], FIRST, "the last column (Label) holds the labels and is ignored"),
        (4, [*NAMES[:4], "class", *NAMES[4:]], UNKNOWN, "column 5 (class) holds the labels and is ignored"),
        (0, ["id", *NAMES], UNKNOWN, "the first column (id) numbers the lines and is ignored"),
        (-1, [*NAMES, "what"], LabelColumn("what"), "the last column (what) holds the labels and is ignored"),
        (
            -1,
            [*NAMES, "what"],
            LabelColumn("WHAT", True),
            "the last column (what) holds the labels and is ignored",
        ),
        (-1, [], LabelColumn(-1, True), "the last column holds the labels and is ignored"),
        (0, [], LabelColumn(0, True), "the first column holds the labels and is ignored"),
        (-1, [], LAST, "the last column holds the labels and is ignored, as in the model's data"),
        (0, [], FIRST, "the first column holds the labels and is ignored, as in the model's data"),
    ],
)
def test_the_labels_are_ignored(column: int | None, header: list[str], known: LabelColumn, note: str):
    """Wherever they are; the note names the column."""
    images, found = read_images(write(column, header), SHAPE, known)
    assert found == note
    assert pixels(images) == PIXELS.tolist()


@pytest.mark.parametrize("column", [0, -1])
def test_words_are_labels(column: int):
    """They cannot be pixels."""
    images, note = read_images(write(column, labels=["cat"] * 12), SHAPE, UNKNOWN)
    assert "holds the labels" in note
    assert pixels(images) == PIXELS.tolist()


@pytest.mark.parametrize(
    ("column", "header", "known"),
    [
        (0, [], UNKNOWN),
        (-1, [], UNKNOWN),
        (-1, [*NAMES, "what"], UNKNOWN),
        (-1, [], LabelColumn("what")),
        (-1, [], FIRST),
        (0, [], LAST),
    ],
)
def test_an_ambiguous_table_is_refused(column: int, header: list[str], known: LabelColumn):
    """The message names the key for either column, also if the model's data has its labels in the other one."""
    path = write(column, header)
    with pytest.raises(RequestError) as caught:
        read_images(path, SHAPE, known)
    assert re.findall(r"data.label_column=(\S+)", str(caught.value)) == ["0", "-1"]
    images, _ = read_images(path, SHAPE, LabelColumn(column, is_given=True))
    assert pixels(images) == PIXELS.tolist()


def test_values_that_are_no_labels_contradict_the_models_data():
    """The first column has pixels."""
    path = write(-1)
    table = np.loadtxt(path, delimiter=",", dtype=int)
    table[2, 0], table[:, -1] = 200, 7
    np.savetxt(path, table, "%d", ",")
    with pytest.raises(RequestError, match="has 200, but the labels are 0 to 9"):
        read_images(path, SHAPE, FIRST)
