"""The errors that users meet, and how each ends the program.

MnistExpError
├── RequestError   what was asked for is wrong; nothing was done        (exit status 2)
└── WorkError      what was asked for is right, but the work failed     (exit status 1)

Pruned             a trial of a search is not worth going on with; no `Exception`: nothing failed
Killed             a signal ends the process; no `Exception`, as `KeyboardInterrupt`    (128 + its number)
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where it stands, and what was expected and found there."""

    place: str
    message: str
    path: str = field(default="", compare=False)
    """The dotted path of what is wrong, where it is one thing."""

    def __lt__(self, other: Problem) -> bool:
        """By place, then message, numbers in them by their size: line 3 before line 10."""
        return self._key() < other._key()

    def _key(self) -> list[tuple[int, int | str]]:
        parts = re.split(r"(\d+)", f"{self.place}\0{self.message}")
        return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]


class MnistExpError(Exception):
    """Base of all errors whose message is meant for the user."""

    exit_status = 1


class RequestError(MnistExpError):
    """The request was wrong: a config, an override, a data file, an output directory."""

    exit_status = 2

    def __init__(self, problems: str | Iterable[Problem], subject: str = "this configuration") -> None:
        self.problems = () if isinstance(problems, str) else tuple(problems)
        text = problems if isinstance(problems, str) else listed(self.problems, f"in {subject}")
        super().__init__(text)
        self.mended: tuple[Any, Any] | None = None
        """The config and composition without what is wrong, for who can find more that is."""
        self.more: Callable[[], tuple[Problem, ...]] | None = None
        """Finds further problems, which takes longer."""


def listed(problems: Sequence[Problem], where: str) -> str:
    """How many there are, and each on a line of its own."""
    count = len(problems)
    width = max(len(problem.place) for problem in problems)
    lines = [f"{count} problem{'s' if count > 1 else ''} {where}"]
    lines += [f"  {problem.place:<{width}}  {problem.message}" for problem in problems]
    return "\n".join(lines)


def first_line(error: BaseException) -> str:
    """Of what a library says; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


class WorkError(MnistExpError):
    """The request was right, but the work failed: a diverged training, a full disk, a failed job."""


class Pruned(BaseException):
    """A trial of a search is behind the others: it ends before its last epoch."""


class Killed(BaseException):
    """SIGTERM or SIGHUP: somebody other than the user at the terminal ends the process."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_status = 128 + number
