"""Write the training state after a step to a checkpoint, atomically, and read it to resume training exactly.

`checkpoint/<finished epochs>-<steps>.state` is an NPZ archive with the arrays `model/…`, `optimizer/…`,
`metrics/…` (of the current epoch), `best/model/…`, `best/optimizer/…`, `recent/<number>/…` (weights to average)
and `progress` (JSON), followed by the 32 bytes of its SHA-256. The newest two are kept: if the newer one is
damaged, the other is used.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from mnist_exp.data.npz import read_array
from mnist_exp.errors import RequestError
from mnist_exp.runs.atomic import replace_file
from mnist_exp.training.loop import Arrays, Progress, Snapshot, as_arrays
from mnist_exp.training.step import build_state

FOLDER, ENDING = "checkpoint", ".state"
_DIGEST = hashlib.sha256().digest_size


class DamagedCheckpoint(Exception):
    """The file is not an intact checkpoint of this run."""


@dataclass(frozen=True)
class State:
    """The content of a checkpoint."""

    path: Path
    progress: Mapping[str, Any]
    """The fields `epochs`, `history`, `best_epoch`, `steps` and `seconds` of a `Progress`."""
    arrays: Mapping[str, npt.NDArray[Any]]

    def restore(self, model: keras.Model) -> Progress:
        """Restore the state into a model built from the same config, and return the progress."""
        build_state(model)
        Snapshot(self._all("model/"), self._all("optimizer/")).restore(model)
        best = None
        if self.progress["best_epoch"] is not None:
            best = Snapshot(self._all("best/model/"), self._all("best/optimizer/"))
        sets = len({name.split("/")[1] for name in self.arrays if name.startswith("recent/")})
        recent = [self._all(f"recent/{number}/") for number in range(sets)]
        return Progress(**self.progress, best=best, metrics=self._all("metrics/"), recent=recent)

    def _all(self, prefix: str) -> Arrays:
        count = sum(name.startswith(prefix) for name in self.arrays)
        return [self.arrays[f"{prefix}{index}"] for index in range(count)]


class Checkpoints:
    """Writes the checkpoints of a run."""

    def __init__(self, folder: Path, run: str, last: State | None) -> None:
        """`run` is the key that identifies the run; `last` is the checkpoint that this process resumed from."""
        self.folder, self._run, self._last = folder, run, last and last.path

    def save(self, model: keras.Model, progress: Progress) -> None:
        """Write a checkpoint and remove all others except the previous one. Raises `OSError`."""
        path = self.folder / f"{progress.epochs:06d}-{progress.steps:08d}{ENDING}"
        if path == self._last:
            return
        content = _pack(model, progress, self._run)
        self.folder.mkdir(exist_ok=True)
        with replace_file(path) as temporary:
            temporary.write_bytes(content)
        for file in self.folder.glob(f"*{ENDING}"):  # includes temporary files left behind
            if file not in (path, self._last):
                file.unlink()
        self._last = path


def read_newest(folder: Path, run: str) -> tuple[State | None, list[str]]:
    """Read the newest intact checkpoint of a run.

    Returns:
        The checkpoint, or None if there is no intact one, and a message for each newer checkpoint that is damaged.
        None without messages means that there is no checkpoint at all.
    """
    damaged: list[str] = []
    for path in sorted(folder.glob(f"[0-9]*{ENDING}"), reverse=True):
        try:
            return read(path, run), damaged
        except DamagedCheckpoint as error:
            damaged.append(str(error))
    return None, damaged


def read(path: Path, run: str) -> State:
    """Read a checkpoint of a run. Raises `DamagedCheckpoint`."""
    try:
        content = path.read_bytes()
        packed, digest = content[:-_DIGEST], content[-_DIGEST:]
        if hashlib.sha256(packed).digest() != digest:
            raise DamagedCheckpoint(f"{path}: damaged: its content does not match its SHA-256")
        arrays = _unpack(packed, path)
        progress = json.loads(arrays.pop("progress").tobytes())
        found = progress.pop("run")
    except RequestError as error:  # names the path
        raise DamagedCheckpoint(str(error)) from error
    except (OSError, ValueError, KeyError, MemoryError, zipfile.BadZipFile) as error:
        raise DamagedCheckpoint(f"{path}: {str(error) or 'does not fit into memory'}") from error
    if found != run:
        raise DamagedCheckpoint(f"{path}: belongs to another run, {found}")
    return State(path, progress, arrays)


def _unpack(packed: bytes, path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays. Their declared sizes are checked first: the digest shows only that the file is complete."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if unpacked > len(packed):  # `_pack` does not compress
            raise ValueError(f"would unpack from {len(packed):,} to {unpacked:,} bytes")
        return {member.filename.removesuffix(".npy"): read_array(archive, member, path) for member in members}


def _pack(model: keras.Model, progress: Progress, run: str) -> bytes:
    document = {
        "run": run, "epochs": progress.epochs, "history": progress.history, "best_epoch": progress.best_epoch,
        "steps": progress.steps, "seconds": progress.seconds,
    }  # fmt: skip
    now = Snapshot.of(model)
    groups = {"model": now.model, "optimizer": now.optimizer}
    if progress.steps:
        groups["metrics"] = as_arrays(model.metrics_variables)
    if progress.best is not None:
        groups |= {"best/model": progress.best.model, "best/optimizer": progress.best.optimizer}
    groups |= {f"recent/{number}": weights for number, weights in enumerate(progress.recent)}
    arrays: dict[str, Any] = {
        f"{group}/{index}": array for group, arrays in groups.items() for index, array in enumerate(arrays)
    }
    buffer = io.BytesIO()
    np.savez(buffer, progress=np.frombuffer(json.dumps(document).encode(), np.uint8), **arrays)
    packed = buffer.getvalue()
    return packed + hashlib.sha256(packed).digest()
