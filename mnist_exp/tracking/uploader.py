"""The process that delivers journals while they grow.

    python -m mnist_exp.tracking.uploader <directory> …

A directory is a run's, or a sweep's with those of its jobs. It delivers until the standard input ends: whoever
writes the journals has finished, or is gone, and what it left open is marked as killed. Then it delivers the rest,
once, and ends with status 0; or with status 1 and, as its last line, what is in the way.
"""

from __future__ import annotations

import os
import re
import select
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from mnist_exp.runs import journal
from mnist_exp.runs.abandoned import settle
from mnist_exp.tracking.delivery import Delivery
from mnist_exp.tracking.store import connect

_POLL = 0.2  # seconds between looks at the journals
_LONGEST_PAUSE = 30  # seconds, when nothing can be delivered
_LONGEST_ANSWER = 20  # seconds that a request may take, after some took too long
_DEATH = 5  # seconds until the lock of a process that is gone is free, at the latest


def journals(root: Path) -> list[Path]:
    """The directories with a journal: a run's; or a sweep's, and then its jobs'."""
    return [file.parent for pattern in (journal.FILE, f"*/{journal.FILE}") for file in sorted(root.glob(pattern))]


def reason(error: BaseException) -> str:
    """What went wrong, in one line."""
    text = str(error).strip().split("\n")[0] or type(error).__name__
    if request := re.match(r"API request to (\w+://[^/ ]+).* failed with (?:timeout )?exception (.*)", text):
        system = re.search(r"\[Errno -?\d+\] ([^\"')]+)", request[2])
        return f"{request[1]}: {system[1] if system else 'no answer' if 'timed out' in text else request[2]}"
    return text


def follow(roots: Sequence[Path]) -> int:
    """Deliver journals as they grow. Returns the exit status."""
    deliveries: dict[Path, Delivery] = {}
    pause = _POLL
    while not select.select([sys.stdin], [], [], pause)[0] or os.read(sys.stdin.fileno(), 1):
        if _deliver(roots, deliveries) is None:
            pause = _POLL
        else:
            pause = min(2 * pause, _LONGEST_PAUSE)
            seconds = int(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", 5))
            os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(max(seconds, min(2 * seconds, _LONGEST_ANSWER)))
    _settle_all(roots)
    failure = _deliver(roots, deliveries)
    for delivery in deliveries.values():
        delivery.note_run_id()
    if failure is not None:
        print(failure, file=sys.stderr)
        return 1
    return 0


def _deliver(roots: Iterable[Path], deliveries: dict[Path, Delivery]) -> str | None:
    """Deliver what there is. Returns what is in the way, of the last that could not be delivered, or None."""
    failure = None
    folders = [folder for root in roots for folder in journals(root)]
    for folder in folders:
        # Whatever goes wrong is tried again, and training goes on: MLflow raises anything.
        try:
            if folder not in deliveries:
                deliveries[folder] = Delivery(folder)
            deliveries[folder].pending()
        except Exception as error:
            failure = reason(error)
            store = deliveries[folder].uri if folder in deliveries else None
            if len(folders) > 1 and store is not None and not answers(store):
                break  # the others would wait as long for nothing
    return failure


def answers(uri: str) -> bool:
    """Whether a store can be reached at all, so that what failed was about one run."""
    try:
        connect(uri)
    except Exception:
        return False
    return True


def _settle_all(roots: Iterable[Path]) -> None:
    """Mark as killed what was left open."""
    deadline = time.monotonic() + _DEATH
    for root in roots:
        for folder in journals(root):
            try:
                while not (journal.has_ended(folder) or settle(folder)) and time.monotonic() < deadline:
                    time.sleep(_POLL)
            except (OSError, ValueError):
                continue


if __name__ == "__main__":
    os.nice(5)  # importing MLflow takes a second that a training on all cores would miss
    sys.exit(follow([Path(argument) for argument in sys.argv[1:]]))
