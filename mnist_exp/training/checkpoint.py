"""What exact resume needs, on disk: the model's and the optimizer's state, the best so far, the history.

    checkpoint/
      state.npz       arrays: model/…, optimizer/…, best/model/…, best/optimizer/…
      progress.json   finished epochs, history, best epoch, SHA-256 of state.npz

A checkpoint is written under another name, flushed, and renamed: it is whole or absent.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mnist_exp.runs.files import replace_folder
from mnist_exp.training.loop import Arrays, Progress, Snapshot, build_state

_STATE, _PROGRESS = "state.npz", "progress.json"


class DamagedCheckpoint(Exception):
    """A checkpoint that is not whole."""


def save(folder: Path, model: keras.Model, progress: Progress) -> None:
    """Write a checkpoint in place of the one before."""
    arrays = _named("", Snapshot.of(model))
    if progress.best is not None:
        arrays |= _named("best/", progress.best)
    with replace_folder(folder) as temporary:
        with (temporary / _STATE).open("wb") as file:
            np.savez(file, **arrays)
        document = {
            "epochs": progress.epochs,
            "history": progress.history,
            "best_epoch": progress.best_epoch,
            "sha256": _sha256(temporary / _STATE),
        }
        (temporary / _PROGRESS).write_text(json.dumps(document), encoding="utf-8")


def restore(folder: Path, model: keras.Model) -> Progress:
    """Give the model the state of a checkpoint, and return how far the training had come.

    Raises `DamagedCheckpoint`.
    """
    try:
        document = json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))
        if _sha256(folder / _STATE) != document["sha256"]:
            raise DamagedCheckpoint(f"{folder}: the digest of {_STATE} does not match")
        with np.load(folder / _STATE, allow_pickle=False) as state:
            arrays = dict(state)
    except (OSError, ValueError, KeyError) as error:
        raise DamagedCheckpoint(f"{folder}: {error}") from error
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
