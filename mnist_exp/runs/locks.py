"""File locks: the lock of a run or sweep directory, and exclusive access to a shared file."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mnist_exp.runs.system_calls import lock_descriptor, open_descriptor

LOCK = ".lock"


def lock(path: Path, name: str = LOCK) -> int:
    """Lock a directory or, if another `name` is given, something in that directory.

    The lock is held until the returned descriptor is closed or the process ends. Raises `BlockingIOError` if
    another process holds it.
    """
    while True:
        descriptor = open_descriptor(path / name, os.O_CREAT | os.O_RDWR)
        try:
            lock_descriptor(descriptor)
            with suppress(FileNotFoundError):  # its last owner has just removed it
                if os.fstat(descriptor).st_ino == os.stat(path / name).st_ino:
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Return whether a living process works in a run's directory."""
    try:
        descriptor = open_descriptor(path / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        # A shared lock: checking blocks another process for an instant at most, and needs no write access.
        lock_descriptor(descriptor, shared=True)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def exclusive(path: Path, patience: float = 120) -> Iterator[None]:
    """Hold a file lock. Raises `TimeoutError` if another process holds it for `patience` seconds.

    Such locks guard a journal's delivery, a study's claims, and the creation of an SQLite store, whose migration
    would fail if several processes opened it at once.
    """
    descriptor = open_descriptor(path, os.O_CREAT | os.O_RDWR)
    deadline = time.monotonic() + patience
    try:
        while True:
            try:
                lock_descriptor(descriptor)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"another process has held {path} for {patience:g} s") from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)
