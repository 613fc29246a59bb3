"""NumPy archives: valid ones are read, and problems are reported with their array."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.datasets import own_data

from mnist_exp.data.dataset import Source
from mnist_exp.data.formats import find

Refused = Callable[..., str]

IMAGES = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
LABELS = np.array([0, 1, 1, 0])


def save(**changes: Any) -> Path:
    """Write the archive in the working directory; None leaves an array out."""
    arrays = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:2], "y_test": LABELS[:2], **changes}
    np.savez("data.npz", **{name: array for name, array in arrays.items() if array is not None})
    return Path("data.npz")


def read(**changes: object) -> Source:
    return find(own_data("npz", **changes), print)


def npy(shape: tuple[int, ...], content: bytes, descr: str = "|u1") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + content


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (IMAGES, LABELS),
        (IMAGES[..., np.newaxis], LABELS[:, np.newaxis].astype(np.uint8)),
        (IMAGES.astype(np.float64), LABELS.astype(np.float32)),
        (np.asfortranarray(IMAGES.astype(">i4")), LABELS.astype(">u2")),
    ],
)
def test_whole_numbers_of_any_type_are_read(images: np.ndarray, labels: np.ndarray):
    """With or without a channel, in either order of bytes and axes."""
    save(x_train=images, y_train=labels)
    source = read(scale=255.0)
    np.testing.assert_array_equal(source.train.images, IMAGES[..., np.newaxis])
    assert source.train.images.dtype == np.uint8
    assert source.train.labels.tolist() == LABELS.tolist()
    assert source.test is not None
    assert len(source.test) == 2
    assert source.class_names == ("0", "1")


def test_compressed_archives_without_test_set_are_read():
    """They may contain class names."""
    np.savez_compressed("data.npz", x_train=IMAGES, y_train=LABELS, class_names=np.array(["cat", "dög"]))
    source = read()
    assert len(source.train) == 4
    assert source.test is None
    assert source.class_names == ("cat", "dög")


SPOILT = IMAGES.astype(np.float32)
SPOILT[2, 1, 0] = np.nan


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"x_train": None}, "data.npz: has no array x_train; it has y_train, x_test, y_test"),
        ({"y_test": None}, "data.npz: has no array y_test"),
        ({"x_test": None}, "data.npz: has no array x_test"),
        ({"x_train": IMAGES.reshape(4, 6)[:, :5]}, "x_train: expected (images, height, width) or"),
        ({"x_train": IMAGES.reshape(4, 6)[:, :5]}, "found uint8 of shape (4, 5)"),
        ({"y_train": np.ones((4, 2))}, "y_train: expected a label per image, found float64 of shape (4, 2)"),
        ({"y_train": LABELS[:3]}, "4 images in x_train, but 3 labels in y_train"),
        ({"x_train": SPOILT}, "x_train[2, 1, 0]: expected a whole number from 0 to 255, found nan"),
        ({"x_train": IMAGES / 255}, "x_train[0, 0, 1]: expected a whole number from 0 to 255, found 0.0039"),
        ({"x_train": IMAGES.astype(int) * 20}, "x_train[2, 0, 1]: expected a whole number from 0 to 255, found 260"),
        ({"x_train": IMAGES.astype(int) - 1}, "x_train[0, 0, 0]: expected a whole number from 0 to 255, found -1"),
        ({"x_train": np.full((4, 2, 3), "a")}, "x_train: expected numbers, found <U1 of shape (4, 2, 3)"),
        ({"x_train": IMAGES.astype(object)}, "x_train.npy: holds pickled Python objects, which are never loaded"),
        ({"y_train": LABELS + 0.5}, "y_train[0]: expected a label, a whole number, found 0.5"),
        ({"y_train": LABELS + 5}, "y_train[0]: expected a label, a whole number from 0 to 1, found 5; 3 more out of range; set data.classes=7"),
        ({"y_test": LABELS[:2] - 1}, "y_test[0]: expected a label, a whole number from 0 to 1, found -1"),
        ({"x_train": IMAGES[:0], "y_train": LABELS[:0]}, "training set: no images"),
        ({"x_test": IMAGES[:0], "y_test": LABELS[:0]}, "test set: no images"),
        ({"x_train": np.zeros((4, 5, 4), np.uint8)}, "images of 5×4×1, but data.shape says 2×3×1; set 'data.shape=[5,4,1]'"),
        ({"x_test": np.zeros((2, 5, 4), np.uint8)}, "test set: images of 5×4×1"),
        ({"class_names": np.array(["a", "b", "c"])}, "class_names has 3 names, but data.classes=2; set data.classes=3"),
        ({"class_names": np.array([1, 2])}, "class_names: expected a list of strings, found int64 of shape (2)"),
    ],
)  # fmt: skip
def test_invalid_arrays_are_reported(refused: Refused, changes: dict[str, Any], told: str):
    """The message has the array, the index, the expected and the found value."""
    save(**changes)
    assert told in refused("npz")


def test_class_names_must_agree_with_the_config(refused: Refused):
    """Other names in the archive are refused."""
    save(class_names=np.array(["cat", "dog"]))
    assert "class_names [cat, dog] do not match data.class_names=[dog, cat]" in refused(
        "npz", "data.class_names=[dog,cat]"
    )


@pytest.mark.parametrize("cut", [10, 200, -30])
def test_a_truncated_archive_is_refused(refused: Refused, cut: int):
    """This holds wherever it is cut."""
    whole = save().read_bytes()
    Path("data.npz").write_bytes(whole[:cut])
    assert "data.npz: not an NPZ archive, or a damaged one" in refused("npz")


@pytest.mark.parametrize("compressed", [False, True])
def test_changed_bytes_are_detected(refused: Refused, compressed: bool):
    """The archive's checksum reveals them."""
    big = np.random.default_rng(0).integers(0, 256, (50, 20, 30), np.uint8)
    (np.savez_compressed if compressed else np.savez)("data.npz", x_train=big, y_train=np.zeros(50, int))
    content = bytearray(Path("data.npz").read_bytes())
    content[5000:5010] = b"0123456789"
    Path("data.npz").write_bytes(content)
    assert (
        "data.npz: not an NPZ archive, or a damaged one" in (said := refused("npz"))
        or "x_train.npy: damaged" in said
    )


def test_a_huge_promise_is_not_believed(refused: Refused):
    """No memory is allocated for a header that declares more than the file contains."""
    with zipfile.ZipFile("data.npz", "w") as archive:
        archive.writestr("x_train.npy", npy((10**9, 28, 28), b"few"))
        archive.writestr("y_train.npy", npy((1,), b"\0"))
    told = "x_train.npy: the header declares 1000000000×28×28 values of uint8 = 784000000000 bytes, but 3 follow"
    assert told in refused("npz")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x_train",
        b"\x93NUMPY\x09\x00",
        b"\x93NUMPY\x01\x00" + struct.pack("<H", 5) + b"{'a':",
        npy((-1,), b""),
        npy((-2, -2, 3), bytes(12)),
        npy((-1, 3, -2), bytes(6)),
    ],
)
def test_members_that_are_not_arrays_are_refused(refused: Refused, content: bytes):
    """This holds for any content instead of a header."""
    with zipfile.ZipFile("data.npz", "w") as archive:
        archive.writestr("x_train.npy", content)
    assert "data.npz: x_train.npy: " in refused("npz")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ä".encode(), b"\xff\xff"),
        (b"PK\1\2\x14\3\x14", b"PK\1\2\x14\3\xff"),
        (b"PK\1\2\x14\3\x14\0\0\0\0\0", b"PK\1\2\x14\3\x14\0\0\0\x62\0"),
    ],
)
def test_archives_that_zipfile_cannot_read_are_refused(refused: Refused, old: bytes, new: bytes):
    """Invalid member names, unknown format versions and compression methods are reported."""
    with zipfile.ZipFile("data.npz", "w") as archive:
        archive.writestr("x_train.npy", npy((1,), b"\0"))
        archive.writestr("ä.npy", b"")
    content = Path("data.npz").read_bytes()
    assert old in content
    Path("data.npz").write_bytes(content.replace(old, new))
    assert "mnist-exp: " in (said := refused("npz"))
    assert "damaged" in said


def test_files_that_are_no_archive_are_refused(refused: Refused):
    """Other files, empty files and missing files are reported."""
    for content in (b"", b"label,pixel0\n"):
        Path("data.npz").write_bytes(content)
        assert "data.npz: not an NPZ archive, or a damaged one" in refused("npz")
    Path("data.npz").unlink()
    assert "there is no file data.npz" in refused("npz")
