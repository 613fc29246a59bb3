"""Files that are whole or absent: written under another name, flushed to disk, renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mnist_exp.errors import RequestError


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A temporary path with the same ending, that takes the place of `path` when the block succeeds.

    Raises `OSError` that names `path`.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name when the block succeeds; else nothing is left.

    `path` must not exist, or be an empty folder. Raises `OSError`.
    """
    missing = [folder for folder in path.parents if not folder.exists()]  # the innermost first
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        temporary.mkdir(parents=True)  # what fails here is another's, and not removed
        try:
            yield temporary
            _flush_all(temporary)
            temporary.replace(path)
        except BaseException:
            remove_folder(temporary)
            raise
        for folder in {path.parent, *(folder.parent for folder in missing)}:
            _flush(folder)
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # somebody else put something there
                folder.rmdir()
        raise


def write_text(path: Path, text: str) -> None:
    """Write a whole text file."""
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_folder(folder: Path) -> None:
    """Remove a folder with what is in it, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def _flush_all(folder: Path) -> None:
    """Flush a folder with what is in it: its files one by one, or all at once where there are folders of them."""
    entries = list(folder.iterdir())
    if any(entry.is_dir() for entry in entries):
        os.sync()
    else:
        for path in (*entries, folder):
            _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_existing(target: Path) -> None:
    """Raises `RequestError` unless a folder can be made there, or an empty one is there already."""
    if not target.name:
        raise RequestError(f"output: {target} cannot be a new folder; name one")
    try:
        if target.is_dir() and not target.is_symlink() and not any(target.iterdir()):
            return
        if target.exists() or target.is_symlink():
            raise RequestError(f"output: {target} is there already; name a new folder with output=…")
    except OSError as error:
        raise RequestError(f"output: {target} cannot be written: {error.strerror}") from error
