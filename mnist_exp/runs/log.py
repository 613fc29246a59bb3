"""The messages of a run: plain on the console, with the time in `run.log`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from mnist_exp.runs.regular_files import open_regular
from mnist_exp.runs.system_calls import open_descriptor
from mnist_exp.text import printable

LOG = "run.log"
_LOGGER = logging.getLogger("mnist_exp")


def say(message: str) -> None:
    """Print a message, and write it to the run's log if there is one."""
    _LOGGER.info(message)


def warn(message: str) -> None:
    """Print and log a message as a warning."""
    _LOGGER.warning(message)


class _Console(logging.Handler):
    """Prints to the current standard output, which a progress display may have replaced."""

    is_quiet = False

    def emit(self, record: logging.LogRecord) -> None:
        if self.is_quiet:
            return
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        try:
            print(prefix + printable(record.getMessage()), file=sys.stdout, flush=True)
        except OSError:  # the reader (`| head`) has exited, or the disk is full: keep working
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115


_CONSOLE = _Console()


def to_console() -> None:
    """Print messages on the console. Call once per process."""
    _LOGGER.setLevel(logging.INFO)
    _LOGGER.propagate = False
    if _CONSOLE not in _LOGGER.handlers:
        _LOGGER.addHandler(_CONSOLE)


@contextmanager
def quiet() -> Iterator[None]:
    """In the block, write messages to the run's log only: another process reports progress to the user."""
    to_console()
    before, _CONSOLE.is_quiet = _CONSOLE.is_quiet, True
    try:
        yield
    finally:
        _CONSOLE.is_quiet = before


def is_quiet() -> bool:
    """Return whether another process reports progress to the user."""
    return _CONSOLE.is_quiet


class _File(logging.FileHandler):
    """A log file whose write errors (a full disk, a removed directory) are ignored."""

    def _open(self) -> TextIO:  # type: ignore[override]
        descriptor = open_descriptor(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        return open(descriptor, "a", encoding=self.encoding)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Ignore the error."""


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Format a message or traceback without credentials or control characters."""
        return printable(super().format(record))


@contextmanager
def to_file(path: Path) -> Iterator[None]:
    """Within the `with` block, also write messages and Python warnings to a file."""
    handler = _File(path, encoding="utf-8")
    handler.setFormatter(_PrintableFormatter("%(asctime)s %(levelname)s %(message)s"))
    warnings = logging.getLogger("py.warnings")
    logging.captureWarnings(True)
    warnings.propagate = False
    _LOGGER.addHandler(handler)
    warnings.addHandler(handler)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        _LOGGER.removeHandler(handler)
        warnings.removeHandler(handler)
        with suppress(OSError):
            handler.close()


def shorten_log(path: Path, most: int) -> bytes:
    """Return a log, or its beginning and end if it has more than `most` bytes, with a line on what is left out.

    Raises `OSError` if it cannot be read.
    """
    with open_regular(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size <= most:
            return file.read(most)
        head = file.read(most // 2)
        file.seek(-(most // 2), os.SEEK_END)
        tail = file.read(most // 2)
    head, tail = head[: head.rfind(b"\n") + 1], tail[tail.find(b"\n") + 1 :]
    left = size - len(head) - len(tail)
    line = f"… {left:,} bytes are left out here; {LOG} in the run's directory has all of them …"
    return b"%b%b\n%b" % (head, line.encode(), tail)


def log_traceback(error: Exception) -> None:
    """Write an error with its traceback to the run's log, but not on the console."""
    exception = (type(error), error, error.__traceback__)
    record = _LOGGER.makeRecord(_LOGGER.name, logging.ERROR, __file__, 0, str(error), (), exception)
    for handler in _LOGGER.handlers:
        if isinstance(handler, _File):
            handler.handle(record)
