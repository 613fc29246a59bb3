"""The IDX format of MNIST's files.

Big-endian: two zero bytes, a byte for the type (8: unsigned byte), a byte for the number of dimensions, four
bytes for the size of each, then the values in C order. Described at the end of
http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mnist_exp.errors import RequestError

_UNSIGNED_BYTE = 8


def read_content(path: Path, sha256: str | None) -> bytes:
    """The uncompressed content of a file, gzip or not, verified. Raises `RequestError`."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RequestError(f"{path}: a damaged gzip archive ({error}); fetch it again") from error
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from error
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise RequestError(f"{path}: not the expected file: SHA-256 {sha256} expected, {found} found")
    return content


def parse(content: bytes, name: str, dimensions: int) -> npt.NDArray[np.uint8]:
    """The array that IDX content holds. Raises `RequestError` that names `name`."""
    header = 4 + 4 * dimensions
    expected = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    if content[:4] != expected:
        found = content[:4].hex(" ") or "nothing"
        raise RequestError(
            f"{name}: not an IDX file of unsigned bytes in {dimensions} dimension{'s' * (dimensions > 1)}: "
            f"begins with {found}, expected {expected.hex(' ')}"
        )
    if len(content) < header:
        raise RequestError(f"{name}: ends inside its header, after {len(content)} of {header} bytes")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4))
    values = len(content) - header
    # Python's integers: four sizes of 2^32 overflow NumPy's.
    promised = 1
    for size in shape:
        promised *= size
    if values != promised:
        raise RequestError(
            f"{name}: its header promises {'×'.join(map(str, shape))} = {promised} values, {values} follow"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
