"""Read and write NumPy archives with Keras' array names: x_train, y_train and, for a test part, x_test, y_test.

Images are (n, height, width) or (n, height, width, channels), labels (n,) or (n, 1), of any numeric type as long
as the values are integers. An optional array of strings, `class_names`, names the classes.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnist_exp.data.dataset import CHUNK, Advance, Images, Part, default_class_names
from mnist_exp.errors import RequestError, first_line
from mnist_exp.runs.archives import refuse_bombs

Array = npt.NDArray[Any]
_OF_IMAGES = (3, 4)  # permitted numbers of dimensions


def read(path: Path) -> tuple[Part, Part | None, tuple[str, ...] | None]:
    """Read the training part, the test part and the class names. Raises `RequestError`."""
    arrays = _arrays(path, ("x_train", "y_train", "x_test", "y_test", "class_names"))
    for name in ("x_train", "y_train", *(("x_test", "y_test") if {"x_test", "y_test"} & set(arrays) else ())):
        if name not in arrays:
            raise RequestError(f"{path}: has no array {name}; it has {', '.join(arrays) or 'none that is known'}")
    train = _part(arrays, "train", path)
    test = _part(arrays, "test", path) if "x_test" in arrays else None
    names = arrays.get("class_names")
    if names is not None and (names.ndim != 1 or names.dtype.kind != "U"):
        raise RequestError(f"{path}: class_names: expected a list of texts, found {_described(names)}")
    return train, test, None if names is None else tuple(map(str, names))


def read_images(path: Path) -> tuple[str, Images, tuple[str, ...]]:
    """Read the images to classify: `x_test` if it is there, otherwise the only array of images.

    Returns:
        The array's name, its images, and the names of the other arrays.

    Raises:
        RequestError: The archive cannot be read, or the choice is ambiguous.
    """
    arrays = _arrays(path)
    found = [name for name, array in arrays.items() if array.ndim in _OF_IMAGES]
    if "x_test" in found or len(found) == 1:
        name = "x_test" if "x_test" in found else found[0]
        return name, _images(arrays[name], f"{path}: {name}"), tuple(other for other in arrays if other != name)
    held = "; ".join(f"{name}: {_described(array)}" for name, array in arrays.items()) or "no array"
    raise RequestError(
        f"{path}: expected one array of images, (images, height, width) or (images, height, width, channels), "
        f"or x_test among several; found {held}"
    )


def write(folder: Path, parts: dict[str, Part], class_names: tuple[str, ...], advance: Advance) -> None:
    """Write `data.npz`, uncompressed, with the class names unless they are the default numbers."""
    with zipfile.ZipFile(folder / "data.npz", "w") as archive:
        for name, part in parts.items():
            images = part.images[..., 0] if part.images.shape[3] == 1 else part.images
            with archive.open(f"x_{name}.npy", "w", force_zip64=True) as file:
                header = np.lib.format.header_data_from_array_1_0(np.empty((0, *images.shape[1:]), np.uint8))
                np.lib.format.write_array_header_1_0(file, {**header, "shape": images.shape})
                for start in range(0, len(images), CHUNK):
                    file.write(np.ascontiguousarray(images[start : start + CHUNK]).data)
                    advance(len(images[start : start + CHUNK]))
            with archive.open(f"y_{name}.npy", "w") as file:
                np.lib.format.write_array(file, part.labels)
        if class_names != default_class_names(len(class_names)):
            with archive.open("class_names.npy", "w") as file:
                np.lib.format.write_array(file, np.array(class_names))


def _arrays(path: Path, wanted: Collection[str] | None = None) -> dict[str, Array]:
    """Read the arrays named in `wanted`, or all. Raises `RequestError`."""
    try:
        with zipfile.ZipFile(path) as archive:
            refuse_bombs(archive.infolist())
            return {
                name: _read_array(archive, member, path)
                for member in archive.infolist()
                if (name := member.filename.removesuffix(".npy")) in (wanted or (name,))
            }
    except RequestError:
        raise
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zipfile raises various types for names and versions it cannot read
        raise RequestError(f"{path}: a damaged NPZ archive, or none ({error})") from error


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> Array:
    """Read an array after checking its header against the data's size; a false header allocates no memory."""
    place = f"{path}: {member.filename}"
    try:
        with archive.open(member) as file:
            header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, by_column, dtype = header[np.lib.format.read_magic(file)](file)
            if min(shape, default=0) < 0:
                raise RequestError(f"{place}: damaged: its header has a negative size: {shape}")
            if dtype.hasobject:
                raise RequestError(f"{place}: holds pickled Python objects, which are never loaded")
            promised, follow = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
            if promised != follow:
                raise RequestError(
                    f"{place}: its header promises {'×'.join(map(str, shape))} values of {dtype} = "
                    f"{promised} bytes, {follow} follow"
                )
            return np.frombuffer(file.read(promised), dtype).reshape(shape, order="F" if by_column else "C")
    except RequestError:
        raise
    except Exception as error:  # Python's parser may raise any error for a damaged header
        raise RequestError(f"{place}: damaged: {first_line(error)}") from error


def _part(arrays: dict[str, Array], name: str, path: Path) -> Part:
    images, labels = arrays[f"x_{name}"], arrays[f"y_{name}"]
    if images.ndim not in _OF_IMAGES:
        raise RequestError(
            f"{path}: x_{name}: expected (images, height, width) or (images, height, width, channels), "
            f"found {_described(images)}"
        )
    if labels.ndim != 1 and labels.shape[1:] != (1,):
        raise RequestError(f"{path}: y_{name}: expected a label per image, found {_described(labels)}")
    if len(images) != len(labels):
        raise RequestError(f"{path}: {len(images)} images in x_{name}, but {len(labels)} labels in y_{name}")
    pixels = _images(images, f"{path}: x_{name}")
    return Part(pixels, _whole(labels.reshape(-1), f"{path}: y_{name}", 2**31 - 1).astype(np.int64))


def _images(array: Array, place: str) -> Images:
    pixels = _whole(array, place, 255).astype(np.uint8, copy=False)
    return pixels if pixels.ndim == 4 else pixels[..., np.newaxis]


def _whole(array: Array, place: str, most: int) -> Array:
    """Return the array. Raises `RequestError` at the first value that is not an integer from 0 to `most`."""
    if array.dtype.kind not in "buif":
        raise RequestError(f"{place}: expected numbers, found {_described(array)}")
    for start in range(0, len(array) if array.dtype != np.uint8 else 0, CHUNK):
        chunk = array[start : start + CHUNK]
        with np.errstate(invalid="ignore"):
            good = (chunk >= 0) & (chunk <= most) & (chunk == np.floor(chunk))
        if not good.all():
            index = np.unravel_index(int(np.argmin(good)), chunk.shape)
            at = ", ".join(map(str, (start + int(index[0]), *map(int, index[1:]))))
            raise RequestError(f"{place}[{at}]: expected a whole number from 0 to {most}, found {chunk[index]}")
    return array


def _described(array: Array) -> str:
    return f"{array.dtype} of shape ({', '.join(map(str, array.shape))})"
