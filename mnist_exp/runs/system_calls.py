"""System calls that differ between POSIX and Windows: locking, opening, flushing, signals, owners of files.

On Windows, none of this has been run; `tests/test_windows.py` emulates what Windows lacks.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import stat
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any


def _import_if_present(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_fcntl: Any = _import_if_present("fcntl")
IS_POSIX = _fcntl is not None
ENDING_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The signals that end a command."""
_POLL = 0.05  # seconds between attempts to lock a file
_LOCKED_BYTE = 2**40  # Windows keeps others from reading a locked byte: lock one after the end of the file


def lock_descriptor(descriptor: int, *, shared: bool = False, wait: bool = False) -> None:
    """Lock an open file until it is closed. Raise `BlockingIOError` if another process holds it, unless `wait`.

    Shared locks exclude only exclusive ones; on Windows, all locks are exclusive.
    """
    if IS_POSIX:
        kind = _fcntl.LOCK_SH if shared else _fcntl.LOCK_EX
        _fcntl.flock(descriptor, kind if wait else kind | _fcntl.LOCK_NB)
        return
    msvcrt: Any = importlib.import_module("msvcrt")
    while True:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            return
        except OSError as error:
            if not wait:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
        time.sleep(_POLL)


def open_descriptor(path: str | Path, flags: int, mode: int = 0o644) -> int:
    """Open a file in binary mode, without waiting for a writer if it is a pipe.

    Raises `OSError` with `ELOOP` if it is a symbolic link.
    """
    if not hasattr(os, "O_NOFOLLOW") and os.path.islink(path):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
        flags |= getattr(os, name, 0)
    return os.open(path, flags, mode)


def flush(path: Path) -> None:
    """Flush a file or, on POSIX, a folder's entries to disk. Raises `OSError`."""
    if not IS_POSIX and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if IS_POSIX else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Flush a folder's content, at any depth, to disk. Raises `OSError`."""
    entries = list(folder.iterdir())
    if IS_POSIX and any(entry.is_dir() for entry in entries):
        os.sync()
        return
    for path in entries:
        (flush_tree if path.is_dir() else flush)(path)
    flush(folder)


def has_ended(pid: int) -> bool:
    """Return whether a process of this machine has ended; False on Windows, which offers no such query."""
    if not IS_POSIX:  # `os.kill` would end the process
        return False
    try:
        os.kill(pid, 0)  # signal 0 only checks
    except (OSError, OverflowError) as error:  # another user's process: alive
        return isinstance(error, ProcessLookupError)
    return False


def signal_main_thread(number: int) -> None:
    """Send a signal to the main thread of this process, which ends a call that it is blocked in."""
    thread = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and thread is not None:
        signal.pthread_kill(thread, number)
    else:
        signal.raise_signal(number)


def end_group(pid: int, *, at_once: bool = False) -> None:
    """End a process and, on POSIX, its group, which it leads."""
    if IS_POSIX:
        os.killpg(pid, signal.SIGKILL if at_once else signal.SIGTERM)
    else:
        os.kill(pid, signal.SIGTERM)


def is_owned_by_this_user(status: os.stat_result) -> bool:
    """Return whether this user owns a file. Windows has no owners in `os.stat`."""
    return not IS_POSIX or status.st_uid == os.geteuid()


def only_owner_writes(status: os.stat_result) -> bool:
    """Return whether the permissions of a file let only its owner write. Windows has none in `os.stat`."""
    return not IS_POSIX or not stat.S_IMODE(status.st_mode) & 0o022


def make_private(descriptor: int) -> None:
    """Let only its owner read and write a file, on POSIX."""
    if IS_POSIX:
        os.fchmod(descriptor, 0o600)
