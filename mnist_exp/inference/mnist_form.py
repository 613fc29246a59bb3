"""Convert a photograph or scan of digits to MNIST style.

http://yann.lecun.com/exdb/mnist/ describes this style: the digit is light on dark, fits a box of 20×20 pixels with
its proportions preserved, and has its centre of mass at the centre of 28×28 pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage

from mnist_exp.data.dataset import Images
from mnist_exp.inference.digit_finder import Box, Digit, Grey, find_digits

_BOX = 20 / 28  # the digit's size, as a share of the image's shorter side
_THINNEST = 2.0  # pixels: minimum stroke width in the result; thinner strokes would be pale
_SLANTS = (-0.6, 0.33)  # bounds for 93 % of MNIST's digits, to the right and left: more slant is reduced to them
# Of 6,000 of MNIST's digits, at most one in 1,000 exceeds each of these bounds.
_FEWEST = 12  # pixels
_WIDEST = 1.7  # times as wide as high
_MOST_PIECES = 3
_FILL = (0.035, 0.3)  # share of ink
_INK = 0.2  # of full ink: anything fainter is a stroke's blurred edge


@dataclass(frozen=True)
class Reading:
    """An image as it is given to the model, and its place in the picture."""

    image: Images
    """The image, (height, width, channels), uint8."""
    box: Box | None = None
    """The digit's place in the upright picture, in pixels: left, top, right, bottom; None for a whole picture."""
    warning: str = ""
    """Why the image might not show exactly one digit; empty if it seems to."""


def read_digits(picture: Image.Image, height: int, width: int, *, many: bool = False) -> list[Reading]:
    """Find the digits in a grey picture (mode L) and convert them to MNIST style.

    A digit may be dark on light or light on dark, and the background unevenly lit.

    Returns:
        With `many`, all digits in reading order; otherwise the one with the most ink. Empty for a blank picture.
    """
    digits = find_digits(picture)
    chosen = digits if many else sorted(digits, key=lambda digit: -digit.ink.sum())[:1]
    readings = []
    for digit in chosen:
        image = render(digit, height, width)
        count = 1 if many else len(digits)
        warning = f"{count} digits found; predict.many=true reads them all" if count > 1 else _doubt(digit, image)
        readings.append(Reading(image, digit.box, warning))
    return readings


def _doubt(digit: Digit, image: Images) -> str:
    """Describe how a digit differs from nearly all of MNIST's; empty if it does not."""
    height, width = digit.ink.shape
    left, top, right, bottom = digit.box
    if max(right - left, bottom - top) < _FEWEST:
        return f"only {max(right - left, bottom - top)} pixels large"
    if width > _WIDEST * height:
        return "wider than a digit"
    if digit.pieces > _MOST_PIECES:
        return f"in {digit.pieces} pieces"
    share = float(image.mean()) / 255
    least, most = _FILL
    return "" if least <= share <= most else f"{'little' if share < least else 'much'} ink for a digit"


def render(digit: Digit, height: int, width: int) -> Images:
    """Return a digit in MNIST style, (height, width, 1), uint8."""
    ink = _upright(_thickened(digit))
    rows, columns = (np.flatnonzero((ink > _INK).any(axis=axis)) for axis in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    box = _BOX * min(height, width)
    scale = box / max(ink.shape)
    size = tuple(max(1, round(scale * side)) for side in ink.shape)
    small = np.asarray(Image.fromarray(ink).resize(size[::-1], Image.Resampling.BILINEAR))
    small = np.clip(small / small.max(), 0, 1)
    paper = np.zeros((height, width, 1), np.uint8)
    top, left = (
        int(np.clip(round(whole / 2 - centre), 0, whole - side))
        for whole, centre, side in zip((height, width), ndimage.center_of_mass(small), small.shape, strict=True)
    )
    paper[top : top + size[0], left : left + size[1], 0] = np.rint(255 * small)
    return paper


def _thickened(digit: Digit) -> Grey:
    """Thicken strokes that would be too thin to see at the size of the result."""
    missing = round(_THINNEST * max(digit.ink.shape) / 20 - digit.stroke)
    if missing <= 0:
        return digit.ink
    thick: Grey = ndimage.maximum_filter(np.pad(digit.ink, missing), missing + 1)
    return thick


def _upright(ink: Grey) -> Grey:
    """Shear a digit that is slanted more than MNIST's are, as in a turned photograph."""
    y, x = np.mgrid[: ink.shape[0], : ink.shape[1]].astype(np.float32)
    y -= np.average(y, weights=ink)
    x -= np.average(x, weights=ink)
    spread = float((y * y * ink).sum())
    slant = float((x * y * ink).sum()) / spread if spread else 0
    excess = slant - float(np.clip(slant, *_SLANTS))
    if abs(excess) < 0.02:
        return ink
    margin = math.ceil(abs(excess) * ink.shape[0])
    size = (ink.shape[1] + 2 * margin, ink.shape[0])
    matrix = np.array([[1, excess, -margin - excess * ink.shape[0] / 2], [0, 1, 0]])
    sheared: Grey = cv2.warpAffine(ink, matrix, size, flags=cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR)
    return sheared
