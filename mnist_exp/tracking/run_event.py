"""The first event of a journal: the run, its source, its user and its store."""

from __future__ import annotations

import getpass
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

from mnist_exp.config.schema import TrackingConfig
from mnist_exp.runs.events import RunEvent
from mnist_exp.text import format_value
from mnist_exp.tracking.store import make_absolute


def new_run_event(
    name: str, tracking: TrackingConfig, tags: Mapping[str, str], parent: Path | None = None
) -> RunEvent:
    """Return the event that a new run's journal begins with.

    Args:
        name: The run's name.
        tracking: The tracker's settings. The URI of the output folder's own store is not recorded, as the folder
            may move.
        tags: Tags in addition to the source, the user and those of `tracking`, which they replace.
        parent: The directory of the run's sweep or search.
    """
    own = {key: format_value(value) for key, value in tracking.tags.items()}
    return RunEvent(
        name=name,
        key=uuid.uuid4().hex,
        experiment=tracking.experiment,
        tags={**own, **_source_tags(), **tags},
        enabled=tracking.enabled,
        uri=None if tracking.uri is None else make_absolute(tracking.uri),
        parent=None if parent is None else str(parent),
    )


def _source_tags() -> dict[str, str]:
    tags = {"mlflow.source.name": "mnist-exp", "mlflow.source.type": "LOCAL", "mlflow.user": _user()}
    if commit := _git("rev-parse", "HEAD"):
        tags["mlflow.source.git.commit"] = commit
        # Only tracked files; `core.fsmonitor` would run a program that the repository names.
        changes = _git("-c", "core.fsmonitor=false", "status", "--porcelain", "--untracked-files=no")
        if changes is not None:
            tags["git_dirty"] = str(bool(changes)).lower()
    return tags


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        return "unknown"


def _git(*arguments: str) -> str | None:
    """Return the output of git in the working directory; None outside of a repository or after a second."""
    try:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=1, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
