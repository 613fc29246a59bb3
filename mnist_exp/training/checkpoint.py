"""What exact resume needs, on disk: the model's and the optimizer's state, the best so far, the history.

`checkpoint/state.npz` holds the arrays `model/…`, `optimizer/…`, `best/model/…`, `best/optimizer/…`, and
`progress`: JSON with the finished epochs, the history and the best epoch. It is written under another name,
flushed, and renamed: it is whole or absent. The archive's own checksums tell whether it was damaged since.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mnist_exp.runs.files import replace_file
from mnist_exp.training.loop import Arrays, Progress, Snapshot, build_state

FILE = "state.npz"


class DamagedCheckpoint(Exception):
    """A checkpoint that is not whole."""


def save(folder: Path, model: keras.Model, progress: Progress) -> None:
    """Write a checkpoint in place of the one before."""
    document = {"epochs": progress.epochs, "history": progress.history, "best_epoch": progress.best_epoch}
    arrays: dict[str, Any] = {"progress": np.frombuffer(json.dumps(document).encode(), np.uint8)}
    arrays |= _named("", Snapshot.of(model))
    if progress.best is not None:
        arrays |= _named("best/", progress.best)
    folder.mkdir(exist_ok=True)
    with replace_file(folder / FILE) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def restore(folder: Path, model: keras.Model) -> Progress:
    """Give the model the state of a checkpoint, and return how far the training had come.

    Raises `DamagedCheckpoint`.
    """
    try:
        with zipfile.ZipFile(folder / FILE) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"'{damaged}' is damaged")
        with np.load(folder / FILE, allow_pickle=False) as state:
            arrays = dict(state)
        document = json.loads(arrays.pop("progress").tobytes())
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DamagedCheckpoint(f"{folder / FILE}: {error}") from error
    build_state(model)
    _snapshot("", arrays).restore(model)
    best = _snapshot("best/", arrays) if document["best_epoch"] is not None else None
    return Progress(document["epochs"], document["history"], document["best_epoch"], best)


def _named(prefix: str, snapshot: Snapshot) -> dict[str, Any]:
    return {
        f"{prefix}{part}/{index}": array
        for part, arrays in (("model", snapshot.model), ("optimizer", snapshot.optimizer))
        for index, array in enumerate(arrays)
    }


def _snapshot(prefix: str, arrays: dict[str, Any]) -> Snapshot:
    def part(name: str) -> Arrays:
        start = f"{prefix}{name}/"
        keys = [key for key in arrays if key.startswith(start)]
        return [arrays[f"{start}{index}"] for index in range(len(keys))]

    return Snapshot(part("model"), part("optimizer"))
