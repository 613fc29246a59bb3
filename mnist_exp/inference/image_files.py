"""Image files as a model takes them: photographs and scans, turned upright, on paper where they are transparent.

A training refuses what would have to be guessed (`data.folder`); here it is guessed.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mnist_exp.data.dataset import Images, Shape
from mnist_exp.errors import RequestError
from mnist_exp.inference.mnist_form import LARGE, normalize

MOST_PIXELS = 100_000_000  # of a file: what it claims is looked at before anything is decoded


def read_picture(content: bytes, name: str, shape: Shape, *, normalized: bool) -> Images:
    """The image in a PNG or JPEG file in a model's shape: brought into MNIST's form, or only scaled.

    Raises `RequestError`.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # ours tells more
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise RequestError(
                    f"{name}: claims {height:,}×{width:,} pixels (height×width); at most {MOST_PIXELS:,} are read"
                )
            if (frames := getattr(image, "n_frames", 1)) > 1:
                raise RequestError(f"{name}: has {frames} frames; expected a single image")
            if normalized:
                image.draft("L", (LARGE, LARGE))  # a large JPEG file is decoded at a fraction of its size
            picture = _opaque(ImageOps.exif_transpose(image))
    except RequestError:
        raise
    except UnidentifiedImageError as error:
        raise RequestError(f"{name}: not a PNG or JPEG image") from error
    except Exception as error:  # Pillow has no error of its own for what is damaged
        raise RequestError(f"{name}: a damaged image ({error})") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    if not normalized:
        return _scaled(picture, shape)
    found = normalize(picture.convert("L"), *shape[:2])
    if found is None:
        raise RequestError(f"{name}: no digit is on it: nothing stands out from what is at its edge")
    return found


def _scaled(picture: Image.Image, shape: Shape) -> Images:
    """The whole picture in a shape; its proportions are not kept."""
    height, width, channels = shape
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)  # which smooths what it reduces
    return np.asarray(picture).reshape(shape)


def _opaque(image: Image.Image) -> Image.Image:
    """8 bits per channel, and without transparency."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if "transparency" not in image.info and image.mode not in ("LA", "PA", "RGBA"):
        return image
    colours = image.convert("RGBA")
    alpha = np.asarray(colours.getchannel("A"))
    seen = np.asarray(colours.convert("L"))[alpha > 127]
    # Ink alone is on the paper that it is seen on; what has a ground of its own is filled up with that.
    paper = 255
    if len(seen) > alpha.size / 2:
        paper = int(np.median(seen))
    elif len(seen) and seen.mean() > 127:
        paper = 0
    ground = Image.new("RGBA", colours.size, (paper, paper, paper, 255))
    return Image.alpha_composite(ground, colours).convert("RGB")
