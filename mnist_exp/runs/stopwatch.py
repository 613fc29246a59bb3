"""Measure the duration of phases. Phases in two threads may overlap; their sum then exceeds the total."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the duration of each phase of a run. `started` is a reading of `time.perf_counter`."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the block's time to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0) + time.perf_counter() - start

    def report(self) -> dict[str, float]:
        """Return the duration of each phase and, as `total`, the time since the start, in seconds."""
        total = time.perf_counter() - self._started
        return {name: round(value, 3) for name, value in {**self._seconds, "total": total}.items()}


class Timer:
    """A timer that expires `seconds` after its start; never if `seconds` is None."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self.restart()

    def restart(self) -> None:
        """Restart the timer."""
        self._since = time.monotonic()

    def is_up(self) -> bool:
        """Return whether the timer has expired."""
        return self._seconds is not None and time.monotonic() - self._since >= self._seconds
