"""Read and write image folders: one folder of PNG or JPEG files per class.

Names that begin with a dot are skipped. Images are ordered by file name, then by class.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnist_exp.data.dataset import Advance, Images, Part, Shape, default_class_names
from mnist_exp.errors import RequestError

if TYPE_CHECKING:
    from PIL import Image

ENDINGS = (".png", ".jpg", ".jpeg")
_ORIENTATION, _TURNED = 0x0112, range(2, 9)  # the EXIF tag, and its values for images that are not upright
_SMALL = 2**20  # pixels: data.shape is suggested only for images up to this size
_SIXTEEN_BITS = b"\x10"  # the bit depth in a PNG file, at byte 24


def class_folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the class folders in `folder`, in class order. Raises `RequestError`."""
    names = []
    for entry in _entries(folder):
        if not entry.is_dir():
            raise RequestError(f"{entry.path}: expected a folder per class in {folder}, found a file")
        names.append(entry.name)
    if not names:
        raise RequestError(f"{folder}: no class folders; expected a folder per class, with its images in it")
    return sort_class_names(names)


def sort_class_names(names: Sequence[str]) -> tuple[str, ...]:
    """Sort class names numerically if all are integers, otherwise by name."""
    numbers = all(name.isascii() and name.isdigit() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name) if numbers else 0, name)))


def read(folder: Path, classes: tuple[str, ...], shape: Shape, may_lack_images: bool) -> Part:
    """Read the images in a folder's class folders, labelled by the order of `classes`. Raises `RequestError`.

    `may_lack_images` permits empty class folders.
    """
    files = []
    for label, name in enumerate(classes):
        entries = _entries(folder / name)
        if not entries and not may_lack_images:
            raise RequestError(f"{folder / name}: no images in this class folder")
        for entry in entries:
            if not entry.name.lower().endswith(ENDINGS) or not entry.is_file():
                raise RequestError(f"{entry.path}: not a PNG or JPEG file (.png, .jpg, .jpeg)")
            files.append((entry.name, label, entry.path))
    files.sort()
    images = read_files([path for _, _, path in files], shape)
    return Part(images, np.array([label for _, label, _ in files], np.int64))


def read_files(paths: Sequence[str], shape: Shape) -> Images:
    """Read image files into an array of shape (n, *shape). Raises `RequestError`."""
    from PIL import Image

    images = np.empty((len(paths), *shape), np.uint8)
    # Pillow's own limit is not needed: sizes are checked before anything is decoded.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        # Sequential: for small images, threads took half as long again.
        for index, path in enumerate(paths):
            images[index] = _read_image(path, shape)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    return images


def write(folder: Path, parts: dict[str, Part], class_names: tuple[str, ...], advance: Advance) -> None:
    """Write each image to its class folder as a PNG file named by its index."""
    from PIL import Image

    names = folder_names(class_names)
    for part_name, part in parts.items():
        folders = [folder / part_name / name for name in names]
        for path in folders:
            path.mkdir(parents=True)
        digits = len(str(len(part) - 1))
        images = part.images[..., 0] if part.images.shape[3] == 1 else part.images
        for index, label in enumerate(part.labels):
            Image.fromarray(images[index]).save(folders[label] / f"{index:0{digits}}.png")
            advance(1)


def folder_names(class_names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the class names if all are valid, distinct folder names, otherwise the class numbers."""
    good = all(name and not name.startswith(".") and not set(name) & set('/\\:*?"<>|\0') for name in class_names)
    distinct = len({name.lower() for name in class_names}) == len(class_names)
    return class_names if good and distinct else default_class_names(len(class_names))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise RequestError(f"{folder}: cannot be read: {error.strerror}") from error
    for entry in found:
        if (shown := os.fsencode(entry.name).decode(errors="backslashreplace")) != entry.name:
            raise RequestError(f"{folder}/{shown}: its name is not UTF-8; rename it")
    return found


def _read_image(path: str, shape: Shape) -> Images:
    """Read an image file's pixels in the declared shape. Raises `RequestError`."""
    from PIL import Image, UnidentifiedImageError

    height, width, channels = shape
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            if image.size != (width, height):
                found = f"; data.shape=[{image.height},{image.width},{channels}] would declare this one"
                raise RequestError(
                    f"{path}: an image of {image.height}×{image.width} (height×width), but data.shape says "
                    f"{height}×{width}{found if image.height * image.width <= _SMALL else ''}"
                )
            pixels = _bytes(image, content, path)
    except RequestError:
        raise
    except UnidentifiedImageError as error:
        raise RequestError(f"{path}: not a PNG or JPEG image") from error
    except Exception as error:  # Pillow has no specific exception for damaged files
        raise RequestError(f"{path}: a damaged image ({error})") from error
    if channels == 3:
        return pixels if pixels.ndim == 3 else np.repeat(pixels[..., np.newaxis], 3, axis=2)
    if pixels.ndim == 3 and not (pixels == pixels[..., :1]).all():
        raise RequestError(
            f"{path}: a colour image, but data.shape says one channel; "
            f"data.shape=[{height},{width},3] declares three"
        )
    return pixels.reshape(height, width, -1)[..., :1]


def _bytes(image: Image.Image, content: bytes, path: str) -> Images:
    """Return 8-bit pixels, grey (height, width) or colour (height, width, 3). Raises `RequestError`."""
    if image.mode.startswith(("I", "F")) or (image.format == "PNG" and content[24:25] == _SIXTEEN_BITS):
        raise RequestError(f"{path}: 16 bits per channel; expected 8")
    if image.mode not in ("1", "L", "P", "RGB", "LA", "PA", "RGBA"):
        raise RequestError(f"{path}: {image.mode} colours; expected grey or RGB")
    if (frames := getattr(image, "n_frames", 1)) > 1:
        raise RequestError(f"{path}: has {frames} frames; expected a single image")
    if (orientation := image.getexif().get(_ORIENTATION)) in _TURNED:
        raise RequestError(
            f"{path}: its EXIF orientation is {orientation}; turn its pixels upright and remove the tag"
        )
    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA"):
        pixels = np.asarray(image.convert("RGBA"))
        if pixels[..., 3].min() < 255:
            raise RequestError(f"{path}: is transparent; expected an opaque image")
        return pixels[..., :3]
    return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
