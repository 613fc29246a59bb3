"""Signals that end a run: SIGINT (Ctrl-C), SIGTERM, and SIGHUP (its terminal was closed)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from mnist_exp.errors import Killed

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Pending:
    """A received signal that waits for a safe point. A second one does not wait."""

    def __init__(self) -> None:
        self.number: int | None = None

    @property
    def came(self) -> bool:
        """Whether a signal was received."""
        return self.number is not None

    def raise_it(self) -> None:
        """Raise `KeyboardInterrupt` or `Killed` if a signal was received."""
        if self.number is not None:
            raise _exception(self.number)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.number is not None:
            raise _exception(number)
        self.number = number


@contextmanager
def raised() -> Iterator[None]:
    """In the block, SIGTERM and SIGHUP raise `Killed`, as Ctrl-C raises `KeyboardInterrupt`."""
    with _handled(_raise):
        yield


@contextmanager
def held() -> Iterator[Pending]:
    """In the block, the first signal waits for `raise_it` or the end of the block."""
    pending = Pending()
    with _handled(pending):
        yield pending
    pending.raise_it()


def _raise(number: int, frame: FrameType | None) -> None:
    raise _exception(number)


def _exception(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Killed(number)


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Install a handler; only in the main thread, as Python demands. Ignored signals (`nohup`) stay ignored."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in _ENDING:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
