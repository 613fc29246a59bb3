"""End the process at once, without cleaning up. The program imports this module first, so it must load fast."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import NoReturn


def exit_at_once(status: int, message: str, terminal: int = 2) -> NoReturn:
    """Write a line to a file descriptor and end the process, from a signal handler."""
    os.write(terminal, f"{message}\n".encode())
    os._exit(status)


def flush_and_exit(status: int) -> NoReturn:
    """Write pending output, if possible, and end the process."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)
