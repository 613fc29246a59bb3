"""Names and texts that MLflow accepts."""

from __future__ import annotations

import posixpath
import re
from typing import Any

from mnist_exp.runs.events import ArtifactEvent, Event, ImageEvent, ModelEvent
from mnist_exp.text import escape_controls

_LONGEST_NAME = 250  # maximum length of the name of a parameter, metric or tag, in characters
_LONGEST_KEY = 100  # of a series of images: a file's name contains it


def mlflow_name(name: str) -> str:
    """Return the name of a parameter, metric or tag with `_` in place of all that MLflow would refuse.

    One refused name fails the whole request, and with it the delivery of everything after it.
    """
    cleaned = re.sub(r"[^/\w.\- :]", "_", name)[:_LONGEST_NAME]
    if posixpath.normpath(cleaned) == cleaned and not cleaned.startswith(("/", ".")):
        return cleaned
    return f"_{cleaned.replace('/', '_')}"[:_LONGEST_NAME]


def model_name(run: str) -> str:
    """Return the name of a run's logged model: the run's, with `_` in place of all that MLflow would refuse."""
    return re.sub(r"[/:.%\"'\x00-\x1f]", "_", run)[:_LONGEST_NAME] or "model"


def image_key(name: str) -> str:
    """Return the key of a series of images, with `_` in place of all that MLflow would refuse."""
    return re.sub(r"[^a-zA-Z0-9_\-./ ]", "_", name)[:_LONGEST_KEY]


def without_controls(event: Event) -> Event:
    """Return an event whose texts MLflow can show: with control characters escaped, except in names of files."""
    if isinstance(event, (ArtifactEvent, ImageEvent, ModelEvent)):
        return event
    texts = event.model_dump(include=event.model_fields_set - {"kind", "time"})
    return event.model_copy(update=_escaped(texts))


def _escaped(values: Any) -> Any:
    if isinstance(values, str):
        return escape_controls(values)
    if isinstance(values, dict):
        return {_escaped(key): _escaped(value) for key, value in values.items()}
    return values
