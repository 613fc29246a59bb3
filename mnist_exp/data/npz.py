"""Read and write NumPy archives with Keras' array names: x_train, y_train and, for a test set, x_test, y_test.

Images are (n, height, width) or (n, height, width, channels), labels (n,), (n, 1) or one-hot. An optional array of
strings, `class_names`, names the classes.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from mnist_exp.data.dataset import CHUNK, Advance, Images, Part, RawPart, Shape, Tell, default_class_names
from mnist_exp.data.pixels import Scale, as_bytes, as_images, described
from mnist_exp.errors import RequestError, first_line
from mnist_exp.runs.archives import refuse_bombs

Array = npt.NDArray[Any]
_WORDS = {"x": ("x", "images", "data"), "y": ("y", "labels", "label", "targets")}  # in names of arrays
_OF_IMAGES = (3, 4)  # numbers of dimensions that an array of images may have
_LONGEST_HEADER = 16 * 2**10  # bytes; NumPy accepts 10,000
_UNREADABLE: tuple[tuple[int, ...], np.dtype[Any]] = ((), np.dtype("V1"))


def read(path: Path, tell: Tell, *, needs_train: bool = True) -> tuple[dict[str, RawPart], tuple[str, ...] | None]:
    """Read the parts and the class names, if there are any. Raises `RequestError`.

    Without `needs_train`, an archive with a test set may lack the training set.
    """
    there = list_arrays(path)
    names = array_names(there, path, needs_train)
    arrays = _arrays(path, {*names.values(), "class_names"})
    parts = {
        part: _read_part(arrays, names[f"x_{part}"], names[f"y_{part}"], path)
        for part in ("train", "test")
        if f"x_{part}" in names
    }
    if renamed := [name for wanted, name in names.items() if wanted != name]:
        tell(f"{path}: reading {', '.join(renamed)} as {', '.join(w for w, name in names.items() if w != name)}")
    if unread := [name for name in there if name not in {*names.values(), "class_names"}]:
        instead = f"; validation images are taken from {names['x_train']}" if "x_train" in names else ""
        tell(f"{path}: not read: {', '.join(unread)}{instead}")
    named = arrays.get("class_names")
    if named is not None and (named.ndim != 1 or named.dtype.kind != "U"):
        raise RequestError(f"{path}: class_names: expected a list of strings, found {described(named)}")
    return parts, None if named is None else tuple(map(str, named))


def _read_part(arrays: Mapping[str, Array], x: str, y: str, path: Path) -> RawPart:
    images, labels = arrays[x], _as_vector(arrays[y], f"{path}: {y}")
    if len(images) != len(labels):
        last = images.ndim > 1 and images.shape[-1] == len(labels)
        advice = f"; np.moveaxis({x}, -1, 0) makes the last axis of {x} the first" if last else ""
        raise RequestError(f"{path}: {len(images)} images in {x}, but {len(labels)} labels in {y}{advice}")
    return RawPart(images, labels, f"{path}: {x}", f"{path}: {y}[{{}}]".format)


def array_names(there: Collection[str], path: Path, needs_train: bool = True) -> dict[str, str]:
    """Return the names that the arrays `x_train`, `y_train`, `x_test` and `y_test` have in an archive.

    `X_train`, `train_images`, `train_labels` and the like are also recognized. Raises `RequestError` if one is
    missing. Without `needs_train`, an archive with test arrays may lack the training arrays.
    """
    names: dict[str, str] = {}
    for part in ("train", "test"):
        for letter in ("x", "y"):
            if name := _find_array(there, letter, part, path):
                names[f"{letter}_{part}"] = name
    tests = ("x_test", "y_test") if {"x_test", "y_test"} & set(names) else ()
    only_tests = not needs_train and tests and not {"x_train", "y_train"} & set(names)
    for name in tests if only_tests else ("x_train", "y_train", *tests):
        if name not in names:
            raise RequestError(f"{path}: has no array {name}; it has {', '.join(there) or 'none'}")
    return names


def _find_array(there: Collection[str], letter: str, part: str, path: Path) -> str | None:
    """Return the name of the images (`x`) or labels (`y`) of a part; None if there is none."""
    wanted = f"{letter}_{part}"
    known = {joined for word in _WORDS[letter] for joined in (f"{word}{part}", f"{part}{word}")}
    near = [name for name in there if name.lower().replace("_", "") in known]
    if wanted in there:
        return wanted
    if len(near) > 1:
        raise RequestError(f"{path}: {', '.join(near)} may all be {wanted}; rename one of them to {wanted}")
    return near[0] if near else None


def list_arrays(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return the shape and type of each array, from its header. Raises `RequestError`."""
    with _archive(path) as archive:
        found = {}
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            found[name] = _UNREADABLE  # unless its header can be read; reading the array explains why not
            with suppress(RequestError), _explained(name), archive.open(member) as file:
                shape, _, dtype = _header(file)
                if math.prod(shape) * dtype.itemsize == member.file_size - file.tell():
                    found[name] = shape, dtype
    if damaged := {"x_train", "y_train", "x_test", "y_test"} & {n for n in found if found[n] == _UNREADABLE}:
        _arrays(path, damaged)
    return found


def read_labels(path: Path, *, needs_train: bool = True) -> tuple[dict[str, RawPart], tuple[str, ...] | None]:
    """Return the parts, with black images of the same shape and type instead of the pixels, and the class names.

    Raises `RequestError`.
    """
    there = list_arrays(path)
    names = array_names(there, path, needs_train)
    wanted_now = {name for wanted, name in names.items() if wanted.startswith("y")}
    arrays = _arrays(path, {*wanted_now, "class_names"})
    parts = {}
    for part in ("train", "test"):
        if f"x_{part}" in names:
            x, y = names[f"x_{part}"], names[f"y_{part}"]
            shape, dtype = there[x]
            if there[x] == _UNREADABLE:
                _arrays(path, {x})
            images = np.broadcast_to(np.zeros((), dtype), shape)
            parts[part] = _read_part({**arrays, x: images}, x, y, path)
    named = arrays.get("class_names")
    return parts, None if named is None else tuple(map(str, named.reshape(-1)))


def read_images(path: Path, shape: Shape | None, scale: Scale) -> tuple[str, Images, tuple[str, ...]]:
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
        images, _ = as_images(as_bytes(arrays[name], f"{path}: {name}", scale), f"{path}: {name}", shape)
        others = tuple(other for other in arrays if other != name)
        return name, images, others
    held = "; ".join(f"{name}: {described(array)}" for name, array in arrays.items()) or "no array"
    raise RequestError(
        f"{path}: expected an array named x_test, or a single array of images, (images, height, width) or "
        f"(images, height, width, channels); found {held}"
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


def _as_vector(labels: Array, place: str) -> Array:
    """Return one label per image, converting one-hot rows. Raises `RequestError`."""
    if labels.ndim == 1 or labels.shape[1:] == (1,):
        return labels.reshape(-1)
    if (
        labels.ndim == 2
        and labels.dtype.kind in "buif"
        and np.array_equal(labels, np.eye(labels.shape[1])[labels.argmax(axis=1)])
    ):
        numbers: Array = labels.argmax(axis=1)
        return numbers
    raise RequestError(f"{place}: expected a label per image, found {described(labels)}")


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive. Raises `RequestError` for any exception that zipfile raises in the block."""
    try:
        with zipfile.ZipFile(path) as archive:
            refuse_bombs(archive.infolist(), path.stat().st_size)
            yield archive
    except RequestError:
        raise
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zipfile raises various types for names and versions it cannot read
        raise RequestError(f"{path}: not an NPZ archive, or a damaged one ({error})") from error


@contextmanager
def _explained(place: str) -> Iterator[None]:
    """Raise `RequestError` for any error in the block: a damaged header may cause exceptions of any type."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"{place}: {error}") from error
    except Exception as error:
        raise RequestError(f"{place}: damaged: {first_line(error)}") from error


def _arrays(path: Path, wanted: Collection[str] | None = None) -> dict[str, Array]:
    """Read the arrays named in `wanted`, or all if it is None. Raises `RequestError`."""
    with _archive(path) as archive:
        return {
            name: read_array(archive, member, path)
            for member in archive.infolist()
            if (name := member.filename.removesuffix(".npy")) in (wanted or (name,))
        }


def read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> Array:
    """Read an array. Its header is checked against the data's size, so that a false one allocates no memory.

    Raises `RequestError`, which names `path`.
    """
    with _explained(f"{path}: {member.filename}"), archive.open(member) as file:
        shape, by_column, dtype = _header(file)
        promised, follow = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
        if promised != follow:
            raise RequestError(
                f"the header declares {'×'.join(map(str, shape))} values of {dtype} = "
                f"{promised} bytes, but {follow} follow"
            )
        return np.frombuffer(file.read(promised), dtype).reshape(shape, order="F" if by_column else "C")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read an array's shape, whether it is in Fortran order, and its type. A damaged one may raise any error."""
    header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    start = io.BytesIO(file.read(_LONGEST_HEADER))  # NumPy reads as many bytes as the header declares
    shape, by_column, dtype = header[np.lib.format.read_magic(start)](start)
    file.seek(start.tell())
    if min(shape, default=0) < 0:
        raise RequestError(f"damaged: its header has a negative size: {shape}")
    if dtype.hasobject:
        raise RequestError("holds pickled Python objects, which are never loaded; save numbers, as with np.stack")
    return shape, by_column, dtype
