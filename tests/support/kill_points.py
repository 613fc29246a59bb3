"""Run a command line in this process and kill it with SIGKILL at a chosen point.

    python tests/support/kill_points.py <place> <count> [words …]

dies when the place is reached for the `count`-th time. The product knows nothing of this: functions are replaced.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mnist_exp.cli import main
from mnist_exp.model import backend

backend.load()

from mnist_exp.inference import scoring  # noqa: E402
from mnist_exp.report import plots, progress  # noqa: E402
from mnist_exp.runs import directory, journal  # noqa: E402
from mnist_exp.tracking import recorder  # noqa: E402
from mnist_exp.training import loop  # noqa: E402


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def is_checkpoint(path: Any, *_: Any) -> bool:
    return Path(path).name.endswith(".state")


def is_end(_: Any, event: Any) -> bool:
    return str(event.kind) == "end"


def half_of(write: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that writes half of the bytes, then kills the process."""

    def half(target: Any, content: bytes) -> None:
        write(target, content[: len(content) // 2])
        die()

    return half


# By name: whose attribute is replaced, whether a call counts, and when it dies: before the call, after it, or half
# way through what it writes.
PLACES: dict[str, tuple[Any, str, Callable[..., bool], str]] = {
    "while a checkpoint is written": (Path, "write_bytes", is_checkpoint, "half"),
    "between its flush and its rename": (Path, "replace", is_checkpoint, "before"),
    "when it has its name": (Path, "replace", is_checkpoint, "after"),
    "while an old one is removed": (Path, "unlink", is_checkpoint, "after"),
    "inside an epoch": (progress.TrainingDisplay, "on_steps", lambda *_: True, "after"),
    "at an epoch's end": (loop, "is_better", lambda *_: True, "before"),
    "between checkpoint and journal": (recorder.RunRecord, "epoch", lambda *_: True, "before"),
    "while the history is written": (directory.RunDirectory, "write_history", lambda *_: True, "before"),
    "between history and journal": (recorder.RunRecord, "_write_epoch", lambda *_: True, "before"),
    "within a line of the journal": (os, "write", lambda _, content: b'"metrics"' in content, "half"),
    "between journal and the next epoch": (recorder.RunRecord, "epoch", lambda *_: True, "after"),
    "while models are saved": (Path, "replace", lambda path, _: ".keras" in path.name, "after"),
    "while a model is saved": (Path, "replace", lambda path, _: ".keras" in path.name, "before"),
    "during the final evaluation": (scoring, "score", lambda *_: True, "before"),
    "between evaluation and journal": (recorder.RunRecord, "test", lambda *_: True, "before"),
    "during plots": (plots, "confusion_matrix", lambda *_: True, "after"),
    "between the final result and the journal": (journal.IdempotentJournal, "write", is_end, "before"),
    "after the end's line": (journal.Journal, "close", lambda *_: True, "before"),
}


def arm(place: str, count: int) -> None:
    """Let the process kill itself at a chosen point."""
    owner, name, counts, when = PLACES[place]
    call = getattr(owner, name)
    left = count

    def replaced(*arguments: Any, **more: Any) -> Any:
        nonlocal left
        left -= bool(counts(*arguments))
        if left > 0 or not counts(*arguments):
            return call(*arguments, **more)
        if when == "before":
            die()
        (half_of(call) if when == "half" else call)(*arguments, **more)
        return die()

    setattr(owner, name, replaced)


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]))
    sys.exit(main(sys.argv[3:]))
