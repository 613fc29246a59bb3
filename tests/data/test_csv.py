"""CSV files: valid ones are read, and problems are reported with their line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.datasets import own_data

from mnist_exp.config.data_schema import FileSpec
from mnist_exp.data.dataset import Part
from mnist_exp.data.formats import find

Refused = Callable[..., str]

GOOD = "0,1,2,3,4,5,255\n1,0,0,0,0,0,9\n"
HEADER = "label,pixel0,pixel1,pixel2,pixel3,pixel4,pixel5\n"
TRAIN_ONLY = "data.files.test=null"


def read(path: Path, shape: tuple[int, int, int], classes: int, **changes: object) -> Part:
    files = {"train": FileSpec(name=path.name), "test": None}
    changes = {"files": files, "dir": str(path.parent), "shape": shape, "classes": classes, **changes}
    return find(own_data("csv", **changes), print).train


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        HEADER + GOOD,
        "label,0,1,2,3,4,5\n" + GOOD,
        "y,1,2,3,4,5,6\n" + GOOD,
        "\ufeff" + GOOD,
        "\ufeff" + HEADER + GOOD,
        GOOD.replace("\n", "\r\n"),
        (HEADER + GOOD).replace("\n", "\r\n"),
        GOOD.rstrip("\n"),
        GOOD + "\n\n",
        "\n" + GOOD,
        "\n" + HEADER + "\n" + GOOD,
        "# made by me, x\n\n#\n" + HEADER + GOOD,
        "# made by me\n" + GOOD,
        '"0","1",2,3,4,5,255\n"1",0,0,0,0,0,9\n',
        " 0, 1,2,3,4,5,255\n1,0,0,0,0,0,9\n",
    ],
)
def test_csv_variants_are_read(tmp_path: Path, text: str):
    """Headers, both line endings, a byte order mark, empty lines, comments, quotes and spaces are accepted."""
    (tmp_path / "x.csv").write_bytes(text.encode())
    part = read(tmp_path / "x.csv", (2, 3, 1), 2)
    np.testing.assert_array_equal(part.images[..., 0], [[[1, 2, 3], [4, 5, 255]], [[0, 0, 0], [0, 0, 9]]])
    assert part.labels.tolist() == [0, 1]


def test_pixels_are_in_c_order(tmp_path: Path):
    """The order is height, width, channel."""
    (tmp_path / "x.csv").write_text("0," + ",".join(map(str, range(18))) + "\n")
    np.testing.assert_array_equal(
        read(tmp_path / "x.csv", (2, 3, 3), 2, scale=255.0).images[0], np.arange(18).reshape(2, 3, 3)
    )


def test_many_lines_are_read_in_order(tmp_path: Path):
    """The order does not depend on the size of the blocks read."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (3000, 30 * 30), np.uint8), rng.integers(0, 10, 3000)
    np.savetxt(tmp_path / "x.csv", np.c_[labels, images], fmt="%d", delimiter=",")
    part = read(tmp_path / "x.csv", (30, 30, 1), 10)
    np.testing.assert_array_equal(part.images.reshape(3000, -1), images)
    np.testing.assert_array_equal(part.labels, labels)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "train.csv: is empty"),
        ("\n\n", "train.csv: is empty"),
        (HEADER, "train.csv: has a header, but no images"),
        (GOOD + "1,2,3\n", "train.csv, line 3: 3 values, expected 7"),
        (HEADER + "\n" + GOOD + "1,0,0,0,0,0,9,9\n", "train.csv, line 5: 8 values, expected 7"),
        ("0,1,2,3,4\n", "train.csv, line 1: 5 values, expected 7: a label and the pixels of 'data.shape=[2,3,1]'; 'data.shape=[2,2,1]' would fit"),
        ("0,1,2,3,4,5,6,7,8,9,10,11,12\n", "'data.shape=[2,2,3]' would fit"),
        ("1,2,3,4,5,6\n", "train.csv, line 1: 6 values: the pixels of 'data.shape=[2,3,1]', without a label before them"),
        (GOOD + "1,0,0,x,0,0,9\n", "train.csv, line 3, column 4: expected a pixel, a whole number from 0 to 255, found 'x'"),
        ("0,1,2,x,4,5,255\n" + GOOD, "train.csv, line 1, column 4: expected a pixel, a whole number from 0 to 255, found 'x'"),
        (GOOD + "1,0,0,,0,0,9\n", "line 3, column 4: expected a pixel, a whole number from 0 to 255, found ''"),
        (GOOD + "1,0,0,256,0,0,9\n", "line 3, column 4: expected a pixel, a whole number from 0 to 255, found '256'"),
        (GOOD + "1,0,0,-1,0,0,9\n", "line 3, column 4: expected a pixel, a whole number from 0 to 255, found '-1'"),
        (GOOD + "1,0,0,0.5,0,0,9\n", "found '0.5'"),
        (GOOD + "1,0,0,nan,0,0,9\n", "found 'nan'"),
        (GOOD + "1,0,0,NaN,0,0,9\n", "found 'NaN'"),
        (GOOD + "1,0,0,²,0,0,9\n", "found '²'"),
        (GOOD + "1,0,0,0x1F,0,0,9\n", "found '0x1F'"),
        (GOOD + "2,0,0,0,0,0,9\n7,0,0,0,0,0,9\n", "line 3, column 1: expected a label, a whole number from 0 to 1, found 2; 1 more out of range; set data.classes=8 to include them"),
        (GOOD + "-1,0,0,0,0,0,9\n", "line 3, column 1: expected a label, a whole number from 0 to 1, found -1"),
        ("a,0,0,0,0,0,9\n" + GOOD, "line 1, column 1: expected a label, a whole number, found 'a'"),
        (GOOD + '1,0,"0,0,0,0,9\n', "line 3"),
        ("garbage\n" + GOOD, "train.csv, line 1: 1 value, expected 7: a label and the pixels of 'data.shape=[2,3,1]'"),
        (GOOD.replace(",", ";"), "train.csv, line 1: its values are separated by semicolons, expected commas"),
        (HEADER.replace(",", "\t"), "train.csv, line 1: its values are separated by tabs, expected commas"),
        ("1x1,1x2,1x3,2x1,2x2,2x3,what\n" + GOOD, "line 1: the header goes from '1x1' to 'what'; set data.label_column="),
        (GOOD + "1,0,0," + "9" * 5000 + ",0,0,9\n", "line 3, column 4: expected a pixel, a whole number from 0 to 255, found '999"),
        (GOOD + "9" * 5000 + ",0,0,0,0,0,9\n", "line 3, column 1: expected a label, a whole number, found 999"),
    ],
)  # fmt: skip
def test_invalid_csv_is_reported_with_its_line(refused: Refused, text: str, told: str):
    """Damaged, ragged, empty and unlabelled tables are refused."""
    Path("train.csv").write_bytes(text.encode())
    assert told in refused("csv", TRAIN_ONLY)


def test_a_problem_deep_in_a_file_is_reported(refused: Refused):
    """It may lie beyond the first blocks."""
    line = "1," + ",".join(["0"] * 784) + "\n"
    Path("train.csv").write_text(line * 4000 + line.replace(",0", ",999", 1) + line * 10)
    assert "train.csv, line 4001, column 2: expected a pixel" in refused("csv", TRAIN_ONLY, shape="[28,28,1]")


def test_a_file_that_is_not_text_is_reported(refused: Refused):
    """UTF-16 files and folders with the file's name are refused."""
    Path("train.csv").write_bytes(GOOD.encode("utf-16"))
    assert "train.csv: is text in UTF-16; save it as UTF-8" in refused("csv", TRAIN_ONLY)
    Path("train.csv").write_bytes(bytes(range(256)) * 9)
    assert "train.csv, line 2: not UTF-8: byte 118 of the line is 0x80" in refused("csv", TRAIN_ONLY)
    Path("train.csv").unlink()
    Path("train.csv").mkdir()
    assert "there is no file train.csv" in refused("csv", TRAIN_ONLY)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "cp437", "gb18030"])
def test_another_encoding_is_refused_with_its_place(refused: Refused, encoding: str):
    """Different labels would be read as the same."""
    text = "".join(f"{word},0,0,0,0,0,9\n" for word in ("Kuh", "Kühe", "Kähe"))
    Path("train.csv").write_bytes(text.encode(encoding))
    assert "train.csv, line 2: not UTF-8: byte 2 of the line is 0x" in refused("csv", TRAIN_ONLY)
    Path("train.csv").write_text(text, encoding="utf-8")
    assert read(Path("train.csv").absolute(), (2, 3, 1), 3).labels.tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("header", "shape", "told"),
    [
        ("label," + ",".join(f"pixel{i}" for i in range(6) if i not in (2, 3)), "[2,3,1]", "5 values, expected 7: a label and the pixels of 'data.shape=[2,3,1]'; the header lacks 2 columns: pixel2, pixel3"),
        ("label," + ",".join(f"pixel{i}" for i in range(5)), "[2,3,1]", "6 values, expected 7: a label and the pixels of 'data.shape=[2,3,1]'; the header lacks 1 column: pixel5"),
        ("label,1x1,1x2,2x1,2x2,2x3", "[2,3,1]", "expected 7: a label and the pixels of 'data.shape=[2,3,1]'; the header lacks 1 column: 1x3"),
    ],
)  # fmt: skip
def test_missing_columns_are_named(refused: Refused, header: str, shape: str, told: str):
    """As far as the header shows which ones are missing."""
    Path("train.csv").write_text(f"{header}\n" + ",".join("0" * len(header.split(","))) + "\n")
    assert told in refused("csv", TRAIN_ONLY, shape=shape)


@pytest.mark.parametrize(
    "header", [f"label,q{'9' * 5000}", "label,1x1000000," + ",".join(f"{n}x1" for n in range(1, 61))]
)
def test_the_gaps_of_a_hostile_header_are_not_listed(refused: Refused, header: str):
    """It names columns that would take gigabytes to list."""
    Path("train.csv").write_text(f"{header}\n{','.join('1' * len(header.split(',')))}\n")
    assert "lacks" not in refused("csv", TRAIN_ONLY, shape="[2,3,1]")


def test_kaggles_test_file_is_not_labelled(refused: Refused):
    """If it is given as the training file, the message says that it has no labels."""
    Path("test.csv").write_text(",".join(f"pixel{i}" for i in range(6)) + "\n1,2,3,4,5,6\n")
    assert (
        "test.csv, line 1: 6 values: the pixels of 'data.shape=[2,3,1]', without a label before them"
        in refused("kaggle", "data.files.train=test.csv")
    )
