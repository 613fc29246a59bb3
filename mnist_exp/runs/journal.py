"""The journal: the events for the tracker, in order, as lines of JSON in the run directory.

Training only appends to it (0.1 ms per line); `mnist_exp.tracking.upload_loop` reads it in another process. A
resumed run continues its journal, even after an `end`. `mnist_exp.runs.events` describes the events.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from mnist_exp.runs.events import EndEvent, Event, RunEvent, format_event, parse_event
from mnist_exp.runs.regular_files import MOST_TEXT, open_regular
from mnist_exp.runs.system_calls import open_descriptor

FILE = "journal.jsonl"


class Journal:
    """Appends to a run's journal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Unbuffered, in append mode: when `write` returns, the whole line is in the file.
        self._descriptor = open_descriptor(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._lock = Lock()
        content = (folder / FILE).read_bytes()
        if not content.endswith(b"\n"):  # the last writer died, or the disk was full
            os.ftruncate(self._descriptor, content.rfind(b"\n") + 1)

    def write(self, event: Event) -> None:
        """Append an event."""
        encoded = format_event(event)
        with self._lock:  # the system metrics are written by a thread
            try:
                written = os.write(self._descriptor, encoded)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self.folder / FILE)) from error
            if written != len(encoded):
                os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder / FILE))

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class IdempotentJournal:
    """A journal with one event per subject: an event that it already has is not written again.

    A resumed run therefore repeats neither its parameters nor the metrics of a step, and records its model again
    only if the weights differ.
    """

    def __init__(self, folder: Path) -> None:
        """Raise `ValueError` if the journal is damaged."""
        self._journal = Journal(folder)
        try:
            self._subjects = {event.subject for event in read(folder)}
        except ValueError:
            self._journal.close()
            raise

    def write(self, event: Event) -> None:
        """Append an event, unless the journal has one with the same subject."""
        if event.subject is None or event.subject not in self._subjects:
            self._journal.write(event)
            self._subjects.add(event.subject)

    def close(self) -> None:
        """Close the file."""
        self._journal.close()


def read(folder: Path) -> list[Event]:
    """Read the journal's complete lines. Raises `ValueError` if one is damaged or not an event."""
    return read_from(folder, 0)[0]


def read_from(folder: Path, start: int) -> tuple[list[Event], int]:
    """Read the complete lines from byte `start`; return their events and the position after them."""
    with open_regular(folder / FILE, MOST_TEXT) as file:
        file.seek(start)
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]  # a line after the last newline is still being written
    events = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            events.append(parse_event(line))
        except ValueError as error:
            place = f":{number}" if not start else ""
            raise ValueError(f"{folder / FILE}{place}: {error}") from error
    return events, start + len(whole)


def first_run(events: Sequence[Event]) -> RunEvent | None:
    """Return the run event that a journal begins with; None if it is empty or has lost its first lines."""
    first = events[0] if events else None
    return first if isinstance(first, RunEvent) else None


def flush(folder: Path) -> None:
    """Flush the journal to disk. `Journal.write` does not wait for this."""
    descriptor = open_descriptor(folder / FILE, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def has_ended(folder: Path) -> bool:
    """Return whether the journal's last event is an `end`."""
    return any(isinstance(event, EndEvent) for event in read(folder)[-1:])


def flatten(values: Any, prefix: str = "") -> dict[str, str]:
    """Flatten nested values into a mapping from dotted names to strings, for a tracker's parameters."""
    if isinstance(values, dict) and values:
        items = values.items()
    elif is_nested_list(values):
        items = enumerate(values)  # type: ignore[assignment]
    else:
        text = values if isinstance(values, str) else json.dumps(values, ensure_ascii=False)
        return {prefix: text}
    flat: dict[str, str] = {}
    for key, value in items:
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def is_nested_list(value: Any) -> bool:
    """Return whether a value is a list, such as one of layers, whose items have dotted names of their own."""
    return isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value)
