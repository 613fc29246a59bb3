"""One rule for pixels, whatever file or array they come from.

Pixels are booleans, or whole numbers of any type, from 0 (black) to 255 (white). Any other range needs
`data.scale`, the value of white or those of black and white: a range is never guessed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from mnist_exp.data.dataset import CHUNK, Images, Shape
from mnist_exp.errors import RequestError
from mnist_exp.text import format_shape

Array = npt.NDArray[Any]
Scale = float | tuple[float, float] | None

TWELVE_BITS, SIXTEEN_BITS = 4095, 65535
_CHANNELS = (1, 3)  # grey or colour
_WITH_ALPHA = (2, 4)  # with an alpha channel after them
_DIM = 63  # of 255: a set without a brighter pixel is reported


def limits(scale: Scale, default: float = 255) -> tuple[float, float]:
    """Return the values of black and white; `default` is the value of white if no scale is given."""
    return scale if isinstance(scale, tuple) else (0, default if scale is None else scale)


def rescaled(values: Array, scale: tuple[float, float]) -> Images:
    """Scale values from black to white to 0…255. Raises `ValueError` if a value is outside this range."""
    black, white = scale
    low, high = float(values.min()), float(values.max())
    if not min(scale) <= low <= high <= max(scale):
        raise ValueError(f"values from {low:g} to {high:g}; data.scale says {black:g} to {white:g}")
    pixels: Images = np.rint((values.astype(np.float32) - black) * (255 / (white - black))).astype(np.uint8)
    return pixels


def as_bytes(array: Array, place: str, scale: Scale) -> Images:
    """Return pixels as bytes. Raises `RequestError` for the first invalid value; `place` names the array."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind not in "uif":
        raise RequestError(f"{place}: expected numbers, found {described(array)}")
    if array.dtype == np.uint8 and limits(scale) == (0, 255):
        return array
    pixels = np.empty(array.shape, np.uint8)
    for start in range(0, len(array), CHUNK):
        chunk = array[start : start + CHUNK]
        good = allowed(chunk, scale)
        if not good.all():
            index = np.unravel_index(int(np.argmin(good)), chunk.shape)
            at = ", ".join(map(str, (start + int(index[0]), *map(int, index[1:]))))
            raise RequestError(
                f"{place}[{at}]: expected {expected(scale)}, found {chunk[index]}{advice(array, scale)}"
            )
        pixels[start : start + CHUNK] = chunk if scale is None else rescaled(chunk, limits(scale))
    return pixels


def allowed(values: Array, scale: Scale) -> npt.NDArray[np.bool_]:
    """Return which values are valid pixels."""
    low, high = sorted(limits(scale))
    with np.errstate(invalid="ignore"):
        inside = (values >= low) & (values <= high)
        good: npt.NDArray[np.bool_] = inside & (values == np.floor(values)) if scale is None else inside
    return good


def expected(scale: Scale) -> str:
    """Describe which values are allowed."""
    if scale is None:
        return "a whole number from 0 to 255"
    low, high = sorted(limits(scale))
    return f"a number from {low:g} to {high:g} (data.scale)"


def advice(values: Array, scale: Scale) -> str:
    """Return the end of a message, with the `data.scale` that probably fits all values; empty if none does."""
    finite = values[np.isfinite(values)]
    if scale is not None or not finite.size:
        return ""
    low, high = float(finite.min()), float(finite.max())
    if values.dtype == np.int8 and low < 0:
        return "; int8 holds values up to 127, so brighter pixels became negative: save them as uint8"
    known = [(0, 1), (-1, 1), (0, TWELVE_BITS), (0, SIXTEEN_BITS)]
    white = next(((b, w) for b, w in known if b <= low and high <= w and (w > 1 or high > 0)), None)
    if white is None or 1 < high <= 255:
        return ""
    declared = f"{white[1]}" if white[0] == 0 else f"[{white[0]},{white[1]}]"
    replaced = _replacement(values.size - finite.size)
    span = f"the values range from {low:g} to {high:g}"
    return f"; {span}: {replaced}data.scale={declared} declares {white[1]} as white"


def _replacement(count: int) -> str:
    """Return the start of advice on an array with this number of values that are not finite."""
    if not count:
        return ""
    return f"replace the {count:,} value{'s that are' if count > 1 else ' that is'} not finite, and "


def dimness(brightest: int) -> str:
    """Return a remark if no pixel of a set is bright; empty if one is."""
    if not 1 < brightest <= _DIM:
        return ""
    return f"no pixel is brighter than {brightest} of 255; data.scale={brightest} makes this value white"


def refuse_zeros_and_ones(brightest: int, place: str) -> None:
    """Raise `RequestError` if a set has only the values 0 and 1, which are almost black if white is 255."""
    if brightest == 1:
        raise RequestError(
            f"{place}: its pixels are 0 and 1; data.scale=1 declares 1 as white, data.scale=255 as almost black"
        )


def as_images(array: Array, place: str, shape: Shape | None) -> tuple[Array, str]:
    """Return images as (images, height, width, channels), and a note if their original layout was different.

    Arrays without a channel axis, with channels first, or with one row of pixels per image are also recognized.

    Args:
        array: The array.
        place: Its name in a message.
        shape: The declared height, width and channels; None if they are unknown.

    Raises:
        RequestError: It is not an array of images.
    """
    sizes = array.shape[1:]
    if 0 in sizes:
        raise RequestError(f"{place}: expected images of at least one pixel, found {described(array)}")
    if array.ndim == 2:
        row = shape or square(sizes[0])
        if row is not None and math.prod(row) == sizes[0]:
            return array.reshape(-1, *row), f"{place}: rows of {sizes[0]} pixels, read as {format_shape(row)}"
    if array.ndim == 3:
        return array[..., np.newaxis], ""
    if array.ndim == 4 and sizes[2] not in _CHANNELS and sizes[0] in _CHANNELS:
        moved = np.moveaxis(array, 1, 3)
        return (
            moved,
            f"{place}: {format_shape(sizes)} has its channels first, read as {format_shape(moved.shape[1:])}",
        )
    if array.ndim == 4 and sizes[2] in _CHANNELS:
        return array, ""
    if array.ndim == 4:
        raise RequestError(
            f"{place}: expected images with 1 (grey) or 3 (colour) channels, found {described(array)}"
            f"{_advise_on_alpha(sizes, place.rpartition(' ')[2])}"
        )
    raise RequestError(
        f"{place}: expected (images, height, width) or (images, height, width, channels), found {described(array)}"
    )


def _advise_on_alpha(sizes: tuple[int, ...], name: str) -> str:
    """Return how to remove the alpha channel of images with the given sizes; empty if they seem to have none."""
    if not name.isidentifier():  # a file, not an array
        return ""
    if sizes[2] in _WITH_ALPHA:
        return f"; {name}[..., :{sizes[2] - 1}] removes an alpha channel"
    if sizes[0] in _WITH_ALPHA:
        return f"; {name}[:, :{sizes[0] - 1}] removes an alpha channel"
    return ""


def stored_shape(shape: Shape, swaps: bool) -> Shape:
    """Return the shape of images in their file; with `swaps`, rows and columns are exchanged in reading."""
    return (shape[1], shape[0], shape[2]) if swaps else shape


def square(pixels: int) -> Shape | None:
    """Return the shape of a square image with this many values, grey or RGB; None if there is none."""
    for channels in (1, 3):
        side = math.isqrt(max(pixels, 0) // channels)
        if side and side * side * channels == pixels:
            return side, side, channels
    return None


def described(array: Array) -> str:
    """Describe an array in a message."""
    return f"{array.dtype} of shape ({', '.join(map(str, array.shape))})"
