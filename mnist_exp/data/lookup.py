"""Where a data set's files are: a given folder, this user's cache, Keras' cache, or a download."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mnist_exp.config.schema import DataConfig, FileSpec, FourFiles
from mnist_exp.data.idx import read_content
from mnist_exp.errors import RequestError

PATIENCE = 5.0  # seconds that a mirror may take to answer


class NotFound(Exception):
    """Nobody has the data set; the message says who was asked."""


@dataclass(frozen=True)
class Located:
    """The content of the four IDX files, or Keras' archive, and where it came from."""

    origin: str
    idx: dict[str, bytes] | None = None
    npz: Path | None = None


def cache_folder(name: str) -> Path:
    """The folder in this user's cache that keeps a data set's files, uncompressed."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "mnist-exp" / name


def locate(data: DataConfig, tell: Callable[[str], None]) -> Located:
    """Find a data set's files and verify them.

    Raises `RequestError` for a given folder without them and for files that are not what they should be,
    `NotFound` where nobody has them.
    """
    assert data.files is not None
    files = _specs(data.files)
    if data.dir is not None:
        folder = Path(data.dir)
        variable = os.environ.get("MNIST_EXP_DATA")
        key = "MNIST_EXP_DATA" if variable and os.path.abspath(variable) == data.dir else "data.dir"
        if not folder.is_dir():
            raise RequestError(f"{key}={folder}: there is no such folder")
        missing = [spec.name for spec in files.values() if _file(folder, spec.name) is None]
        if missing:
            raise RequestError(f"{key}={folder}: not there, with or without .gz: {', '.join(missing)}")
        return Located(str(folder), idx=_read(folder, files))
    asked = []
    cache = cache_folder(data.name)
    if all(_file(cache, spec.name) for spec in files.values()):
        return Located(str(cache), idx=_read(cache, files))
    asked.append(str(cache))
    if data.keras_cache is not None:
        home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
        archive = home / "datasets" / data.keras_cache.name
        if archive.is_file() and _sha256(archive) == data.keras_cache.sha256:
            return Located(str(archive), npz=archive)
        asked.append(str(archive))
    for mirror in data.mirrors:
        try:
            return Located(mirror, idx=_download(mirror, files, cache, tell))
        except (OSError, http.client.HTTPException, ValueError) as error:
            refused = isinstance(error, urllib.error.HTTPError)
            reason = error if refused else getattr(error, "reason", None) or error
            asked.append(f"{mirror}  ({reason})")
    raise NotFound(f"{data.name} was not found in any of these places:\n  " + "\n  ".join(asked))


def _specs(files: FourFiles) -> dict[str, FileSpec]:
    return {part: getattr(files, part) for part in type(files).model_fields}


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read(folder: Path, files: dict[str, FileSpec]) -> dict[str, bytes]:
    contents = {}
    for part, spec in files.items():
        path = _file(folder, spec.name)
        assert path is not None
        contents[part] = read_content(path, spec.sha256)
    return contents


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(
    mirror: str, files: dict[str, FileSpec], cache: Path, tell: Callable[[str], None]
) -> dict[str, bytes]:
    """Fetch the four files into the cache.

    Raises `OSError`, `HTTPException` or `ValueError` where the mirror does not have them whole.
    """
    contents = {}
    for part, spec in files.items():
        with urllib.request.urlopen(f"{mirror.rstrip('/')}/{spec.name}.gz", timeout=PATIENCE) as answer:
            tell(f"fetching {answer.url}")
            try:
                contents[part] = gzip.decompress(answer.read())
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise OSError(f"{spec.name}.gz is damaged: {error}") from error
        if spec.sha256 is not None and hashlib.sha256(contents[part]).hexdigest() != spec.sha256:
            raise OSError(f"{spec.name}.gz is not the expected file")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for part, spec in files.items():
            temporary = cache / f".{spec.name}.{os.getpid()}"
            temporary.write_bytes(contents[part])
            temporary.replace(cache / spec.name)
    except OSError as error:
        tell(f"not kept for the next time: {cache}: {error.strerror}")
    return contents


def read_npz(path: Path) -> dict[str, npt.NDArray[np.uint8]]:
    """Keras' archive of MNIST: x_train, y_train, x_test, y_test."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in ("x_train", "y_train", "x_test", "y_test")}
