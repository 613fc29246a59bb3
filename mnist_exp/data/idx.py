"""Read and write IDX, the format of MNIST's files.

The format is big-endian: two zero bytes, a byte for the type (8: unsigned byte), a byte for the number of
dimensions, four bytes for the size of each, then the values in C order. It is described at the end of
http://yann.lecun.com/exdb/mnist/. Single-channel images have three dimensions, three-channel images four.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnist_exp.config.data_schema import FileSpec
from mnist_exp.data.dataset import CHUNK, Advance, Part
from mnist_exp.errors import RequestError
from mnist_exp.runs.archives import is_bomb

IMAGES, LABELS = (2, 3, 4), (1, 2)
"""The permitted numbers of dimensions in image files and in label files."""
_UNSIGNED_BYTE = 8
_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_GZIP = b"\x1f\x8b"
_MOST_UNPACKED = 1032  # bytes per byte of an archive: the maximum compression ratio of gzip
_LONGEST_HEADER = 4 + 4 * 255
_START = bytes([0, 0, _UNSIGNED_BYTE])
_NAMES = {"train": "train", "test": "t10k"}


def read_content(path: Path, spec: FileSpec) -> bytes:
    """Read a file, decompress it if it is a gzip archive, and verify its digests. Raises `RequestError`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from error
    return unpack(content, spec, str(path))


def unpack(content: bytes, spec: FileSpec, name: str) -> bytes:
    """Decompress content if it is a gzip archive, and verify its digests.

    If `name` ends in `.gz`, the content must be an archive. Raises `RequestError`, with `name` in its message.
    """
    if name.endswith(".gz") and not content.startswith(_GZIP):
        raise RequestError(f"{name}: not a gzip archive: begins with {content[:4].hex(' ') or 'nothing'}")
    if content.startswith(_GZIP):
        _verify(content, spec.gz_sha256, f"{name}: not the expected archive")
        try:
            content = _decompressed(content)
        except ValueError as error:
            raise RequestError(f"{name}: {error}") from error
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise RequestError(f"{name}: a damaged gzip archive ({error}); fetch it again") from error
    _verify(content, spec.sha256, f"{name}: not the expected file")
    return content


def _decompressed(archive: bytes) -> bytes:
    """Decompress an archive up to one byte more than its IDX header declares or, if it is not IDX, only its start.

    The limit guards against small archives that expand to huge files.
    """
    with gzip.GzipFile(fileobj=io.BytesIO(archive)) as file:
        start = file.read(4)
        if start[:2] != _START[:2] or len(start) < 4 or start[2] not in _TYPES:
            return start
        sizes = file.read(4 * start[3])
        if len(sizes) < 4 * start[3]:
            return start + sizes
        promised = math.prod(struct.unpack(f">{start[3]}I", sizes)) * np.dtype(_TYPES[start[2]]).itemsize
        if is_bomb(len(archive), promised):
            raise ValueError(f"would unpack from {len(archive):,} to {promised:,} bytes, which is implausible")
        file.seek(0)
        return file.read(min(4 + len(sizes) + promised + 1, _MOST_UNPACKED * len(archive)))


def _verify(content: bytes, sha256: str | None, message: str) -> None:
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise RequestError(f"{message}: SHA-256 {sha256} expected, {found} found")


def parse(content: bytes, name: str, dimensions: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return the array in IDX content, in its own type. Raises `RequestError`, with `name` in its message.

    `dimensions` lists the permitted numbers of dimensions.
    """
    shape, kind, header = parse_header(content, name, dimensions)
    promised, follow = math.prod(shape) * kind.itemsize, len(content) - header
    if follow != promised:
        values = f"{math.prod(shape)} values" + (f" of {kind.itemsize} bytes" if kind.itemsize > 1 else "")
        raise RequestError(
            f"{name}: the header declares {'×'.join(map(str, shape))} = {values}, "
            f"but {follow if follow < promised else 'more'} follow"
        )
    return np.frombuffer(content, kind, offset=header).reshape(shape)


def read_header(path: Path, dimensions: tuple[int, ...]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and type of the array in a file, which may be a gzip archive. Raises `RequestError`."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP
        with gzip.open(path) if packed else path.open("rb") as file:
            shape, kind, header = parse_header(file.read(_LONGEST_HEADER), str(path), dimensions)
        promised, size = header + math.prod(shape) * kind.itemsize, path.stat().st_size
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RequestError(f"{path}: a damaged gzip archive ({error}); fetch it again") from error
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from error
    if packed and is_bomb(size, promised):
        raise RequestError(f"{path}: would unpack from {size:,} to {promised:,} bytes, which is implausible")
    if not packed and size != promised:
        raise RequestError(
            f"{path}: the header declares {'×'.join(map(str, shape))} = {math.prod(shape)} values, "
            f"but {size - header if size < promised else 'more'} follow"
        )
    return shape, kind


def parse_header(
    start: bytes, name: str, dimensions: tuple[int, ...]
) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Return the shape and type that an IDX header declares, and the header's size in bytes.

    `dimensions` lists the permitted numbers of dimensions. Raises `RequestError`, with `name` in its message.
    """
    if start[:2] != _START[:2] or len(start) < 4 or start[2] not in _TYPES or start[3] not in dimensions:
        types, numbers = (" or ".join(f"{byte:02x}" for byte in bytes_) for bytes_ in (_TYPES, dimensions))
        raise RequestError(
            f"{name}: not an IDX file with {' or '.join(map(str, dimensions))} dimensions: "
            f"begins with {start[:4].hex(' ') or 'nothing'}, expected 00 00, a type ({types}), "
            f"and the number of dimensions ({numbers})"
        )
    header = 4 + 4 * start[3]
    if len(start) < header:
        raise RequestError(f"{name}: ends inside its header, after {len(start)} of {header} bytes")
    return struct.unpack_from(f">{start[3]}I", start, 4), np.dtype(_TYPES[start[2]]), header


def write(folder: Path, parts: dict[str, Part], advance: Advance) -> None:
    """Write an image file and a label file for each part, named as in MNIST."""
    for name, part in parts.items():
        # By convention, single-channel images have no channel dimension in IDX.
        images = part.images[..., 0] if part.images.shape[3] == 1 else part.images
        with (folder / f"{_NAMES[name]}-images-idx3-ubyte").open("wb") as file:
            file.write(_header(images.shape))
            for start in range(0, len(images), CHUNK):
                file.write(np.ascontiguousarray(images[start : start + CHUNK]).data)
                advance(len(images[start : start + CHUNK]))
        labels = part.labels.astype(np.uint8)
        (folder / f"{_NAMES[name]}-labels-idx1-ubyte").write_bytes(_header(labels.shape) + labels.tobytes())


def _header(shape: tuple[int, ...]) -> bytes:
    return struct.pack(f">4B{len(shape)}I", 0, 0, _UNSIGNED_BYTE, len(shape), *shape)
