"""One rule for pixels and labels, whatever file they are in; the advice of each message works."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.cli import Cli
from support.datasets import NAMES, own_data

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.data import digits, memory
from mnist_exp.data.class_weights import class_weights
from mnist_exp.data.dataset import Part, Source
from mnist_exp.data.declaration import examine
from mnist_exp.data.formats import find
from mnist_exp.data.quality import remarks
from mnist_exp.engine.preparation import complete_data
from mnist_exp.errors import RequestError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 6, 6), np.uint8)
IMAGES[:, 0, 0] = 0  # as in most images, whose corner says nothing
IMAGES[0, 1, :2] = 0, 255
LABELS = np.arange(40) % 4
TYPES = {"u1": 8, "i1": 9, ">i2": 11, ">i4": 12, ">f4": 13, ">f8": 14}
SOURCES = ("csv", "npz", "idx")
ONLY_TRAIN = {
    "csv": ["data.files.test=null"], "npz": [], "idx": ["data.files.test_images=null", "data.files.test_labels=null"],
}  # fmt: skip


def as_idx(array: np.ndarray) -> bytes:
    kind = np.dtype(">f8" if array.dtype.kind == "f" else ">i4" if array.dtype != np.uint8 else "u1")
    code = TYPES[kind.str.lstrip("|")]
    return struct.pack(f">4B{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.astype(kind).tobytes()


def write(source: str, images: np.ndarray = IMAGES, labels: np.ndarray = LABELS) -> None:
    """A training set in the working directory."""
    if source == "npz":
        np.savez("data.npz", x_train=images, y_train=labels)
    elif source == "csv":
        lines = [
            ",".join(map(str, [label, *row]))
            for label, row in zip(labels.tolist(), images.reshape(len(images), -1).tolist(), strict=True)
        ]
        Path("train.csv").write_text("\n".join(lines) + "\n")
    else:
        Path("train-images-idx3-ubyte").write_bytes(as_idx(images))
        Path("train-labels-idx1-ubyte").write_bytes(as_idx(labels))


def read(source: str, *words: str, told: list[str] | None = None) -> Source:
    """The data set as the command line reads it."""
    overrides = (f"data={source}", "data.dir=.", *ONLY_TRAIN[source], *words)
    config, _ = compose_checked(Request("train", overrides), TrainConfig, complete_data)
    return find(config.data, (told if told is not None else []).append)


def advice(source: str, key: str) -> str:
    """The override with a key that the refusal of the data set names."""
    with pytest.raises(RequestError) as caught:
        read(source)
    found = re.search(rf"data\.{key}=[^ ,;]*(,\d+\])?", str(caught.value))
    assert found is not None, caught.value
    return found[0]


@pytest.fixture(autouse=True)
def _fresh() -> None:
    from mnist_exp.engine import preparation

    preparation._inferred.cache_clear()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("stored", "scale"),
    [
        (IMAGES, None),
        (IMAGES.astype(np.float64), None),
        (IMAGES / 255, "1"),
        (IMAGES.astype(np.int64) * 257, "65535"),
        (np.round(IMAGES / 255 * 4095).astype(np.int64), "4095"),
        (IMAGES / 127.5 - 1, "[-1,1]"),
    ],
)
def test_a_range_is_declared_or_refused(source: str, stored: np.ndarray, scale: str | None):
    """Whole numbers from 0 to 255 of any type are pixels; for others, the message names the key that reads them."""
    write(source, stored)
    words = [] if scale is None else [advice(source, "scale")]
    assert words in ([], [f"data.scale={scale}"])
    np.testing.assert_array_equal(read(source, *words).train.images[..., 0], IMAGES)


@pytest.mark.parametrize("source", SOURCES)
def test_a_set_of_zeros_and_ones_is_ambiguous(source: str):
    """Both readings have a key."""
    write(source, (IMAGES > 127).astype(np.uint8))
    assert advice(source, "scale") == "data.scale=1"
    assert read(source, "data.scale=1").train.images.max() == 255
    assert read(source, "data.scale=255").train.images.max() == 1


def test_booleans_are_black_and_white():
    """They are unambiguous."""
    write("npz", IMAGES > 127)
    np.testing.assert_array_equal(read("npz").train.images[..., 0], np.where(IMAGES > 127, 255, 0))


def test_predict_takes_pixels_by_the_same_rule():
    """Booleans are black and white, 0 and 1 are ambiguous."""
    from mnist_exp.inference.predictor import Predictor

    predictor = Predictor(None, ("a", "b"), None, (6, 6, 1), False)  # type: ignore[arg-type]
    assert set(predictor._pixels(IMAGES > 127).flat) == {0, 255}
    for zeros_and_ones in ((IMAGES > 127).astype(np.uint8), (IMAGES > 127).astype(np.float32)):
        with pytest.raises(RequestError, match="from 0 to 1"):
            predictor._pixels(zeros_and_ones)
    np.testing.assert_array_equal(predictor._pixels(IMAGES)[..., 0], IMAGES)


def test_a_dim_set_is_reported():
    """It is read as it is."""
    write("npz", IMAGES // 16)
    told: list[str] = []
    assert read("npz", told=told).train.images.max() == 15
    assert any("data.scale=15" in note for note in told)


@pytest.mark.parametrize("source", ["npz", "idx"])
@pytest.mark.parametrize("stored", [IMAGES[:, np.newaxis], IMAGES.reshape(40, 36), IMAGES[..., np.newaxis]])
def test_other_arrangements_are_recognized(source: str, stored: np.ndarray):
    """Channels first and rows of pixels, with a note."""
    write(source, stored)
    told: list[str] = []
    np.testing.assert_array_equal(read(source, told=told).train.images[..., 0], IMAGES)
    assert bool(told) == (stored.shape[-1] != 1)


@pytest.mark.parametrize("source", SOURCES)
def test_rows_and_columns_are_exchanged_on_request(source: str):
    """In images that are not square, too."""
    write(source, IMAGES[:, :4].transpose(0, 2, 1))
    words = ["data.transpose=true", *(["data.shape=[4,6,1]"] if source == "csv" else [])]
    np.testing.assert_array_equal(read(source, *words).train.images[..., 0], IMAGES[:, :4])


@pytest.mark.parametrize("source", SOURCES)
def test_labels_from_1_are_refused_with_what_counts_them(source: str):
    """Declaring one class more is not suggested."""
    write(source, labels=LABELS + 1)
    assert advice(source, "label_offset") == "data.label_offset=1"
    found = read(source, "data.label_offset=1")
    assert found.train.labels.tolist() == LABELS.tolist()
    assert found.class_names == ("0", "1", "2", "3")
    assert read(source, "data.label_offset=0").class_names == ("0", "1", "2", "3", "4")
    with pytest.raises(RequestError, match=r"the labels range from 1 to 4; set data.label_offset=1"):
        read(source, "data.classes=4")


@pytest.mark.parametrize("source", SOURCES)
def test_labels_are_whole_numbers_of_any_type(source: str):
    """Also if they are written with a decimal point."""
    write(source, labels=LABELS.astype(np.float32))
    assert read(source).train.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("source", ["csv", "npz"])
def test_words_name_the_classes(source: str):
    """In natural order, or in that of `data.class_names`."""
    words = np.array(["class_10", "class_9", "ash", "birch"])[LABELS]
    write(source, labels=words)
    found = read(source)
    assert found.class_names == ("ash", "birch", "class_9", "class_10")
    assert [found.class_names[label] for label in found.train.labels] == words.tolist()
    named = read(source, "data.class_names=[birch,ash,class_9,class_10]")
    assert [named.class_names[label] for label in named.train.labels] == words.tolist()
    with pytest.raises(RequestError, match=r"expected one of the labels birch, ash, oak, elm, found 'class_10'"):
        read(source, "data.class_names=[birch,ash,oak,elm]")


@pytest.mark.parametrize("source", ["csv", "npz"])
@pytest.mark.parametrize("words", [True, False])
def test_a_missing_label_is_no_class(source: str, words: bool):
    """The message has the places of the first ones, whether labels are words or numbers."""
    labels = (np.array(["ash", "beech", "birch", "elm"]) if words else np.array(["0", "1", "2", "3"]))[LABELS]
    labels[[4, 9]] = "", " "
    write(source, labels=labels)
    place = r"train.csv, line 5, column 1" if source == "csv" else r"y_train\[4\]"
    with pytest.raises(
        RequestError, match=rf"{place}: the label is missing; 1 more is missing: .*(line 10|\[9\])"
    ):
        read(source)


@pytest.mark.parametrize("source", SOURCES)
def test_a_class_without_images_must_be_declared(source: str, cli: Cli):
    """A gap in the labels is refused; `check` reports a declared class without images as training does."""
    write(source, labels=LABELS + (LABELS > 1))
    with pytest.raises(RequestError, match="no image has the label 2;"):
        read(source)
    assert advice(source, "classes") == "data.classes=5"
    assert read(source, "data.classes=5").class_names == ("0", "1", "2", "3", "4")
    done = cli("check", f"data={source}", "data.dir=.", *ONLY_TRAIN[source], "data.classes=5", "model=linear")
    assert "class 2 without a training image" in done.out


@pytest.mark.parametrize("source", SOURCES)
def test_a_value_that_is_no_number_does_not_hide_the_range(source: str):
    """The message names both problems."""
    stored = (IMAGES / 255).astype(np.float32)
    stored[3, 2, 1] = np.nan
    write(source, stored)
    with pytest.raises(
        RequestError, match=r"from 0 to 1: replace the 1 value that is not finite, and data.scale=1"
    ):
        read(source)


def test_one_hot_labels_are_read():
    """A row with a single 1 is unambiguous."""
    write("npz", labels=np.eye(4)[LABELS])
    assert read("npz").train.labels.tolist() == LABELS.tolist()


def test_a_first_row_of_column_numbers_is_a_header():
    """Though it could be an image of class 0."""
    write("csv")
    file = Path("train.csv")
    file.write_text(",".join(map(str, range(37))) + "\n" + file.read_text())
    told: list[str] = []
    assert len(read("csv", told=told).train) == 40
    assert any("is read as a header" in note for note in told)


def test_the_column_of_the_label_is_declared_or_named():
    """A header may name it; without one, a table whose last column looks like the labels is refused."""
    write("csv")
    file = Path("train.csv")
    moved = [",".join([*line.split(",")[1:], line.split(",")[0]]) for line in file.read_text().splitlines()]
    file.write_text("\n".join(moved) + "\n")
    assert advice("csv", "label_column") == "data.label_column=-1"
    for words in (["data.label_column=-1"], ["data.label_column=36"]):
        np.testing.assert_array_equal(read("csv", *words).train.labels, LABELS)
    for name, words in (("label", []), ("what", ["data.label_column=what"])):
        header = ",".join([*(f"pixel{number}" for number in range(36)), name])
        file.write_text("\n".join([header, *moved]) + "\n")
        np.testing.assert_array_equal(read("csv", *words).train.images[..., 0], IMAGES)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda line, number: f"{number},{line}", "the first column numbers the lines: remove it"),
        (lambda line, number: f"{line},", "so the last column is empty"),
    ],
)
def test_a_column_too_many_is_named(change: Any, told: str):
    """Whether the shape is declared or not."""
    write("csv")
    lines = Path("train.csv").read_text().splitlines()
    Path("train.csv").write_text("\n".join(change(line, number) for number, line in enumerate(lines)) + "\n")
    for words in ([], ["data.shape=[6,6,1]", "data.classes=4"]):
        with pytest.raises(RequestError, match=told):
            read("csv", *words)


@pytest.mark.parametrize(
    ("start", "told"),
    [(b"\x1f\x8b\x08", "gzip"), (b"PK\x03\x04", "Excel"), (b"\xff\xfe0\0", "UTF-16"), (b"<html>", "HTML")],
)
def test_another_kind_of_file_is_named(start: bytes, told: str):
    """Its first bytes determine the format."""
    Path("train.csv").write_bytes(start + bytes(100))
    with pytest.raises(RequestError, match=told):
        read("csv")


def test_all_lines_that_are_wrong_are_reported():
    """By kind, with the first of each."""
    write("csv")
    lines = Path("train.csv").read_text().splitlines()
    lines[3], lines[5], lines[7], lines[9] = lines[3] + ",1", "1,2", lines[7] + "x", lines[9] + ".5"
    Path("train.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(RequestError) as caught:
        read("csv", "data.shape=[6,6,1]", "data.classes=4")
    found = str(caught.value).splitlines()
    assert "4 problems" in found[0]
    assert "(2)" in found[1]
    assert "line 4:" in found[1]
    assert "line 6" in found[1]
    assert "line 8, column 37" in found[2]


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("csv", {"train.csv": "mnist_train.csv"}),
        ("csv", {"train.csv": "emnist-letters-train.csv"}),
        ("csv", {"train.csv": "train (1).csv"}),
        ("csv", {"train.csv": "train.csv/train.csv"}),
        ("npz", {"data.npz": "mine.npz"}),
        ("idx", {name: name.replace("-idx", ".idx") for name in NAMES["idx"]}),
        ("idx", {name: f"emnist-letters-{name}" for name in NAMES["idx"]}),
        ("idx", {name: f"{name}/{name.replace('-idx', '.idx')}" for name in NAMES["idx"]}),
    ],
)
def test_files_are_found_under_near_names(source: str, names: dict[str, str]):
    """With a note; EMNIST's images are turned upright."""
    write(source)
    for name, other in names.items():
        if Path(name).exists():
            Path(name).rename("moved")
            Path(other).parent.mkdir(exist_ok=True)
            Path("moved").rename(other)
    told: list[str] = []
    found = read(source, told=told).train.images[..., 0]
    swaps = "emnist" in str(names)
    np.testing.assert_array_equal(found, IMAGES.transpose(0, 2, 1) if swaps else IMAGES)
    assert "found under other names" in told[0]
    assert swaps == any("data.transpose=false" in note for note in told)


def test_a_choice_of_files_is_refused():
    """The message names the key that chooses."""
    write("csv")
    Path("train.csv").rename("a_train.csv")
    Path("b_train.csv").write_text("")
    assert advice("csv", "files.train") == "data.files.train=a_train.csv"
    assert len(read("csv", "data.files.train=a_train.csv").train) == 40


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["X_train", "Y_train"], "as x_train, y_train"),
        (["train_images", "train_labels"], "reading train_images, train_labels as"),
        (["x_train", "y_train", "x_val", "y_val"], "not read: x_val, y_val"),
    ],
)
def test_arrays_are_found_under_near_names(names: list[str], told: str):
    """With a note, as for arrays that are not read."""
    np.savez(
        "data.npz",
        **{name: LABELS if "y" in name.lower().split("_")[0] or "label" in name else IMAGES for name in names},
    )
    notes: list[str] = []
    assert len(read("npz", told=notes).train) == 40
    assert told in notes[0]


def test_a_test_part_that_is_not_there_is_noted():
    """Unless another file could be it."""
    write("csv")
    told: list[str] = []
    assert find(own_data("csv", shape=(6, 6, 1), classes=4), told.append).test is None
    assert any("no test set" in note for note in told)
    Path("eval.csv").write_text("")
    with pytest.raises(RequestError, match="set data.files.test=null if there is no test set"):
        find(own_data("csv", shape=(6, 6, 1), classes=4), print)


def damaged_labels() -> None:
    labels = LABELS.copy()
    labels[7] = 9
    write("npz", labels=labels)


def cut_idx() -> None:
    write("idx")
    file = Path("train-images-idx3-ubyte")
    file.write_bytes(file.read_bytes()[:-1])


def test_headers_and_labels_are_examined_without_pixels(monkeypatch: pytest.MonkeyPatch):
    """As `check` does; `data.verify` reads the pixels as well."""
    for source in SOURCES:
        write(source)
        assert examine(own_data(source, shape=(6, 6, 1), classes=4), print) == {"train": 40}
        with pytest.raises(RequestError, match=r"set 'data.shape=\[6,6,1\]|its label|would fit"):
            examine(own_data(source, shape=(6, 5, 1), classes=4), print)
    damaged_labels()
    with pytest.raises(RequestError, match=r"y_train\[7\]: expected a label"):
        examine(own_data("npz", shape=(6, 6, 1), classes=4), print)
    cut_idx()
    with pytest.raises(RequestError, match="the header declares"):
        examine(own_data("idx", shape=(6, 6, 1), classes=4), print)
    write("npz", IMAGES / 255)
    examine(own_data("npz", shape=(6, 6, 1), classes=4), print)
    with pytest.raises(RequestError, match="data.scale=1"):
        examine(own_data("npz", shape=(6, 6, 1), classes=4, verify=True), print)


@pytest.mark.parametrize("source", ["npz", "idx"])
def test_data_that_does_not_fit_into_memory_is_refused(source: str, monkeypatch: pytest.MonkeyPatch):
    """From its headers, with the bytes that are needed and available."""
    write(source)
    monkeypatch.setattr(memory, "available", lambda: 40 * 36 * 3 - 1)
    for read_it in (find, examine):
        with pytest.raises(
            RequestError, match=r"40 images of 36 values need 4\.3 KB of memory, but only 4\.3 KB is"
        ):
            read_it(own_data(source, shape=(6, 6, 1), classes=4), print)
    assert memory.available() < 2**62


def test_a_data_set_without_weaknesses_has_no_remark():
    """The built-in digits are one."""
    assert remarks(digits.load()) == []


def test_weaknesses_are_counted():
    """Rare classes, imbalance, blank images, copies within and across the parts and with other labels."""
    images = RNG.integers(0, 256, (60, 4, 4, 1), np.uint8)
    labels = np.array([0] * 50 + [1] * 10)[:59]
    images[3] = 7
    images[20] = images[21]  # of the same class
    images[55] = images[22]  # of another class
    test = Part(np.concatenate([images[:2], images[59:]]), np.array([0, 0, 1]))
    found = remarks(Source(Part(images[:59], labels), test, "here", ("cat", "dog")))
    for told in (
        r"^1 class has fewer than 10 training images: dog \(9\)",
        r"^class cat has 50 .* smallest class 9; always predicting cat has an accuracy of 66.7 % on the test set",
        r"^1 image of a single colour: 1 train",
        r"^1 training image is a copy of another with a different label, such as cat and dog",
        r"^1 training image is a copy",
        r"^2 of 3 test images are also training images",
    ):
        assert any(re.search(told, remark) for remark in found), (told, found)
    assert len(found) == 6


def test_class_weights_are_balanced_or_given():
    """By name or label; the others weigh 1."""
    labels = np.array([0, 0, 0, 1])
    names = ("cat", "dog", "owl")
    assert class_weights(None, labels, names) is None
    np.testing.assert_allclose(class_weights("balanced", labels, names)[:2], [4 / 6, 2])
    np.testing.assert_allclose(class_weights({"dog": 3.0, "0": 0.5}, labels, names), [0.5, 3, 1])
    with pytest.raises(RequestError, match="there is no class dgo .*did you mean 'dog'"):
        class_weights({"dgo": 1.0}, labels, names)
