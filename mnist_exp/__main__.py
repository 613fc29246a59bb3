"""The entry point of `mnist-exp` and of `python -m mnist_exp`."""

from __future__ import annotations

import signal
import sys

from mnist_exp.immediate_exit import exit_at_once, flush_and_exit


def main() -> int:
    """Run the command line and return its exit status.

    Until the verb starts, Ctrl-C ends the process at once: modules that are being imported turn a
    `KeyboardInterrupt` into other errors. After the verb has ended, the first Ctrl-C is ignored while Python ends.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as under `nohup`
        signal.signal(signal.SIGINT, _exit)
    from mnist_exp.cli import main as run

    try:
        status = run()
    except KeyboardInterrupt:  # it came too late for the verb to handle it
        print("mnist-exp: interrupted", file=sys.stderr)
        status = 128 + signal.SIGINT
    if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
        signal.signal(signal.SIGINT, _ignore_once)
    if status > 128 and "ray" in sys.modules:  # its threads can crash an interrupted process while Python ends
        flush_and_exit(status)
    return status


def _ignore_once(number: int, frame: object) -> None:
    signal.signal(number, _exit)


def _exit(number: int, frame: object) -> None:
    exit_at_once(128 + number, "mnist-exp: interrupted")


if __name__ == "__main__":
    status = main()
    # CPython remembers that a KeyboardInterrupt passed through `exec` (as in a dataclass decorator), and would end
    # `python -m` with SIGINT instead of the status. A successful `exec` resets this.
    exec("")
    sys.exit(status)
