"""Signals that end a run: SIGINT (Ctrl-C), SIGTERM, and SIGHUP (the terminal was closed).

Handlers raise an exception. It is lost if Python happens to be running a weak-reference callback or `__del__`, or
if a library turns it into one of its own. The signal is therefore also remembered: `check` raises it at the next
step. Python's report of the lost exception is suppressed.

During an import, handlers raise nothing: `importlib` could leave its lock held, and a thread that imports a module
would wait for it forever, and the exit for the thread. The signal is sent again until the import has ended.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from mnist_exp.errors import Killed, describe_ending
from mnist_exp.immediate_exit import exit_at_once
from mnist_exp.runs.system_calls import ENDING_SIGNALS, signal_main_thread

_PACKAGE = "mnist_exp"
_RETRY = 0.05  # seconds after which a signal is sent again that came during an import
_FUNCTION = 0x1  # inspect.CO_OPTIMIZED, a flag of functions that modules and class bodies lack
_waiting: set[int] = set()  # the signals that will be sent again after an import
_raised: list[int] = []  # the signals for which a handler raised an exception


def received() -> BaseException | None:
    """Return the exception of the last signal of this command, if any."""
    return _exception(_raised[-1]) if _raised else None


def forget() -> None:
    """Forget the signals received so far: they have been handled."""
    _raised.clear()


def check() -> None:
    """Raise the last signal again if its exception was lost."""
    if (error := received()) is not None:
        raise error


class Pending:
    """A received signal that waits for a safe point. A second signal is raised at once."""

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
    """In the block, SIGTERM and SIGHUP raise `Killed`, and Ctrl-C raises `KeyboardInterrupt`."""
    with _handled(_raise), lost_exceptions_unreported():
        yield
        check()


@contextmanager
def seen_despite_other_handlers() -> Iterator[None]:
    """At the end of the block, raise the last signal received in it, even if a library replaced the handler."""
    if not _in_main_thread():
        yield
        return
    reader, writer = socket.socketpair()  # Windows lacks non-blocking pipes
    writer.setblocking(False)
    before = signal.set_wakeup_fd(
        writer.fileno()
    )  # Python writes each signal's number before the handler is called
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.close()
        with reader, reader.makefile("rb") as stream:
            numbers = [number for number in stream.read() if number in ENDING_SIGNALS and number not in _waiting]
        if numbers:
            raise _exception(numbers[-1])


@contextmanager
def held() -> Iterator[Pending]:
    """In the block, the first signal waits for `raise_it` or the end of the block."""
    pending = Pending()
    with _handled(pending):
        yield pending
    pending.raise_it()


def start() -> None:
    """Let Ctrl-C raise `KeyboardInterrupt`, unless it is ignored. Forgets the signals of earlier commands."""
    forget()
    if _in_main_thread() and signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
        signal.signal(signal.SIGINT, _raise)


@contextmanager
def lost_exceptions_unreported() -> Iterator[None]:
    """In the block, Python does not report signals lost in `__del__`, a weak-reference callback, or C++ code.

    TensorFlow's C++ code prints an exception that a Python function raised in it, and continues without it.
    `SystemExit` is what Ray's handler for SIGTERM raises.
    """
    endings = (KeyboardInterrupt, Killed, SystemExit)
    before, before_print = sys.unraisablehook, sys.excepthook

    def report(unraisable: sys.UnraisableHookArgs) -> None:
        if not isinstance(unraisable.exc_value, endings):
            before(unraisable)

    def print_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, endings):
            before_print(kind, error, trace)

    sys.unraisablehook, sys.excepthook = report, print_uncaught
    try:
        yield
    finally:
        sys.unraisablehook, sys.excepthook = before, before_print


@contextmanager
def exiting() -> Iterator[None]:
    """In the block, a signal ends the process at once, unless it is handled already.

    For blocks that import heavy libraries and write nothing: modules turn a `KeyboardInterrupt` during their
    import into other errors.
    """
    terminal = os.dup(2)  # standard error may be redirected in the block

    def end(number: int, frame: FrameType | None) -> None:
        text, status = describe_ending(_exception(number))
        exit_at_once(status, text, terminal)

    try:
        with _handled(end, instead_of=(signal.SIG_DFL, signal.default_int_handler, _raise)):
            yield
    finally:
        os.close(terminal)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _raise(number: int, frame: FrameType | None) -> None:
    if _is_importing(frame):
        if number not in _waiting:
            _waiting.add(number)
            again = threading.Timer(_RETRY, _send_again, [number])
            again.daemon = True
            again.start()
        return
    _raised.append(number)
    raise _exception(number)


def _is_importing(frame: FrameType | None) -> bool:
    """Return whether this package is importing a module. The package may itself run during the user's import."""
    while frame is not None:
        code, package = frame.f_code, str(frame.f_globals.get("__package__"))
        if code.co_filename.startswith("<frozen importlib"):
            return True
        is_ours = package == _PACKAGE or package.startswith(f"{_PACKAGE}.")
        if is_ours and code.co_flags & _FUNCTION and code is not _raise.__code__:
            return False
        frame = frame.f_back
    return False


def _send_again(number: int) -> None:
    _waiting.discard(number)
    signal_main_thread(number)


def _exception(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Killed(number)


@contextmanager
def _handled(
    handler: Callable[[int, FrameType | None], None], instead_of: Collection[object] | None = None
) -> Iterator[None]:
    """Install a handler, in the main thread only, as Python requires. Ignored signals (`nohup`) stay ignored.

    Args:
        handler: Called with the signal's number.
        instead_of: The handlers that it replaces; None for any.
    """
    before = {}
    for number in ENDING_SIGNALS if _in_main_thread() else ():
        current = signal.getsignal(number)
        if current not in (signal.SIG_IGN, None) and (instead_of is None or current in instead_of):
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
