"""Locate a data set's files: in a given folder, the user's cache, Keras' cache, or a mirror."""

from __future__ import annotations

import hashlib
import http.client
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mnist_exp.config.data_schema import DataConfig, FileSpec
from mnist_exp.data.idx import IMAGES, read_content, read_header, unpack
from mnist_exp.data.layout import find_files, find_image_folders, given_by
from mnist_exp.data.memory import refuse_too_large
from mnist_exp.data.user_cache import cache_folder
from mnist_exp.errors import RequestError
from mnist_exp.runs.atomic import replace_file
from mnist_exp.suggest import did_you_mean

PATIENCE = 5.0  # seconds to wait for a mirror's response
SLOWEST = 2**14  # bytes per second that a mirror must send on average, after the first PATIENCE seconds
SCHEMES = ("http", "https", "file")  # of a mirror
MOST = 2**30  # bytes: maximum size of a downloaded file

Show = Callable[[str, int, int | None], None]
"""Shows a download: the file's name, the bytes received, and the file's size, if the mirror reports it."""


def _show_nothing(name: str, done: int, size: int | None) -> None:
    """A `Show` that shows nothing."""


class NotFound(Exception):
    """The data set is in none of the places searched; the message lists them."""

    def __init__(self, name: str, asked: list[str]) -> None:
        self.advice = "Give its folder with data.dir=…" + (" or MNIST_EXP_DATA=…" if name == "mnist" else "")
        super().__init__(f"{name} was not found in any of these places:\n  " + "\n  ".join(asked))


@dataclass(frozen=True)
class Located:
    """The content of a data set's IDX files, or the path of Keras' archive, with its origin."""

    origin: str
    idx: dict[str, bytes] | None = None
    npz: Path | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    """The names of the IDX files, for messages."""


def given_paths(data: DataConfig, tell: Callable[[str], None], *, needs_train: bool = True) -> dict[str, Path]:
    """Return the paths of a data set's parts in `data.dir`; a test set that does not exist is left out.

    Without `needs_train`, the training set may be missing instead.

    Raises `RequestError` if another part is missing or a file's digest is not the declared one.
    """
    assert data.dir is not None
    folder = given_folder(data.dir)
    find = find_image_folders if data.source == "folder" else find_files
    try:
        paths = find(data, folder, tell, needs_train)
    except OSError as error:
        raise RequestError(f"{error.filename}: cannot be read: {error.strerror}") from error
    for part, path in paths.items():
        spec = data.parts[part]
        if data.source != "idx" and spec.sha256 is not None and (found := _sha256(path)) != spec.sha256:
            raise RequestError(f"{path}: not the expected file: SHA-256 {spec.sha256} expected, {found} found")
    return paths


def locate(data: DataConfig, tell: Callable[[str], None], *, needs_train: bool = True) -> Located:
    """Find a data set's IDX files, downloading them if necessary, and verify them.

    If `data.dir` is set, only that folder is searched. Without `needs_train`, it may lack the training set.

    Raises:
        RequestError: The given folder lacks a file, or a file is not the expected one.
        NotFound: The files are in none of the places searched.
    """
    files = data.parts
    if data.dir is not None:
        paths = given_paths(data, tell, needs_train=needs_train)
        for part, path in paths.items():
            if part.endswith("images") and not files[part].sha256 and not files[part].gz_sha256:
                sizes, kind = read_header(path, IMAGES)
                refuse_too_large(sizes[0], math.prod(sizes[1:]), data, kind.itemsize)
        contents = {part: read_content(path, files[part]) for part, path in paths.items()}
        return Located(data.dir, contents, names={part: str(path) for part, path in paths.items()})
    if is_cached(data):
        cache = cache_folder(data.name)
        return Located(str(cache), _read(cache, files), names=_names(cache, files))
    asked = [str(cache_folder(data.name))]
    if data.keras_cache is not None and (located := _in_keras_cache(data.keras_cache, files, asked)):
        return located
    mirror, archives, contents = _download_from_any(data, asked, tell)
    try:
        _keep(data, archives, contents)
    except OSError as error:
        tell(f"the data set was not cached: {cache_folder(data.name)}: {error.strerror}")
    return Located(mirror, contents, names=_names(mirror, files))


def _in_keras_cache(archive: FileSpec, files: dict[str, FileSpec], asked: list[str]) -> Located | None:
    """Return the data set in Keras' cache; if there is none, add the path to `asked` and return None."""
    kept = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "datasets" / archive.name
    if kept.is_file() and _sha256(kept) == archive.sha256:
        return Located(str(kept), npz=kept)
    if not all(_file(kept, spec.name) for spec in files.values()):
        asked.append(str(kept))
        return None
    try:
        return Located(str(kept), _read(kept, files), names=_names(kept, files))
    except RequestError as error:
        asked.append(str(error))
        return None


def is_cached(data: DataConfig) -> bool:
    """Return whether the user's cache has all files of a data set."""
    return all(_file(cache_folder(data.name), spec.name) for spec in data.parts.values())


def verify_cache(data: DataConfig) -> None:
    """Raise `RequestError` if a cached file is not the expected one."""
    _read(cache_folder(data.name), data.parts)


def fetch(data: DataConfig, tell: Callable[[str], None], show: Show) -> str:
    """Download a data set into the user's cache and return the mirror it came from.

    Raises:
        NotFound: No mirror has the data set.
        OSError: The cache cannot be written.
    """
    mirror, archives, contents = _download_from_any(data, [], tell, show)
    _keep(data, archives, contents)
    return mirror


def given_folder(directory: str) -> Path:
    """Return the folder that the user gave. Raises `RequestError` if it is not a folder."""
    folder = Path(directory)
    if os.path.isfile(folder):
        raise RequestError(f"{given_by(folder)}={folder}: is a file; give its folder: data.dir={folder.parent}")
    if not os.path.isdir(folder):
        siblings = [path.name for path in folder.absolute().parent.glob("*/")]
        nearest = did_you_mean(folder.name, siblings)
        raise RequestError(f"{given_by(folder)}={folder}: there is no such folder{nearest}")
    return folder


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if os.path.isfile(path)), None)


def _read(folder: Path, files: dict[str, FileSpec]) -> dict[str, bytes]:
    contents = {}
    for part, spec in files.items():
        path = _file(folder, spec.name)
        assert path is not None
        contents[part] = read_content(path, spec)
    return contents


def _names(place: str | Path, files: Mapping[str, FileSpec]) -> dict[str, str]:
    return {part: f"{place}/{spec.name}" for part, spec in files.items()}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from error


def _download_from_any(
    data: DataConfig, asked: list[str], tell: Callable[[str], None], show: Show = _show_nothing
) -> tuple[str, dict[str, bytes], dict[str, bytes]]:
    """Download a data set from the first mirror that has all files intact.

    Returns:
        The mirror, the archives and their contents.

    Raises:
        NotFound: No mirror has the data set; the message lists the places in `asked`, then the mirrors.
    """
    for mirror in data.mirrors:
        try:
            return mirror, *_download(mirror, data.parts, tell, show)
        except (OSError, http.client.HTTPException, ValueError, RequestError) as error:
            asked.append(f"{mirror}  ({_reason(error)})")
    raise NotFound(data.name, asked)


def _reason(error: Exception) -> str:
    """Return why a mirror could not be used: its response, or the reason why there was none."""
    if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError):
        cause = error.reason
        return f"no response: {getattr(cause, 'strerror', None) or cause}"
    return str(error)


class _SameScheme(urllib.request.HTTPRedirectHandler):
    """Follows redirects within a scheme, or to HTTPS."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        scheme = urlsplit(newurl).scheme
        if scheme not in (req.type, "https"):
            raise ValueError(f"redirects from {req.type} to {scheme}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(address: str) -> Any:
    """Open an address of a mirror."""
    if urlsplit(address).scheme not in SCHEMES:
        raise ValueError(f"unknown URL scheme: must be {', '.join(SCHEMES[:-1])} or {SCHEMES[-1]}")
    return urllib.request.build_opener(_SameScheme).open(address, timeout=PATIENCE)


def _read_answer(answer: Any, name: str, show: Show) -> bytes:
    """Read a file from a mirror. Raises `ValueError` if it is too large or arrives too slowly."""
    content, start = bytearray(), time.monotonic()
    size = getattr(answer, "length", None)
    while piece := answer.read1(2**20):
        content += piece
        show(name, len(content), size)
        seconds = time.monotonic() - start
        if len(content) > MOST:
            raise ValueError(f"{name}: more than {MOST:,} bytes")
        if seconds > PATIENCE and len(content) < SLOWEST * seconds:
            raise ValueError(f"{name}: {len(content):,} bytes in {seconds:.0f} s, which is too slow")
    return bytes(content)


def _download(
    mirror: str, files: dict[str, FileSpec], tell: Callable[[str], None], show: Show
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Download and verify a data set's archives; return them and their contents.

    Raises `OSError`, `HTTPException`, `ValueError` or `RequestError` if the mirror lacks an intact file.
    """
    archives, contents = {}, {}
    for part, spec in files.items():
        if spec.sha256 is None and spec.gz_sha256 is None:
            raise ValueError(f"{spec.name}: set its sha256 or gz_sha256; files without one are not downloaded")
        with _open(f"{mirror.rstrip('/')}/{spec.name}.gz") as answer:
            tell(f"fetching {answer.url}")
            archives[part] = _read_answer(answer, f"{spec.name}.gz", show)
            if missing := getattr(answer, "length", None):
                raise http.client.IncompleteRead(archives[part], missing)
        contents[part] = unpack(archives[part], spec, f"{spec.name}.gz")
    return archives, contents


def _keep(data: DataConfig, archives: dict[str, bytes], contents: dict[str, bytes]) -> None:
    """Write downloaded files to the cache. Raises `OSError`.

    A file is kept as an archive if only the archive's digest is known, otherwise uncompressed.
    """
    cache = cache_folder(data.name)
    cache.mkdir(parents=True, exist_ok=True)
    for part, spec in data.parts.items():
        packed = spec.sha256 is None and spec.gz_sha256 is not None
        with replace_file(cache / (f"{spec.name}.gz" if packed else spec.name)) as temporary:
            temporary.write_bytes(archives[part] if packed else contents[part])
