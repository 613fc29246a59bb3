"""IDX files: damaged and inconsistent ones are reported with their name."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mnist_exp.config.schema import FileSpec
from mnist_exp.data.idx import parse, read_content
from mnist_exp.errors import RequestError

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
CONTENT = struct.pack(">4B3I", 0, 0, 8, 3, 2, 3, 4) + IMAGES.tobytes()


def test_an_array_is_read_as_it_was_written():
    """Shape and values are preserved."""
    np.testing.assert_array_equal(parse(CONTENT, "x", (3, 4)), IMAGES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing"),
        (
            b"\x00\x00\x08\x01" + CONTENT[4:],
            "begins with 00 00 08 01, expected 00 00, a type (08 or 09 or 0b or 0c or 0d or 0e), and the number of dimensions (03 or 04)",
        ),
        (b"\x89PNG" + CONTENT[4:], "begins with 89 50 4e 47"),
        (CONTENT[:10], "ends inside its header, after 10 of 16 bytes"),
        (CONTENT[:-1], "the header declares 2×3×4 = 24 values, but 23 follow"),
        (CONTENT + b"x", "24 values, but more follow"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**31, 4), "values, but 0 follow"),
    ],
)
def test_files_that_are_not_idx_are_refused(content: bytes, message: str):
    """Wrong magic numbers and sizes that disagree with the content are reported."""
    with pytest.raises(RequestError, match="images-file: ") as caught:
        parse(content, "images-file", (3, 4))
    assert message in str(caught.value)


def test_gzip_and_plain_files_are_the_same(tmp_path: Path):
    """Archives are recognized by their content and verified by the uncompressed content."""
    (tmp_path / "plain").write_bytes(CONTENT)
    (tmp_path / "packed").write_bytes(gzip.compress(CONTENT))
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    assert (
        read_content(tmp_path / "plain", FileSpec(name="x", sha256=sha256))
        == read_content(tmp_path / "packed", FileSpec(name="x", sha256=sha256))
        == CONTENT
    )


@pytest.mark.parametrize("cut", [3, 20, -3])
def test_a_truncated_archive_is_refused(tmp_path: Path, cut: int):
    """This holds wherever it is cut."""
    file = tmp_path / "cut.gz"
    file.write_bytes(gzip.compress(CONTENT, mtime=0)[:cut])
    with pytest.raises(RequestError, match=r"cut\.gz: a damaged gzip archive"):
        read_content(file, FileSpec(name="x"))


@pytest.mark.parametrize("spec", [FileSpec(name="x"), FileSpec(name="x", gz_sha256="abc")])
def test_what_is_named_gz_is_an_archive(tmp_path: Path, spec: FileSpec):
    """A .gz file that is no archive is refused, whether or not the digest of the archive is known."""
    file = tmp_path / "page.gz"
    for content, begins in ((b"<html>login</html>", "3c 68 74 6d"), (b"", "nothing"), (CONTENT, "00 00 08 03")):
        file.write_bytes(content)
        with pytest.raises(RequestError, match=rf"page\.gz: not a gzip archive: begins with {begins}"):
            read_content(file, spec)


@pytest.mark.parametrize("begin", [CONTENT[:16], b"", struct.pack(">4B3I", 0, 0, 8, 3, *[2**32 - 1] * 3)])
def test_an_archive_of_a_gigantic_file_takes_no_gigantic_memory(tmp_path: Path, begin: bytes):
    """No more is unpacked than the header declares, and no more allocated than the archive can hold."""
    file = tmp_path / "bomb.gz"
    file.write_bytes(gzip.compress(begin + bytes(200 << 20)))
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match="not an IDX file|values, |would unpack"):
            parse(read_content(file, FileSpec(name="x")), "x", (3, 4))
        assert tracemalloc.get_traced_memory()[1] < 300 << 20
    finally:
        tracemalloc.stop()


def test_unexpected_content_is_refused(tmp_path: Path):
    """The message has both digests."""
    (tmp_path / "other").write_bytes(CONTENT)
    with pytest.raises(RequestError, match="SHA-256 abc expected, [0-9a-f]{64} found"):
        read_content(tmp_path / "other", FileSpec(name="x", sha256="abc"))


def test_colour_images_have_four_dimensions():
    """They are written and read with a channel dimension."""
    images = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    content = struct.pack(">4B4I", 0, 0, 8, 4, 2, 3, 4, 3) + images.tobytes()
    np.testing.assert_array_equal(parse(content, "x", (3, 4)), images)


LABELS = struct.pack(">4BI", 0, 0, 8, 1, 2) + b"\0\1"


@pytest.mark.parametrize(
    ("images", "labels", "told"),
    [
        (CONTENT, LABELS[:-1], "train-labels-idx1-ubyte: the header declares 2 = 2 values, but 1 follow"),
        (CONTENT[:-1], LABELS, "train-images-idx3-ubyte: the header declares 2×3×4 = 24 values, but 23 follow"),
        (LABELS, LABELS, "train-images-idx3-ubyte: not an IDX file with 2 or 3 or 4 dimensions"),
        (b"", LABELS, "train-images-idx3-ubyte: not an IDX file"),
        (gzip.compress(CONTENT, mtime=0)[:-9], LABELS, "train-images-idx3-ubyte: a damaged gzip archive"),
        (CONTENT, struct.pack(">4BI", 0, 0, 8, 1, 1) + b"\0", "2 images, but 1 labels in"),
        (CONTENT, LABELS[:-1] + b"\2", "train-labels-idx1-ubyte[1]: expected a label, a whole number from 0 to 1, found 2; set data.classes=3"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 0, 3, 4), struct.pack(">4BI", 0, 0, 8, 1, 0), "training set: no images"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 2, 4, 3) + CONTENT[16:], LABELS, "set 'data.shape=[4,3,1]' to match"),
    ],
)  # fmt: skip
def test_files_that_are_wrong_are_refused(refused: Callable[..., str], images: bytes, labels: bytes, told: str):
    """The message names the file; the exit status is 2."""
    Path("train-images-idx3-ubyte").write_bytes(images)
    Path("train-labels-idx1-ubyte").write_bytes(labels)
    words = ("data.files.test_images=null", "data.files.test_labels=null")
    assert told in refused("idx", *words, shape="[3,4,1]")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_are_refused(refused: Callable[..., str]):
    """This holds for every format."""
    for name in ("train.csv", "data.npz"):
        Path(name).write_bytes(b"x")
        Path(name).chmod(0)
    assert "train.csv: cannot be read: Permission denied" in refused("csv", "data.files.test=null")
    assert "data.npz: cannot be read: Permission denied" in refused("npz")
