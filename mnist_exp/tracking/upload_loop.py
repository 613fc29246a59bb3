"""The process that delivers growing journals to MLflow.

    python -m mnist_exp.tracking.upload_loop <directory> …

Each directory is that of a run, or of a sweep with its jobs. The process delivers until its standard input is
closed, which means that the writer has finished or died; a dead writer's open runs are marked as killed. The
process then tries once to deliver the rest, and exits with status 0, or with status 1 and the reason as its last
line.
"""

from __future__ import annotations

import gc
import os
import select
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from mnist_exp.runs import journal
from mnist_exp.runs.abandoned import mark_abandoned
from mnist_exp.text import mask_credentials
from mnist_exp.tracking.failure import describe_failure
from mnist_exp.tracking.mlflow_upload import Delivery
from mnist_exp.tracking.store import connect

_POLL = 0.2  # seconds between checks of the journals
_LONGEST_PAUSE = 30  # seconds between attempts while the store is unreachable
_LONGEST_ANSWER = 20  # maximum request timeout, in seconds; each failure doubles the timeout
_DEATH = 5  # seconds to wait for the lock of a dead process to become free


def list_journals(root: Path) -> list[Path]:
    """List the directories with a journal: that of a run, or that of a sweep, followed by those of its jobs."""
    return [file.parent for pattern in (journal.FILE, f"*/{journal.FILE}") for file in sorted(root.glob(pattern))]


def deliver_until_closed(roots: Sequence[Path]) -> int:
    """Deliver growing journals until standard input is closed. Returns the exit status."""
    deliveries: dict[Path, Delivery] = {}
    pause = _POLL
    while not select.select([sys.stdin], [], [], pause)[0] or os.read(sys.stdin.fileno(), 1):
        if _deliver(roots, deliveries) is None:
            pause = _POLL
        else:
            pause = min(2 * pause, _LONGEST_PAUSE)
            seconds = int(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", 5))
            os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(max(seconds, min(2 * seconds, _LONGEST_ANSWER)))
    _mark_all_abandoned(roots)
    failure = _deliver(roots, deliveries)
    for delivery in deliveries.values():
        delivery.note_run_id()
    if failure is not None:
        print(mask_credentials(failure).replace("\n", " "), file=sys.stderr)
        return 1
    return 0


def _deliver(roots: Iterable[Path], deliveries: dict[Path, Delivery]) -> str | None:
    """Deliver everything recorded in the journals so far. Returns the reason for the last failure, or None."""
    failure = None
    folders = [folder for root in roots for folder in list_journals(root)]
    for folder in folders:
        # MLflow raises errors of many types. Failures are retried; training is not affected.
        try:
            if folder not in deliveries:
                deliveries[folder] = Delivery(folder)
            deliveries[folder].pending()
        except Exception as error:
            store = deliveries[folder].uri if folder in deliveries else None
            failure = describe_failure(error, store)
            if len(folders) > 1 and store is not None and not is_reachable(store):
                break  # the others would fail after the same wait
    return failure


def is_reachable(uri: str) -> bool:
    """Return whether the store is reachable; if so, a failure concerns one run only."""
    try:
        connect(uri)
    except Exception:
        return False
    return True


def _mark_all_abandoned(roots: Iterable[Path]) -> None:
    """Mark as killed the runs and sweeps that a dead process left open."""
    deadline = time.monotonic() + _DEATH
    for root in roots:
        for folder in list_journals(root):
            try:
                while not (journal.has_ended(folder) or mark_abandoned(folder)) and time.monotonic() < deadline:
                    time.sleep(_POLL)
            except (OSError, ValueError):
                continue


if __name__ == "__main__":
    gc.set_threshold(100_000)  # importing MLflow leaves little garbage: the search for it took a fifth of the time
    os.nice(5)  # low priority: importing MLflow takes a second of CPU time, and training uses all cores
    sys.exit(deliver_until_closed([Path(argument) for argument in sys.argv[1:]]))
