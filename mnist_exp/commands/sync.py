"""`mnist-exp sync`: deliver pending events to MLflow."""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path

from mnist_exp.config.command_schemas import SyncConfig
from mnist_exp.config.overrides import Request
from mnist_exp.config.validation import compose_checked
from mnist_exp.errors import RequestError, WorkError
from mnist_exp.runs import journal
from mnist_exp.runs.abandoned import mark_abandoned
from mnist_exp.runs.directory import RUNS, SWEEPS
from mnist_exp.runs.lookup import find_run
from mnist_exp.text import display_path, printable
from mnist_exp.tracking.failure import describe_failure
from mnist_exp.tracking.known_stores import remember
from mnist_exp.tracking.locations import repair_locations
from mnist_exp.tracking.mlflow_upload import Delivery
from mnist_exp.tracking.store import DATABASE
from mnist_exp.tracking.upload_loop import is_reachable, list_journals


def sync(request: Request, started: float) -> None:
    """Deliver all pending journal lines to MLflow. Raises `WorkError` if some could not be delivered."""
    config, _ = compose_checked(request, SyncConfig)
    # No training waits for this: allow a slow server more time.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    if config.repair:
        repair(Path(config.outputs))
    folders = find_journals(config)
    if config.tracking.uri is not None and folders:
        remember(config.tracking.uri)
    if not folders:
        print(f"There are no runs in {config.outputs}. 'mnist-exp' trains one.")
        return
    for folder in folders:
        mark_abandoned(folder)
    done = failed = 0
    unreachable: dict[str, str] = {}  # unreachable stores, and the reason
    announced: set[str] = set()  # stores already shown; each is shown before it is contacted, which may take long
    for folder in folders:
        entries, failure = deliver_missing(folder, config, unreachable, announced)
        if failure:
            failed += 1
            print(printable(f"{display_path(folder)}: not delivered: {failure}"), flush=True)
        elif entries:
            done += 1
            text = f"{display_path(folder)}: delivered {entries} entr{'ies' if entries > 1 else 'y'}"
            print(printable(text), flush=True)
    if failed:
        raise WorkError(
            f"{failed} journal{'s' * (failed > 1)} not delivered, {done} delivered; pending events are kept"
        )
    print(f"{done} journal{'s' * (done > 1)} brought up to date." if done else "MLflow has everything.")


def repair(outputs: Path) -> None:
    """In the output folder's own store, replace locations that lie outside the folder. Raises `RequestError`."""
    database = outputs / DATABASE
    if not database.is_file():
        raise RequestError(f"{database}: there is no MLflow store here")
    try:
        replaced = repair_locations(database)
    except sqlite3.Error as error:
        raise RequestError(f"{database}: cannot be repaired: {error}") from error
    print(f"{display_path(database)}: {replaced} location{'s' * (replaced != 1)} replaced")


def find_journals(config: SyncConfig) -> list[Path]:
    """Return the directories to deliver: a run's, those of a sweep and its jobs, or all. Raises `RequestError`."""
    outputs = Path(config.outputs)
    if config.run is None:
        roots = [*sorted((outputs / RUNS).glob("*")), *sorted((outputs / SWEEPS).glob("*"))]
        return [folder for root in roots for folder in list_journals(root)]
    for root in (Path(config.run).expanduser(), outputs / SWEEPS / config.run):
        if (root / journal.FILE).is_file():
            break
    else:
        root = find_run(config.run, outputs).path
    folders = list_journals(root)
    if config.tracking.uri is None and not any(map(_may_be_tracked, folders)):
        raise RequestError(f"run={config.run}: was run without a tracker; give a store with tracking.uri=…")
    return folders


def _may_be_tracked(folder: Path) -> bool:
    """Return whether the run is tracked, or its journal cannot be read, which `deliver_missing` reports."""
    try:
        run = journal.first_run(journal.read(folder))
    except (OSError, ValueError):
        return True
    return run is not None and run.enabled


def deliver_missing(
    folder: Path, config: SyncConfig, unreachable: dict[str, str], announced: set[str]
) -> tuple[int, str]:
    """Deliver a journal's pending lines. Returns their number, and the reason for a failure or an empty string."""
    delivery: Delivery | None = None
    try:
        delivery = Delivery(folder, config.tracking.uri)
        wanted = delivery.tracked or (config.run and config.tracking.uri)
        missing = len(delivery.missing()) if wanted else 0
        if not missing:
            return 0, ""
        if delivery.uri in unreachable:
            return 0, unreachable[delivery.uri]
        if delivery.uri is not None and delivery.uri not in announced:
            announced.add(delivery.uri)
            print(printable(f"delivering to {delivery.uri}"), file=sys.stderr, flush=True)
        delivery.pending()
        delivery.note_run_id()
        return missing, ", ".join(delivery.gone)
    except Exception as error:  # MLflow raises errors of many types
        failure = describe_failure(error, delivery.uri if delivery is not None else None)
        if delivery is not None and delivery.uri is not None and not is_reachable(delivery.uri):
            unreachable[delivery.uri] = failure
        return 0, failure
