"""The program: `mnist-exp`, which is also `python -m mnist_exp`."""

from __future__ import annotations

import signal
import sys

from mnist_exp.immediate_exit import exit_at_once


def main() -> int:
    """Run the command line and return its exit status.

    Ctrl-C ends the process at once until the work begins: modules that are being imported turn a
    `KeyboardInterrupt` into other errors.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as under `nohup`
        signal.signal(signal.SIGINT, _exit)
    from mnist_exp.cli import main as run

    return run()


def _exit(number: int, frame: object) -> None:
    exit_at_once(128 + number, "mnist-exp: interrupted")


if __name__ == "__main__":
    status = main()
    # Reset CPython's note that a KeyboardInterrupt has passed through `exec`, as in a dataclass decorator:
    # `python -m` would end with SIGINT instead of the status.
    exec("")
    sys.exit(status)
