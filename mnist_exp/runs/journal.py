"""The journal: everything for the tracker, in order, as lines of JSON in the run directory.

Training only appends to it (0.1 ms a line); `mnist_exp.tracking.uploader` reads it in another process. The kinds
of lines, each with `time` (milliseconds since 1970):

    run        name, key (unique), experiment, tags, enabled (whether the run is tracked), uri (of the store; null
               for that of the output folder), parent (the sweep's directory, or null)
    params     values
    dataset    name, sha256, source, shape, images
    metrics    step, values
    note       text (Markdown, the run's description)
    tags       values
    artifact   file, folder (of the artifact store)
    model      file, shape, classes, requirements, weights_sha256
    end        status (FINISHED, FAILED, KILLED)
    resumed    status (RUNNING), epochs and steps (done before), at, overrides, exact, fingerprint

A resumed run continues its journal, after an `end` or not. It does not repeat `run`, `params`, `dataset`, `note`,
or the metrics of a step, and repeats `model` only for other weights.
"""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

FILE = "journal.jsonl"
# MLflow's names for the statuses of `result.json`.
END_STATUS = {
    "finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "killed": "KILLED", "pruned": "KILLED",
}  # fmt: skip


class Journal:
    """Appends to a run's journal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Unbuffered, appending: a line is whole in the file when `write` returns.
        self._descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        content = (folder / FILE).read_bytes()
        if not content.endswith(b"\n"):  # the last writer died, or the disk was full
            os.truncate(self._descriptor, content.rfind(b"\n") + 1)

    def write(self, kind: str, **content: Any) -> None:
        """Append a line."""
        line = json.dumps({"kind": kind, "time": time.time_ns() // 1_000_000, **content}, ensure_ascii=False)
        encoded = line.encode() + b"\n"
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


def read(folder: Path) -> list[dict[str, Any]]:
    """Read the journal's complete lines. Raises `ValueError` for a damaged line."""
    return read_from(folder, 0)[0]


def read_from(folder: Path, start: int) -> tuple[list[dict[str, Any]], int]:
    """Read the complete lines from byte `start` on; return them and the position after them."""
    with (folder / FILE).open("rb") as file:
        file.seek(start)
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]  # a line after the last newline is still being written
    lines = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            lines.append(json.loads(line))
        except ValueError as error:
            place = f":{number}" if not start else ""
            raise ValueError(f"{folder / FILE}{place}: damaged: {line[:30].decode(errors='replace')!r}") from error
    return lines, start + len(whole)


def flush(folder: Path) -> None:
    """Flush the journal to the disk, which its writer does not wait for."""
    descriptor = os.open(folder / FILE, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def has_ended(folder: Path) -> bool:
    """Whether the journal's last line is an `end`."""
    return any(line["kind"] == "end" for line in read(folder)[-1:])


def flatten(values: Any, prefix: str = "") -> dict[str, str]:
    """Flatten nested values to text by dotted name: the parameters of a tracker."""
    if isinstance(values, dict) and values:
        items = values.items()
    elif isinstance(values, list) and any(isinstance(value, (dict, list)) for value in values):
        items = enumerate(values)  # type: ignore[assignment]
    else:
        text = values if isinstance(values, str) else json.dumps(values, ensure_ascii=False)
        return {prefix: text}
    flat: dict[str, str] = {}
    for key, value in items:
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
