"""Signals that end a run: Ctrl-C (SIGINT), SIGTERM, and SIGHUP, when its terminal is closed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from mnist_exp.errors import Killed

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Pending:
    """The signal that came and waits for a good moment. A second one does not wait."""

    def __init__(self) -> None:
        self.number: int | None = None

    @property
    def came(self) -> bool:
        """Whether there is one."""
        return self.number is not None

    def raise_it(self) -> None:
        """Raise `KeyboardInterrupt` or `Killed`, if a signal came."""
        if self.number is not None:
            raise _exception(self.number)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.number is not None:
            raise _exception(number)
        self.number = number


@contextmanager
def raised() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Killed` in the block, as Ctrl-C raises `KeyboardInterrupt`."""
    with _handled(_raise):
        yield


@contextmanager
def held() -> Iterator[Pending]:
    """The first signal waits until `raise_it`, or the block's end."""
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
    """Python lets only the main thread do this; what is ignored (`nohup`) stays ignored."""
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
