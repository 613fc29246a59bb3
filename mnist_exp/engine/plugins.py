"""The plug-ins of this process: those that the user named, and those that a run needs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_exp import registrations
from mnist_exp.errors import Problem, RequestError
from mnist_exp.model import backend
from mnist_exp.registrations import Plugin
from mnist_exp.runs.atomic import replace_file
from mnist_exp.runs.log import warn

if TYPE_CHECKING:
    from mnist_exp.runs.result import RunResult

VARIABLE = "MNIST_EXP_PLUGINS"
FOLDER = "plugins"
"""The folder of a run's copies, which are never imported."""


def named_in_environment() -> list[str]:
    """Return the plug-ins that the environment names."""
    return list(filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)))


def load(references: Sequence[str]) -> None:
    """Load plug-ins in place of any that were loaded before. Raises `RequestError` with all problems."""
    registrations.clear()
    if references:
        backend.load()
        from mnist_exp.engine.plugin_loading import load_all  # Keras

        load_all(references)


def load_same(plugins: Sequence[Plugin]) -> None:
    """Load the plug-ins of the process that planned a job. Raises `RequestError` if one has changed since."""
    if registrations.loaded() != tuple(plugins):
        load([plugin.reference for plugin in plugins])
    now = {plugin.name: plugin.sha256 for plugin in registrations.loaded()}
    if changed := [plugin.shown for plugin in plugins if now[plugin.name] != plugin.sha256]:
        raise RequestError(f"the plug-in {', '.join(changed)} has changed since the jobs were planned")


def require(result: RunResult, what: str) -> None:
    """Raise `RequestError` if a run's plug-ins are not loaded. Nothing that a run names is ever loaded by itself.

    Args:
        result: The run's result.
        what: The place of the run, for the message.
    """
    there = {plugin.name for plugin in registrations.loaded()}
    if missing := [record for record in result.plugins if record.name not in there]:
        flags = " ".join(f"--plugin {record.source}" for record in missing)
        message = f"{what}: uses your own code, which is loaded only if you name it: add {flags}, with its path"
        raise RequestError([Problem("missing-value", "command line", message)], "the plug-ins")


def changed_since(result: RunResult) -> list[str]:
    """Return a sentence for each of a run's plug-ins whose source is not the one that the run used."""
    now = {plugin.name: plugin.sha256 for plugin in registrations.loaded()}
    return [
        f"the plug-in {record.source} has changed"
        for record in result.plugins
        if now.get(record.name, record.sha256) != record.sha256
    ]


def warn_of_changes(result: RunResult) -> None:
    """Warn if a saved model is used with another version of its plug-ins."""
    for change in changed_since(result):
        warn(f"{change} since the model was saved")


def keep_copies(plugins: Iterable[Plugin], run: Path) -> list[str]:
    """Write the sources of plug-ins into a run's directory. Returns the paths of the files in it."""
    written = []
    for plugin in plugins:
        for name, content in plugin.sources.items():
            file = run / FOLDER / plugin.name / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(file) as temporary:
                temporary.write_bytes(content)
            written.append(str(file.relative_to(run)))
    return written
