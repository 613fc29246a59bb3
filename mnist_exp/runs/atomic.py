"""Write files atomically: under a temporary name, flushed to disk, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mnist_exp.errors import MnistExpError, RequestError, WorkError
from mnist_exp.runs.system_calls import flush, flush_tree


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path with the same suffix that replaces `path` when the block succeeds.

    Raises an `OSError` that names `path`.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
        flush(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `path` when the block succeeds, and removed otherwise.

    `path` must either not exist or be an empty folder. Raises `OSError`.
    """
    missing = [folder for folder in path.parents if not folder.exists()]  # the innermost first
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        temporary.mkdir(parents=True)  # if this fails, the folder belongs to another process: don't remove it
        try:
            yield temporary
            flush_tree(temporary)
            temporary.replace(path)
        except BaseException:
            remove_folder(temporary)
            raise
        for folder in {path.parent, *(folder.parent for folder in missing)}:
            flush(folder)
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # another process wrote something there
                folder.rmdir()
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_folder(folder: Path) -> None:
    """Remove a folder and its contents, if it exists."""
    shutil.rmtree(folder, ignore_errors=True)


def cannot_write(error: OSError, output: object | None) -> MnistExpError:
    """Return the error to raise if files cannot be written: a `WorkError` if the disk is full.

    `output` is the place that the user named; None if there is none.
    """
    kind = WorkError if error.errno == errno.ENOSPC else RequestError
    where = error.filename if output is None else f"output: {output}"
    return kind(f"{where} cannot be written: {error.strerror}")


def refuse_existing(target: Path) -> None:
    """Raise `RequestError` unless the path does not exist or is an empty folder."""
    if not target.name:
        raise RequestError(f"output: {target} does not name a new folder")
    try:
        if target.is_dir() and not target.is_symlink() and not any(target.iterdir()):
            return
        if target.exists() or target.is_symlink():
            raise RequestError(f"output: {target} already exists; choose another name with output=…")
    except OSError as error:
        raise RequestError(f"output: {target} cannot be written: {error.strerror}") from error
