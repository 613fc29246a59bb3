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

import numpy as np
import numpy.typing as npt

from mnist_exp.config.schema import FileSpec
from mnist_exp.data.dataset import CHUNK, Advance, Part
from mnist_exp.errors import RequestError
from mnist_exp.runs.archives import is_bomb

IMAGES, LABELS = (3, 4), (1,)
"""The permitted numbers of dimensions in image files and in label files."""
_UNSIGNED_BYTE = 8
_GZIP = b"\x1f\x8b"
_MOST_UNPACKED = 1032  # bytes per byte of an archive: the maximum compression ratio of gzip
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

    The limit protects memory from small archives of huge files.
    """
    with gzip.GzipFile(fileobj=io.BytesIO(archive)) as file:
        start = file.read(4)
        if start[:3] != _START or len(start) < 4:
            return start
        sizes = file.read(4 * start[3])
        if len(sizes) < 4 * start[3]:
            return start + sizes
        promised = math.prod(struct.unpack(f">{start[3]}I", sizes))
        if is_bomb(len(archive), promised):
            raise ValueError(f"it promises {promised:,} bytes in {len(archive):,}, which is not unpacked")
        file.seek(0)
        return file.read(min(4 + len(sizes) + promised + 1, _MOST_UNPACKED * len(archive)))


def _verify(content: bytes, sha256: str | None, message: str) -> None:
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise RequestError(f"{message}: SHA-256 {sha256} expected, {found} found")


def parse(content: bytes, name: str, dimensions: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Return the array in IDX content. Raises `RequestError`, with `name` in its message.

    `dimensions` lists the permitted numbers of dimensions.
    """
    if content[:3] != _START or content[3:4] not in map(bytes, ([n] for n in dimensions)):
        expected = " or ".join(f"{_START.hex(' ')} {number:02x}" for number in dimensions)
        raise RequestError(
            f"{name}: not an IDX file of unsigned bytes in {' or '.join(map(str, dimensions))} "
            f"dimension{'s' * (dimensions != (1,))}: "
            f"begins with {content[:4].hex(' ') or 'nothing'}, expected {expected}"
        )
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise RequestError(f"{name}: ends inside its header, after {len(content)} of {header} bytes")
    shape = struct.unpack_from(f">{content[3]}I", content, 4)
    promised, values = math.prod(shape), len(content) - header
    if values != promised:
        raise RequestError(
            f"{name}: its header promises {'×'.join(map(str, shape))} = {promised} values, "
            f"{values if values < promised else 'more'} follow"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


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
