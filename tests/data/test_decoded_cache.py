"""Decoded images are kept in the user's cache and used as long as the files are the same."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.datasets import own_data

from mnist_exp.data import declaration, decoded_cache, folder, formats
from mnist_exp.data.dataset import Source
from mnist_exp.data.pictures import Unusable
from mnist_exp.data.user_cache import cache_folder


@pytest.fixture(autouse=True, params=[False, True], ids=["in memory", "in a file"])
def photographs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two classes with three images each, which are kept however fast they are decoded."""
    if request.param:
        monkeypatch.setattr(decoded_cache, "LARGE", 0)
    monkeypatch.setattr(folder, "WORTH_KEEPING", 0.0)
    monkeypatch.setattr(folder, "MANY", 1)
    for index in range(6):
        save(index, 10 * index)


def save(index: int, grey: int) -> Path:
    path = Path("train", "ab"[index % 2], f"{index}.bmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((2, 3), grey, np.uint8)).save(path)
    return path


def read(**changes: object) -> Source:
    data = own_data("folder", **{"files": {"train": "train", "test": None}, **changes})
    return formats.find(data, told.append)


told: list[str] = []


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str, *_: object) -> None:
        raise Unusable("decoded images", f"{path} was decoded")

    monkeypatch.setattr(folder, "read_picture_file", fail)
    monkeypatch.setattr(folder, "read_header", fail)


def assert_equal(first: Source, second: Source) -> None:
    assert (first.train.images == second.train.images).all()
    assert (first.train.labels == second.train.labels).all()
    assert first.skipped == second.skipped


def test_unchanged_files_are_not_decoded_again(monkeypatch: pytest.MonkeyPatch):
    """The images come from a mapped array, and a note says so; another option is another entry."""
    first = read()
    forbid_decoding(monkeypatch)
    told.clear()
    second = read()
    assert_equal(first, second)
    assert isinstance(second.train.images, np.memmap)
    assert any(str(cache_folder("decoded")) in note for note in told)
    with pytest.raises(Exception, match="was decoded"):
        read(shape=(4, 4, 1), resize="fit")


def test_changed_files_are_decoded():
    """Recognized by size and modification time, or, with `data.verify`, by their content."""
    read()
    path = save(2, 99)
    assert 99 in read().train.images

    times = path.stat()
    save(2, 77)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert 77 not in read().train.images
    assert 77 in read(verify=True).train.images
    assert 77 in read().train.images
    told.clear()
    read(verify=True)
    assert any(str(cache_folder("decoded")) in note for note in told), "the same content is not decoded again"

    save(6, 55)
    assert len(read().train) == 7
    assert len(list(cache_folder("decoded").iterdir())) == 1, "an entry of changed files is replaced"


def test_bad_files_stay_known(monkeypatch: pytest.MonkeyPatch):
    """`data.skip_bad` leaves out the same files, and the others keep their labels."""
    Path("train/a/2.bmp").write_bytes(b"")
    first = read(skip_bad=True)
    forbid_decoding(monkeypatch)
    second = read(skip_bad=True)
    assert len(second.skipped) == 1
    assert_equal(first, second)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00 damaged", b"PK\x03\x04"])
def test_a_damaged_entry_is_replaced(content: bytes):
    """Nothing in the cache is unpickled, and whatever lies there does no harm."""
    first = read()
    for images in cache_folder("decoded").glob("*/images.npy"):
        images.unlink()  # the earlier images remain mapped to the old file
        images.write_bytes(content)
    assert_equal(first, read())
    for about in cache_folder("decoded").glob("*/about.json"):
        about.write_text("[1]")
    assert_equal(first, read())


def test_an_unwritable_cache_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Then images are decoded each time."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert_equal(read(), read())


def test_a_large_array_is_a_file_of_the_cache(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decoded_cache, "LARGE", 0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(np, "save", lambda *_, **__: pytest.fail("the images were copied"))
        decoded = read().train.images
    assert not decoded.flags.writeable
    (file,) = cache_folder("decoded").glob("*/images.npy")
    assert (np.load(file) == decoded).all()


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EOPNOTSUPP])
def test_without_room_in_the_cache_images_are_decoded_in_memory(fault: int, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(decoded_cache, "LARGE", 0)
    expected = read()
    save(0, 200)  # the files are decoded again
    save(0, 0)
    monkeypatch.setattr(os, "posix_fallocate", fail)
    assert_equal(read(), expected)


def test_without_links_the_images_are_copied(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(decoded_cache, "LARGE", 0)
    monkeypatch.setattr(os, "link", fail)
    expected = read()
    forbid_decoding(monkeypatch)
    assert_equal(read(), expected)


def test_unused_files_of_the_cache_vanish(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folder, "WORTH_KEEPING", 1000.0)
    source = read()
    assert not list(cache_folder("decoded").glob("*"))
    assert source.train.images[5].max() == 50


def test_the_cache_is_private():
    """Other users of the machine see no images."""
    read()
    assert cache_folder("decoded").stat().st_mode & 0o077 == 0


def test_sizes_are_kept(monkeypatch: pytest.MonkeyPatch):
    """So that an inferred shape takes no time either."""
    listing = folder.list_images({"train": Path("train").absolute()})
    first = folder.measure(listing)
    forbid_decoding(monkeypatch)
    assert folder.measure(listing).as_values() == first.as_values()
    values = own_data("folder", files={"train": "train", "test": None}).model_dump(mode="json")
    inferred = declaration.infer(json.dumps({**values, "shape": None, "classes": None}), print)
    assert inferred == {"shape": [2, 3, 1], "classes": 2}


@pytest.mark.parametrize("threads", [1, 3])
def test_images_are_decoded_in_order(threads: int, monkeypatch: pytest.MonkeyPatch):
    """By any number of threads; the progress counts each image."""
    monkeypatch.setattr(folder, "_threads_for", lambda paths: threads)
    monkeypatch.setattr(folder, "_AT_A_TIME", 2)
    counted: list[int] = []

    @contextmanager
    def progress(task: str, images: int) -> Iterator[Callable[[int], None]]:
        yield counted.append

    data = own_data("folder", files={"train": "train", "test": None})
    assert formats.find(data, print, progress).train.images[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]
    assert sum(counted) == 6
