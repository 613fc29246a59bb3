"""Read files of run directories, which may be untrusted: regular files only, and only inside the directory.

A symbolic link could point to any file of the user, reading from a pipe might never end, and `..` leads out of the
directory.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from mnist_exp.runs.system_calls import open_descriptor

MOST_TEXT = 64 * 2**20
"""Maximum size of a run's text file, in bytes. A journal of 10,000 epochs takes 3 MB."""


def open_regular(path: Path, most: int | None = None) -> BinaryIO:
    """Open a file for reading.

    Args:
        path: The file. Its folder may be reached through symbolic links.
        most: The maximum size in bytes.

    Raises:
        OSError: The file cannot be read, is not a regular file, or is too large.
    """
    try:
        descriptor = open_descriptor(path, os.O_RDONLY)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "is a symbolic link", str(path)) from error
        raise
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and (most is None or status.st_size <= most):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    raise OSError(errno.EFBIG, f"has {status.st_size:,} bytes; at most {most:,} are read", str(path))


def read_text(path: Path, most: int = MOST_TEXT) -> str:
    """Read a UTF-8 text file. Raises `OSError`, as `open_regular` does, or `UnicodeDecodeError`."""
    with open_regular(path, most) as file:
        return file.read().decode("utf-8")


def file_inside(folder: Path, name: str) -> Path:
    """Return the path of a regular file inside a folder.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The name leads out of the folder, through a symbolic link, or to something other than a file.
    """
    parts = PurePosixPath(name).parts
    if not is_relative(name):
        raise ValueError(f"{name!r} is not a path inside the directory")
    path = folder
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise ValueError(f"{path.relative_to(folder)} is a symbolic link")
    mode = path.lstat().st_mode
    if not stat.S_ISREG(mode):
        raise ValueError(f"{name} is not a regular file")
    return path


def is_relative(name: str) -> bool:
    """Return whether a path is relative and does not lead upwards."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def first_irregular(folder: Path) -> Path | None:
    """Return an entry, at any depth, that is neither a regular file nor a folder; None if there is none."""
    for parent, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            path = Path(parent) / name
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:  # another process is working in the folder
                continue
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                return path
    return None
