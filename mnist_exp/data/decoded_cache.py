"""Keep decoded images in the user's cache, so that the same files are not decoded again.

An entry belongs to a folder and to the options that decide how its files are read. It is used as long as the
paths, sizes and modification times of all files are the same, and replaced when they have changed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mnist_exp.data import pictures, pixels
from mnist_exp.data.dataset import Images
from mnist_exp.data.user_cache import cache_folder
from mnist_exp.runs.atomic import new_folder, remove_folder
from mnist_exp.runs.regular_files import read_text

_IMAGES, _ABOUT = "images.npy", "about.json"
LARGE = 2**26  # bytes: larger arrays are decoded into a file of the cache
_READERS = 4  # threads that hash files


@dataclass(frozen=True)
class Decoded:
    """The images of a list of files, except the unusable ones."""

    images: Images
    unusable: dict[int, tuple[str, str]] = field(default_factory=dict)
    """The kind and the description of the fault of each unusable file, by the file's index."""


@dataclass(frozen=True)
class NewImages:
    """An array that images are decoded into."""

    array: Images
    descriptor: int | None = None
    """File descriptor of the file that the array is mapped to; None: the array is in memory."""

    def write(self, path: Path) -> None:
        """Give the array's file a name or, if it has no file or that fails, write a copy. Raises `OSError`."""
        if self.descriptor is not None:
            with suppress(OSError):  # without /proc, for example
                # `os.link` follows the symbolic link only if a directory is given, which an absolute path ignores.
                os.link(f"/proc/self/fd/{self.descriptor}", path, src_dir_fd=self.descriptor)
                return
        np.save(path, self.array, allow_pickle=False)


@dataclass(frozen=True)
class Entry:
    """The place in the cache for the images of a list of files."""

    folder: Path
    paths: Sequence[str]
    state: str
    """Digest of the files' paths, sizes and modification times, and of the code that reads them."""

    @classmethod
    def of(cls, paths: Sequence[str], options: object) -> Entry:
        """Return the entry of files that are read with certain options. Raises `OSError` if a file is missing."""
        place = os.path.commonpath(list(map(os.path.dirname, paths)))
        name = hashlib.sha256(json.dumps([place, options]).encode(errors="surrogateescape")).hexdigest()[:32]
        state = hashlib.sha256(_code_digest().encode())
        for path in paths:
            status = os.stat(path)
            state.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(errors="surrogateescape"))
        return cls(cache_folder("decoded") / name, paths, state.hexdigest())

    def load(self, *, verify: bool) -> Decoded | None:
        """Return the images, memory-mapped; None if there are none, or if the files have changed.

        Args:
            verify: Whether to compare the content of the files as well. Without hashes to compare with, the files
                count as changed.
        """
        about = self.load_values()
        try:
            if about is None or (verify and about.get("contents") != _hash_contents(self.paths)):
                return None
            images = np.lib.format.open_memmap(self.folder / _IMAGES, mode="r")  # refuses pickled objects
            unusable = {int(index): (str(kind), str(text)) for index, kind, text in about["unusable"]}
        except (OSError, ValueError, KeyError, TypeError, EOFError):  # damaged: decode the files
            return None
        is_whole = images.dtype == np.uint8 and images.ndim == 4
        return Decoded(images, unusable) if is_whole and len(images) + len(unusable) == len(self.paths) else None

    @contextmanager
    def new_images(self, shape: tuple[int, ...]) -> Iterator[NewImages]:
        """Yield an array for decoded images, which `save` writes to the cache within the block.

        A large array is mapped to a file of the cache that has no name before `save`, so nothing is left behind if
        the program is killed. The array is in memory if it is small, or if such a file cannot be created.
        """
        with ExitStack() as stack:
            new = None
            # Fails on an unsuitable file system, without permission, if the disk is full, and on other systems.
            with suppress(OSError, AttributeError):
                if math.prod(shape) > LARGE:
                    new = self._map_new_file(shape, stack)
            yield new or NewImages(np.empty(shape, np.uint8))

    def _map_new_file(self, shape: tuple[int, ...], stack: ExitStack) -> NewImages:
        """Return an array that is mapped to a file without a name, which `stack` closes. Raises `OSError`."""
        self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.folder.parent, os.O_TMPFILE | os.O_RDWR, 0o600)
        file = stack.enter_context(open(descriptor, "w+b"))  # noqa: SIM115
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        os.posix_fallocate(descriptor, 0, file.tell() + math.prod(shape))  # or a full disk would kill the program
        return NewImages(np.memmap(file, np.uint8, "r+", file.tell(), shape), descriptor)

    def save(self, decoded: Decoded, new: NewImages, *, verify: bool) -> None:
        """Write the images and, with `verify`, hashes of the files' content.

        If the cache cannot be written, the files are decoded again the next time.

        Args:
            decoded: The images, in the array of `new` or, without the rows of unusable files, in a copy.
            new: The array that the files were decoded into.
            verify: Whether to hash the content of the files.
        """
        with suppress(OSError):
            unusable = [[index, *fault] for index, fault in decoded.unusable.items()]
            hashes = {"contents": _hash_contents(self.paths)} if verify else {}
            images = new if decoded.images is new.array else NewImages(decoded.images)
            self._write({**hashes, "unusable": unusable}, images)

    def load_values(self) -> Any:
        """Return the values that `save_values` wrote; None if there are none, or if the files have changed."""
        try:
            about = json.loads(read_text(self.folder / _ABOUT))
            return about if about["state"] == self.state else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def save_values(self, values: Mapping[str, Any]) -> None:
        """Write values that were read from the files, if the cache can be written."""
        with suppress(OSError):
            self._write(values)

    def _write(self, values: Mapping[str, Any], images: NewImages | None = None) -> None:
        self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_folder(self.folder)
        with new_folder(self.folder) as folder:
            if images:
                images.write(folder / _IMAGES)
            (folder / _ABOUT).write_text(json.dumps({**values, "state": self.state}), encoding="utf-8")


def _hash_contents(paths: Sequence[str]) -> str:
    """Return the SHA-256 of the content of all files. Raises `OSError`."""
    digest = hashlib.sha256()
    with ThreadPoolExecutor(_READERS) as threads:
        for one in threads.map(_hash_file, paths):
            digest.update(one)
    return digest.hexdigest()


def _hash_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@cache
def _code_digest() -> str:
    """Return the SHA-256 of the code that decodes images."""
    digest = hashlib.sha256(version("pillow").encode())
    for module in (pictures, pixels):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()
