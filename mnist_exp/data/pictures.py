"""Read an image file for training: its unchanged pixels, turned upright and, if requested, scaled to a shape.

PNG, JPEG, GIF, BMP, WebP and TIFF files are recognized by their content.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from mnist_exp.data.dataset import Images, Shape
from mnist_exp.data.pixels import SIXTEEN_BITS, Scale, limits, rescaled
from mnist_exp.text import shape_override

ENDINGS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".webp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
NAMED = "PNG, JPEG, GIF, BMP, WebP or TIFF"
MOST_PIXELS = 100_000_000  # maximum per file, checked in its header before anything is decoded

_ORIENTATION, _SIDEWAYS = 0x0112, range(5, 9)  # the EXIF tag, and its values for images that lie on their side
_EXIF_IN_PNG = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
_LONGEST_START = 64  # bytes at the start of a file that identify its format
_PLAIN = ("1", "L", "P", "RGB", "LA", "PA", "RGBA", "CMYK", "YCbCr")  # modes that Pillow converts without loss
# Maximum difference between channels (out of 255) for an image to count as grey; allows for JPEG and scanner
# noise.
_NEARLY_GREY = 32
_DEPTH = slice(24, 26)  # of a PNG file: bits per channel, and the colour type
_DEEP_COLOURS = (b"\x10\x02", b"\x10\x06")
_STARTS = {
    b"<!DOCTYPE": "an HTML page",
    b"<html": "an HTML page",
    b"PK\x03\x04": "a ZIP archive",
    b"%PDF": "a PDF",
}
_STARTS |= {b"\x1f\x8b": "a gzip archive", b"version https://git-lfs": "a Git LFS pointer"}

Resize = str | None
"""`fit`, `crop` or `stretch`; None: an image of another size is refused."""


class Unusable(Exception):
    """An image file that cannot be used.

    Attributes:
        kind: A plural noun for such files, for messages.
        of_the_config: Whether the config is at fault rather than the file.
        declares: The end of the message, with the override that declares the file's form; may be empty.
    """

    def __init__(self, kind: str, text: str, *, of_the_config: bool = False, declares: str = "") -> None:
        self.kind, self.of_the_config, self.declares = kind, of_the_config, declares
        super().__init__(text)


class OtherSize(Exception):
    """An image file whose size is not that of `data.shape`."""

    def __init__(self, height: int, width: int) -> None:
        self.size = height, width
        super().__init__(f"an image of {height}×{width} (height×width)")


@contextmanager
def decoder() -> Iterator[None]:
    """Lift Pillow's own limit on the size of an image: `MOST_PIXELS` applies instead, with a better message."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def read_header(path: str) -> tuple[tuple[int, int], bool]:
    """Return the height and width of an upright image, and whether it is in colour. Raises `Unusable`."""
    with _opened(path, whole=False) as (image, _):
        coloured = image.mode not in ("1", "L", "LA") and not image.mode.startswith(("I", "F"))
        if image.mode == "P":
            palette = np.asarray(image.getpalette() or [0, 0, 0]).reshape(-1, 3)
            coloured = bool((palette != palette[:, :1]).any())
        return _upright_size(image), coloured


def read_picture_file(path: str, shape: Shape, resize: Resize, scale: Scale = None) -> tuple[Images, int]:
    """Read an image file as pixels of the given shape.

    Args:
        path: The file.
        shape: Height, width and channels.
        resize: How to scale an image of another size.
        scale: The value of white, or those of black and white; None: 255, or 65,535 in 16-bit files.

    Returns:
        The pixels, and the largest value in a 16-bit file (0 for other files).

    Raises:
        Unusable: The file is damaged, or its colours are not supported.
        OtherSize: The image has another size, and `resize` is None.
    """
    height, width, channels = shape
    with _opened(path) as (image, deep):
        size = _upright_size(image)
        if size != (height, width):
            if resize is None:
                raise OtherSize(*size)
            inner = _inner_size(size, height, width, resize)
            image.draft(image.mode, inner if _orientation(image) in _SIDEWAYS else inner[::-1])
        upright = image if _orientation(image) == 1 else ImageOps.exif_transpose(image)
        plain, largest = _plain(upright, deep, scale)
        if size != (height, width):
            plain = resized(plain, height, width, str(resize))
    if channels == 1 and plain.mode != "L":
        colours = np.asarray(plain).astype(np.int16)
        if np.ptp(colours, axis=2).max() > _NEARLY_GREY:
            keeping = shape_override((height, width, 3))
            text = "a colour image, but data.shape says one channel"
            raise Unusable("colour images", text, of_the_config=True, declares=f"; {keeping} keeps colours")
    wanted = "L" if channels == 1 else "RGB"
    pixels = np.asarray(plain if plain.mode == wanted else plain.convert(wanted))
    return pixels.reshape(shape), largest


def resized(image: Image.Image, height: int, width: int, how: str) -> Image.Image:
    """Scale an image.

    Args:
        image: Grey (L) or in colour (RGB).
        height: Height of the result.
        width: Width of the result.
        how: `fit` scales the whole image and fills the rest with the median colour of its border, `crop` fills
            the shape and cuts off the rest, and `stretch` does not preserve the proportions.
    """
    size, method = (width, height), Image.Resampling.BILINEAR  # antialiases when reducing
    if how == "stretch":
        return image.resize(size, method)
    if how == "crop":
        return ImageOps.fit(image, size, method)
    scale = min(width / image.width, height / image.height)
    inner = image.resize((max(1, round(scale * image.width)), max(1, round(scale * image.height))), method)
    pixels = np.asarray(inner)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = np.median(border.reshape(len(border), -1), axis=0).astype(int).tolist()
    whole = Image.new(inner.mode, size, colour[0] if inner.mode == "L" else tuple(colour))
    whole.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
    return whole


def _inner_size(size: tuple[int, int], height: int, width: int, how: str) -> tuple[int, int]:
    """Return the height and width that `resized` scales a whole image to: a JPEG file need not be decoded larger.

    For 640×480 pixels scaled to fit 256×256, this halves the time.
    """
    if how == "stretch":
        return height, width
    ratios = height / size[0], width / size[1]
    scale = max(ratios) if how == "crop" else min(ratios)
    return math.ceil(scale * size[0]), math.ceil(scale * size[1])


@contextmanager
def _opened(path: str, *, whole: bool = True) -> Iterator[tuple[Image.Image, bool]]:
    """Open an image file, reading either all of it or only the parts that are used.

    Yields the image, and whether it has 16-bit colours. Raises `Unusable`.
    """
    try:
        # Stays open while the image is used. Unbuffered, reading a whole small file takes half the time.
        file = open(path, "rb", buffering=0 if whole else -1)  # noqa: SIM115
        content = file.read() if whole else file.read(_LONGEST_START)
        stream, start = io.BytesIO(content) if whole else file, content[:_LONGEST_START]
    except OSError as error:
        raise Unusable("files that cannot be read", f"cannot be read: {error.strerror}") from error
    try:
        if not start:
            raise Unusable("empty files", "is empty")
        stream.seek(0)
        with Image.open(stream, formats=FORMATS) as image:
            _refuse_gigantic_or_animated(image)
            yield image, image.format == "PNG" and start[_DEPTH] in _DEEP_COLOURS
    except (Unusable, OtherSize):
        raise
    except UnidentifiedImageError as error:
        what = next((f": it is {what}" for begin, what in _STARTS.items() if start.startswith(begin)), "")
        raise Unusable(
            "files with an image extension that are not images", f"not a {NAMED} image{what}"
        ) from error
    except Exception as error:  # Pillow has no specific exception for damaged files
        raise Unusable("damaged images", f"a damaged image ({error})") from error
    finally:
        file.close()


def _refuse_gigantic_or_animated(image: Image.Image) -> None:
    if image.width * image.height > MOST_PIXELS:
        claimed = f"{image.height:,}×{image.width:,} pixels (height×width)"
        raise Unusable("gigantic images", f"claims {claimed}; at most {MOST_PIXELS:,} are read")
    # An MPO file is a photograph with a preview or a depth map after it.
    if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
        raise Unusable("animations", f"has {frames} frames; expected a single image")


def _upright_size(image: Image.Image) -> tuple[int, int]:
    sideways = _orientation(image) in _SIDEWAYS
    return (image.width, image.height) if sideways else (image.height, image.width)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation. In PNG files, metadata after the pixels is ignored, as reading it is slow."""
    if image.format == "PNG" and not set(_EXIF_IN_PNG) & set(image.info):
        return 1
    return image.getexif().get(_ORIENTATION) or 1


def _plain(image: Image.Image, deep: bool, scale: Scale) -> tuple[Image.Image, int]:
    """Return an image in mode L or RGB, and its largest value if it has 16 bits. Raises `Unusable`."""
    if deep or (image.mode not in _PLAIN and not image.mode.startswith("I")):
        what = "16 bits per channel, in colour" if deep else f"{image.mode} colours"
        raise Unusable("images with unsupported colours", f"{what}; expected 8 bits, grey or RGB")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        return _rescaled(values, limits(scale, SIXTEEN_BITS)), int(values.max())
    if has_alpha(image):
        image = refuse_transparent(image.convert("RGBA"))
    if image.mode in ("L", "RGB"):
        image.load()  # while its file is open; `convert` would copy it as well
    else:
        image = image.convert("L" if image.mode == "1" else "RGB")
    if scale is None or max(limits(scale)) > 255:  # such a white applies only to 16-bit files
        return image, 0
    return _rescaled(np.asarray(image), limits(scale)), 0


def has_alpha(image: Image.Image) -> bool:
    """Return whether an image may have transparent pixels."""
    return "transparency" in image.info or image.mode in ("LA", "PA", "RGBA")


def refuse_transparent(image: Image.Image) -> Image.Image:
    """Return an image in mode RGBA. Raises `Unusable` if not all its pixels are opaque."""
    if image.getchannel("A").getextrema()[0] != 255:
        raise Unusable("transparent images", "is transparent; expected an opaque image")
    return image


def _rescaled(values: npt.NDArray[Any], scale: tuple[float, float]) -> Image.Image:
    try:
        return Image.fromarray(rescaled(values, scale))
    except ValueError as error:
        raise Unusable("images with other values", str(error), of_the_config=True) from error
