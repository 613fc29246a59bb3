"""The first event of a journal: the run, its source, its user and its store."""

from __future__ import annotations

import getpass
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

from mnist_exp.config.schema import TrackingConfig
from mnist_exp.runs.events import RunEvent
from mnist_exp.tracking.store import make_absolute


def new_run_event(
    name: str, tracking: TrackingConfig, tags: Mapping[str, str], parent: Path | None = None
) -> RunEvent:
    """Return the event that a new run's journal begins with.

    Args:
        name: The run's name.
        tracking: The tracker's settings. The URI of the output folder's own store is not recorded, as the folder
            may move.
        tags: Tags in addition to the source and the user.
        parent: The directory of the run's sweep or search.
    """
    return RunEvent(
        name=name,
        key=uuid.uuid4().hex,
        experiment=tracking.experiment,
        tags={**_source_tags(), **tags},
        enabled=tracking.enabled,
        uri=None if tracking.uri is None else make_absolute(tracking.uri),
        parent=None if parent is None else str(parent),
    )


def _source_tags() -> dict[str, str]:
    tags = {"mlflow.source.name": "mnist-exp", "mlflow.source.type": "LOCAL", "mlflow.user": _user()}
    if commit := _git_commit():
        tags["mlflow.source.git.commit"] = commit
    return tags


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        return "unknown"


def _git_commit() -> str | None:
    """Return the commit of the working directory's repository; None outside of one."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
