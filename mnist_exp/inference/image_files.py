"""Read photographs and scans as model inputs, rotated upright.

If the digit is to be found in them, transparent areas are filled with a colour that contrasts with the ink: the
digit may be dark on light or light on dark. Otherwise, transparent files are refused, as in training.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from mnist_exp.data.dataset import Images, Shape
from mnist_exp.data.pictures import (
    FORMATS,
    MOST_PIXELS,
    NAMED,
    Resize,
    Unusable,
    has_alpha,
    refuse_transparent,
    resized,
)
from mnist_exp.errors import RequestError
from mnist_exp.inference.digit_finder import LARGE, Box
from mnist_exp.inference.mnist_form import Reading, read_digits

MakeOpaque = Callable[[Image.Image], Image.Image]

_THUMBNAIL = 320  # pixels: maximum side of a thumbnail


def read_picture(content: bytes, name: str, shape: Shape, resize: Resize = None) -> Images:
    """Read an image file, scaled to a model's shape as `resize` says (None: stretched).

    Raises `RequestError`, with `name` in its message.
    """
    return open_picture(content, name, shape).scaled(shape, resize)


def read_photograph(content: bytes, name: str, shape: Shape, *, many: bool = False) -> list[Reading]:
    """Read the digits in a photograph or scan: all in reading order if `many`, otherwise one.

    Raises `RequestError`, with `name` in its message, if the file is unusable or shows no digit.
    """
    return open_photograph(content, name).find_digits(shape, many=many)


def scaled_box(box: Box, scale: float) -> Box:
    """Return a box in a picture that is `scale` times as large."""
    left, top, right, bottom = (round(scale * side) for side in box)
    return left, top, right, bottom


@dataclass(frozen=True)
class Thumbnail:
    """A reduced picture."""

    pixels: npt.NDArray[np.uint8]
    """Shape (height, width, 3)."""
    scale: float
    """Its size in relation to the picture's."""


@dataclass(frozen=True)
class Picture:
    """A decoded image file: upright and opaque."""

    name: str
    """Its name in messages."""
    image: Image.Image
    scale: float
    """The factor by which the file's picture is larger."""

    def find_digits(self, shape: Shape, *, many: bool = False) -> list[Reading]:
        """Return the digits as `read_photograph` does. Raises `RequestError` if there are none."""
        readings = read_digits(self.image.convert("L"), *shape[:2], many=many)
        if not readings:
            raise RequestError(f"{self.name}: no digit found: nothing stands out from the background")
        return [replace(one, box=one.box and scaled_box(one.box, self.scale)) for one in readings]

    def scaled(self, shape: Shape, resize: Resize = None) -> Images:
        """Return the picture scaled to a shape, by default without preserving its proportions."""
        height, width, channels = shape
        picture = self.image.convert("L" if channels == 1 else "RGB")
        if picture.size != (width, height):
            picture = resized(picture, height, width, resize or "stretch")
        return np.asarray(picture).reshape(shape)

    def thumbnail(self) -> Thumbnail:
        """Return the picture in colour, reduced to at most `_THUMBNAIL` pixels on its longer side."""
        picture = self.image.convert("RGB")
        whole = self.scale * max(picture.size)
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
        return Thumbnail(np.asarray(picture), max(picture.size) / whole)


def open_photograph(content: bytes, name: str, *, in_colour: bool = False) -> Picture:
    """Decode an image file to find digits in it; its thumbnail is grey unless `in_colour`. Raises `RequestError`.

    The digits are the same either way: they are found in the brightness, which JPEG files store separately.
    """
    return _decode(content, name, 2 * LARGE, "YCbCr" if in_colour else "L", _opaque)


def open_picture(content: bytes, name: str, shape: Shape) -> Picture:
    """Decode an image file to scale it to a shape. Raises `RequestError`."""
    # Twice the size, so that scaling still averages pixels.
    return _decode(content, name, 2 * max(shape[:2]), "RGB", refuse_transparent)


def _decode(content: bytes, name: str, reduced_to: int, mode: str, make_opaque: MakeOpaque) -> Picture:
    """Decode an image file, with `make_opaque` for one with an alpha channel. Raises `RequestError`.

    A JPEG file may be decoded in another mode and at a smaller size, but not smaller than a thumbnail, and with a
    height and width of at least `reduced_to`.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # our own check gives a better message
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise RequestError(
                    f"{name}: has {height:,}×{width:,} pixels (height×width); at most {MOST_PIXELS:,} are read"
                )
            # An MPO file is a photograph with a preview or a depth map after it.
            if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
                raise RequestError(f"{name}: has {frames} frames; expected a single image")
            least = [max(reduced_to, round(_THUMBNAIL * side / max(width, height))) for side in (width, height)]
            image.draft("RGB" if mode == "YCbCr" and _stores_rgb(image) else mode, (least[0], least[1]))
            return Picture(name, _plain(ImageOps.exif_transpose(image), make_opaque), width / image.size[0])
    except RequestError:
        raise
    except Unusable as error:
        raise RequestError(f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        raise RequestError(f"{name}: not a {NAMED} image") from error
    except Exception as error:  # Pillow has no specific exception for damaged files
        raise RequestError(f"{name}: a damaged image ({error})") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _stores_rgb(image: Image.Image) -> bool:
    """Return whether a JPEG file stores colours as RGB, which libjpeg cannot convert to YCbCr."""
    adobe = image.info.get("adobe_transform")
    names = [layer[0] for layer in getattr(image, "layer", ())]
    return "jfif" not in image.info and (adobe == 0 or (adobe is None and names == list(b"RGB")))


def _plain(image: Image.Image, make_opaque: MakeOpaque) -> Image.Image:
    """Reduce 16-bit pictures to 8 bits, and remove the alpha channel. Raises `Unusable`."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    return make_opaque(image.convert("RGBA")) if has_alpha(image) else image


def _opaque(colours: Image.Image) -> Image.Image:
    """Fill transparent areas of an image in mode RGBA."""
    alpha = np.asarray(colours.getchannel("A"))
    seen = np.asarray(colours.convert("L"))[alpha > 127]
    # Fill mostly opaque pictures with their own background, bare strokes with white, or black if they are light.
    paper = 255
    if len(seen) > alpha.size / 2:
        paper = int(np.median(seen))
    elif len(seen) and seen.mean() > 127:
        paper = 0
    ground = Image.new("RGBA", colours.size, (paper, paper, paper, 255))
    return Image.alpha_composite(ground, colours).convert("RGB")
