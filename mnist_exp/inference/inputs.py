"""Read images to classify from image files, folders, glob patterns, IDX, NPZ and CSV files, or standard input."""

from __future__ import annotations

import glob
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnist_exp.config.schema import FileSpec
from mnist_exp.data import csv, idx, npz
from mnist_exp.data.dataset import CHUNK, Images, Shape, Tell
from mnist_exp.data.folder import natural_order
from mnist_exp.data.label_column import LabelColumn
from mnist_exp.data.pictures import ENDINGS, NAMED, Resize
from mnist_exp.data.pixels import Scale, as_bytes, as_images, refuse_zeros_and_ones
from mnist_exp.errors import RequestError
from mnist_exp.inference.image_files import Thumbnail, open_photograph, open_picture
from mnist_exp.inference.mnist_form import Reading
from mnist_exp.suggest import nearest
from mnist_exp.text import format_shape

STANDARD_INPUT = "-"
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")
_ARCHIVE, _PACKED = b"PK", (b"\x1f\x8b", b"\0\0")

_UNKNOWN = LabelColumn()
_NORMALIZED = "image files are converted to MNIST style; predict.normalize=false only scales them"


@dataclass(frozen=True)
class Batch:
    """Images (n, height, width, channels), uint8, and a name for each."""

    names: list[str]
    images: Images
    readings: Sequence[Reading] = ()
    """How each image was found in its picture file; empty for images from arrays."""
    originals: Sequence[Thumbnail] = ()
    """The picture of each image, reduced; empty unless they were requested."""


@dataclass(frozen=True)
class PictureOptions:
    """How image files are read."""

    normalized: bool
    """Whether they are converted to MNIST style rather than only scaled."""
    resize: Resize = None
    """How they are scaled; None: without preserving their proportions."""
    many: bool = False
    """Whether all digits in a picture are read, each as an image."""
    keep_originals: bool = False
    """Whether the pictures are returned as well."""


def find_inputs(wanted: Sequence[str], tell: Tell) -> tuple[list[str], list[RequestError]]:
    """Resolve file names, folders and glob patterns to files.

    Returns:
        The files in the order given, those of a folder or pattern in natural order, and the problems found.
    """
    files: list[str] = []
    problems: list[RequestError] = []
    for name in wanted:
        try:
            files += _files(name, tell)
        except RequestError as error:
            problems.append(error)
    if files.count(STANDARD_INPUT) > 1:
        problems.append(RequestError("inputs: standard input (-) can only be read once"))
    return files, problems


def read_inputs(
    files: Iterable[str],
    shape: Shape,
    options: PictureOptions,
    *,
    tell: Tell,
    refuse: Callable[[RequestError], None],
    scale: Scale = None,
    labels: LabelColumn = _UNKNOWN,
) -> Iterator[Batch]:
    """Yield the images in files, in order.

    Image files are batched, at most `CHUNK` per batch, so that memory use does not grow with their number.

    Args:
        files: Names of files, or `-` for standard input.
        shape: Height, width and channels that the model takes.
        options: How image files are read.
        tell: Prints a note.
        refuse: Called with the error for each file that cannot be used; the others are still read.
        scale: The value of white in arrays, or those of black and white; None: 255.
        labels: What is known about the column with the labels in CSV files.
    """
    pictures = _Pictures(shape, options, tell)
    for name in files:
        try:
            with _opened(name) as path:
                kind = _kind(path, name)
                if kind == "picture":
                    pictures.add(_shown(name), path.read_bytes())
                    images = None
                else:
                    images = _read_array(kind, path, _shown(name), shape, scale, labels, tell)
        except (RequestError, OSError) as error:
            refuse(error if isinstance(error, RequestError) else _unreadable(name, error))
            continue
        if pictures.names and (images is not None or len(pictures.names) >= CHUNK):
            yield pictures.take()
        if images is not None:
            yield Batch([f"{_shown(name)}[{index}]" for index in range(len(images))], images)
    if pictures.names:
        yield pictures.take()


class _Pictures:
    """Collects the images in image files."""

    def __init__(self, shape: Shape, options: PictureOptions, tell: Tell) -> None:
        self._shape, self._options, self._tell = shape, options, tell
        self._is_announced = False
        self._start()

    def _start(self) -> None:
        self.names: list[str] = []
        self._readings: list[Reading] = []
        self._originals: list[Thumbnail] = []

    def add(self, name: str, content: bytes) -> None:
        """Read an image file. Raises `RequestError`."""
        options = self._options
        if not self._is_announced:
            self._is_announced = True
            how = f" (data.resize={options.resize})" if options.resize else ""
            scaled = f"image files are scaled to {format_shape(self._shape[:2])}{how}"
            self._tell(_NORMALIZED if options.normalized else scaled)
        if options.normalized:
            picture = open_photograph(content, name, in_colour=options.keep_originals)
            readings = picture.find_digits(self._shape, many=options.many)
        else:
            picture = open_picture(content, name, self._shape)
            readings = [Reading(picture.scaled(self._shape, options.resize))]
        if options.keep_originals:
            self._originals += [picture.thumbnail()] * len(readings)
        self.names += [name] * len(readings)
        self._readings += readings

    def take(self) -> Batch:
        """Return the images collected so far, and start afresh."""
        images = np.stack([reading.image for reading in self._readings])
        batch = Batch(self.names, images, self._readings, self._originals)
        self._start()
        return batch


def _unreadable(name: str, error: OSError) -> RequestError:
    return RequestError(f"{_shown(name)}: cannot be read: {error.strerror or error}")


def _files(name: str, tell: Tell) -> list[str]:
    path = os.path.expanduser(name)
    if name == STANDARD_INPUT:
        return [name]
    if os.path.isdir(path):
        return _pictures_in(path, tell)
    if os.path.exists(path):
        return [path]
    if glob.has_magic(path):
        if matches := sorted(glob.glob(path, recursive=True), key=natural_order):
            return [
                file
                for match in matches
                for file in ([match] if not os.path.isdir(match) else _files(match, tell))
            ]
        raise RequestError(f"inputs={name}: matches no file")
    folder, last = os.path.split(path)
    near = nearest(last, os.listdir(folder or ".") if os.path.isdir(folder or ".") else ())
    hint = f" (did you mean '{os.path.join(folder, near)}'?)" if near else ""
    raise RequestError(f"inputs={name}: there is no such file or folder{hint}")


def _pictures_in(folder: str, tell: Tell) -> list[str]:
    """Return the image files in a folder and its subfolders, and report how many other files are skipped."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(parent, name) for name in files if not name.startswith(".")]
    pictures = [path for path in found if path.lower().endswith(ENDINGS)]
    others = f"{len(found) - len(pictures)} other file{'s' * (len(found) - len(pictures) != 1)}"
    if not pictures:
        there = f", only {others}" if found else ""
        raise RequestError(f"{_shown(folder)}: no {NAMED} files ({', '.join(ENDINGS)}) in this folder{there}")
    if len(found) > len(pictures):
        tell(f"{_shown(folder)}: skipped {others}, not image files")
    return sorted(pictures, key=natural_order)


def _shown(name: str) -> str:
    """Return a printable name, even if its bytes are not valid text."""
    return "standard input" if name == STANDARD_INPUT else os.fsencode(name).decode(errors="backslashreplace")


@contextmanager
def _opened(name: str) -> Iterator[Path]:
    """Yield a path that can be read repeatedly: the file itself, or a copy of a pipe or standard input."""
    if name != STANDARD_INPUT and os.path.isfile(name):
        yield Path(name)
        return
    if name == STANDARD_INPUT and sys.stdin.isatty():
        raise RequestError("inputs=-: standard input is a terminal; redirect a file: … inputs=- < digit.png")
    with tempfile.NamedTemporaryFile() as copy:
        if name == STANDARD_INPUT:
            shutil.copyfileobj(sys.stdin.buffer, copy)
        else:
            with open(name, "rb") as stream:
                shutil.copyfileobj(stream, copy)
        copy.flush()
        yield Path(copy.name)


def _kind(path: Path, name: str) -> str:
    """Return a file's kind, given by its first bytes or its extension. Raises `RequestError` or `OSError`."""
    with path.open("rb") as file:
        start = file.read(4096)
    if not start:
        raise RequestError(f"{_shown(name)}: is empty")
    ending = os.path.splitext(name)[1].lower()
    if start.startswith(_PICTURES) or ending in ENDINGS:
        return "picture"
    if start.startswith(_ARCHIVE) or ending == ".npz":
        return "npz"
    if start.startswith(_PACKED):
        return "idx"
    if ending == ".csv" or re.fullmatch(rb"[\t\n\r -~\x80-\xff]*[0-9][\t\n\r -~\x80-\xff]*", start):
        return "csv"
    raise RequestError(
        f"{_shown(name)}: begins with {start[:4].hex(' ')}; expected an image ({NAMED}), IDX, NPZ or CSV"
    )


def _read_array(
    kind: str, path: Path, name: str, shape: Shape, scale: Scale, labels: LabelColumn, tell: Tell
) -> Images:
    """Read the images of an IDX, NPZ or CSV file. Raises `RequestError` if that is impossible."""
    try:
        if kind == "idx":
            array = idx.parse(idx.unpack(path.read_bytes(), FileSpec(name=path.name), name), name, idx.IMAGES)
            images = as_images(as_bytes(array, name, scale), name, shape)[0]
        elif kind == "npz":
            found, images, others = npz.read_images(path, shape, scale)
            if others:
                tell(f"{name}: using the images in {found}; ignored: {', '.join(others)}")
        else:
            images, note = csv.read_images(path, shape, labels, scale)
            if note:
                tell(f"{name}: {note}")
    except RequestError as error:
        raise RequestError(str(error).replace(str(path), name)) from error
    if images.shape[1:] != shape:
        found, expected = ("×".join(map(str, sizes)) for sizes in (images.shape[1:], shape))
        raise RequestError(f"{name}: images of {found}; the model takes {expected}")
    if not len(images):
        raise RequestError(f"{name}: no images")
    if scale is None:
        refuse_zeros_and_ones(int(images.max()), name)
    return images
