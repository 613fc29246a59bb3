"""The errors that users see, and the exit status of each.

MnistExpError
├── RequestError   the request is wrong; nothing was done    (exit status 2)
└── WorkError      the request is right, but the work failed (exit status 1)
    └── Diverged   the loss or a weight is no longer finite

Pruned             a trial of a search is stopped early; not an `Exception`, since nothing failed
Killed             a signal ends the process; like `KeyboardInterrupt`, not an `Exception` (128 + its number)
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

# Codes are part of the contract: scripts may rely on them, so they are never renamed.
Code = Literal[
    "contradiction",  # two settings are mutually exclusive
    "given-twice",  # a key or image is given more than once
    "invalid-entry",  # a layer entry, or the name of a Keras object, is malformed
    "invalid-interpolation",  # an interpolation is malformed, or refers to nothing
    "invalid-override",  # an override is not in Hydra's syntax, or not allowed here
    "invalid-value",  # the type is right, but the value is not allowed
    "invalid-yaml",  # a YAML file cannot be read
    "missing-value",  # a required key or value is not given
    "names-code",  # a config names code to run
    "not-found",  # a file, run or directory does not exist
    "not-installed",  # a package that the request needs is not installed
    "out-of-range",  # a number or length is too small or too large
    "rejected-by-keras",  # Keras cannot build, compile or train the model
    "several-values",  # several values are given instead of one
    "unknown-argument",  # a Keras class does not take this argument
    "unknown-key",  # a key or group does not exist
    "unknown-layer",  # a layer type does not exist, or is not allowed
    "unknown-option",  # a group has no such option, or an enumeration no such value
    "unusable",  # something that the request needs exists, but is not in a usable state
    "unused-parameter",  # no layer uses this parameter
    "wrong-type",  # a value of another type was expected
]
CODES: frozenset[str] = frozenset(get_args(Code))


@dataclass(frozen=True)
class Problem:
    """One problem in a request."""

    code: Code
    place: str
    """`file:line`, `command line`, or another name for the origin of the problem."""
    message: str
    """The key, what was expected, and what was found."""
    path: str = field(default="", compare=False)
    """The dotted path of the key at fault; empty if no single key is at fault."""

    def __lt__(self, other: Problem) -> bool:
        """Order by place, then message, comparing numbers by value: line 3 precedes line 10."""
        return self.sort_key() < other.sort_key()

    def sort_key(self) -> list[tuple[int, int | str]]:
        """Return a key that sorts problems by place, then message."""
        parts = re.split(r"(\d+)", f"{self.place}\0{self.message}")
        return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]


class MnistExpError(Exception):
    """Base of all errors whose message is meant for the user."""

    exit_status = 1


class RequestError(MnistExpError):
    """The request was wrong: for example, a config, an override, a data file or an output directory."""

    exit_status = 2

    def __init__(
        self,
        problems: str | Iterable[Problem],
        subject: str = "this configuration",
        *,
        pending: Callable[[], tuple[Problem, ...]] | None = None,
    ) -> None:
        """Create the error from a list of problems or from a message.

        Args:
            problems: The problems, or a message that describes the only one.
            subject: The name of what the problems are in, for the heading.
            pending: Finds further problems. It is slow, so it is called after `problems` have been printed.
        """
        self.problems = () if isinstance(problems, str) else tuple(problems)
        self.pending = pending
        heading = f"{{count}} problem{{s}} in {subject}"
        text = problems if isinstance(problems, str) else format_problems(self.problems, heading)
        super().__init__(text)


DIVERGED = "the loss is no longer a number"
"""Prefix of the error message for a run that diverged; used to recognize such runs later."""

PREEMPTED = "preempted, queued again"
"""The reason recorded for a job that submitit stopped for its queue; the queue will start the job again."""


def format_problems(problems: Sequence[Problem], heading: str) -> str:
    """Format problems: a heading with their number (`{count} problem{s} …`), then one problem per line."""
    width = max(len(problem.place) for problem in problems)
    lines = [heading.format(count=len(problems), s="s" if len(problems) > 1 else "")]
    lines += [f"  {problem.place:<{width}}  {problem.message}" for problem in problems]
    return "\n".join(lines)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's type if it has none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


class WorkError(MnistExpError):
    """The request was right, but the work failed: for example, training diverged, or the disk is full."""

    document: object = None
    """The document of `format=json`, if there are results despite the failure."""


class Diverged(WorkError):
    """The loss or a weight is no longer finite. The best epoch before that can still be saved."""


class Pruned(BaseException):
    """A trial of a search is stopped before its last epoch because it is worse than the others."""


def describe_ending(signalled: BaseException) -> tuple[str, int]:
    """Return the message and the exit status for a command that a signal ended."""
    if isinstance(signalled, Killed):
        return f"mnist-exp: ended by {signalled}", signalled.exit_status
    return "mnist-exp: interrupted", 130


class Killed(BaseException):
    """SIGTERM or SIGHUP ends the process."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_status = 128 + number
