"""Convert a photograph or scan of a single digit to the form of MNIST's images.

http://yann.lecun.com/exdb/mnist/ describes the form: the digit is light on dark, fits a box of 20×20 pixels with
its proportions preserved, and has its centre of mass at the centre of 28×28 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from mnist_exp.data.dataset import Images

Grey = npt.NDArray[np.float32]

_BOX = 20 / 28  # the digit's size, as a share of the image's shorter side
LARGE = 512
"""Maximum length of the longer side, in pixels: larger pictures are reduced to it."""
_NOISY = 128  # pixels: in larger pictures, single pixels are noise rather than strokes
_FAINTEST = 20  # of 255: blank paper varies by less
_SPECK = 0.03  # of the largest stroke's area: anything up to this is dropped
_THINNEST = 2.0  # pixels: minimum stroke width in the result; thinner strokes would be pale
_INK = 0.2  # of full ink: anything fainter is a stroke's blurred edge
_SHORTEST = LARGE // 16  # pixels: the length of a stroke in a picture that was reduced
_EIGHT = np.ones((3, 3), bool)  # 8-connectivity: pixels that touch at a corner are connected


def normalize(picture: Image.Image, height: int, width: int) -> Images | None:
    """Convert a grey picture (mode L) of a digit to MNIST's form, (height, width, 1), uint8.

    The digit may be dark on light or light on dark, and the background unevenly lit. Returns None for a blank
    picture.
    """
    ink = next(
        (ink for ink in map(_strokes, _reduced(picture)) if ink is not None and _has_line(ink, picture)), None
    )
    if ink is None:
        return None
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


def _reduced(picture: Image.Image) -> Iterator[Grey]:
    """Yield a large picture reduced to `LARGE`: by means, then by the darkest and the lightest pixels of blocks.

    Means are less noisy, but a stroke that is much thinner than a block is lost in them.
    """
    if max(picture.size) <= LARGE:
        yield np.asarray(picture, np.float32)
        return
    small = picture.copy()
    small.thumbnail((LARGE, LARGE), Image.Resampling.BOX, reducing_gap=None)
    yield np.asarray(small, np.float32)
    side = math.ceil(max(picture.size) / LARGE)
    whole = np.asarray(picture)
    whole = np.pad(whole, [(0, -length % side) for length in whole.shape], "edge")
    blocks = whole.reshape(whole.shape[0] // side, side, -1, side)
    for extreme in (np.min, np.max):
        yield extreme(blocks, axis=(1, 3)).astype(np.float32)


def _has_line(ink: Grey, picture: Image.Image) -> bool:
    """Whether a stroke of a large picture is long enough not to be dust, which blocks' extremes enlarge."""
    if max(picture.size) <= LARGE:
        return True
    strokes = ndimage.find_objects(ndimage.label(ink > _INK, _EIGHT)[0])
    return any(side.stop - side.start >= _SHORTEST for stroke in strokes for side in stroke)


def _strokes(grey: Grey) -> Grey | None:
    """Return how much of each pixel the digit covers, 0…1, or None for a blank picture."""
    if min(grey.shape) < 3:
        return None
    if max(grey.shape) > _NOISY:
        # A stroke's pixels, however thin, have two others of it around them; a noisy pixel rarely has.
        grey = np.clip(grey, *(ndimage.rank_filter(grey, rank, 3, mode="mirror") for rank in (2, -3)))
    edge = _edge(grey.shape)
    relative = grey - _plane(grey, edge)
    if relative.max() < -relative.min():
        relative = -relative
    # Keep bright details smaller than half the picture: lighting varies on a larger scale.
    above = relative - ndimage.grey_opening(relative, max(grey.shape) // 2 + 1)
    level = float(np.median(above[edge]))
    noise = 1.4826 * float(np.median(np.abs(above[edge] - level)))
    above = np.maximum(above - level, 0)
    top = float(above.max())
    if top < max(_FAINTEST, 6 * noise):
        return None
    kept = _digit(above > max(0.2 * top, 4 * noise), above > 0.5 * top)
    full = float(np.median(above[kept & (above > 0.5 * top)]))
    lowest = min(3 * noise, 0.2 * full)
    ink = np.clip((above - lowest) / (full - lowest), 0, 1) * ndimage.binary_dilation(kept, _EIGHT)
    return _thickened(ink, kept)


def _edge(shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Return a mask of the picture's border, 1/16 of its shorter side wide."""
    width = max(1, min(shape) // 16)
    edge = np.ones(shape, bool)
    edge[width:-width, width:-width] = False
    return edge


def _plane(grey: Grey, edge: npt.NDArray[np.bool_]) -> Grey:
    """Fit a plane to the values at the edge, ignoring outliers."""
    y, x = np.nonzero(edge)
    places, values = np.stack([np.ones(len(x)), x, y], axis=-1), grey[edge]
    far = np.abs(values - np.median(values))
    for _ in range(4):
        near = far <= max(3 * float(np.median(far)), 8)
        found = np.linalg.lstsq(places[near], values[near], rcond=None)[0]
        far = np.abs(values - places @ found)
    level, along, down = found.astype(np.float32)
    plane: Grey = level + along * np.arange(grey.shape[1]) + down * np.arange(grey.shape[0])[:, np.newaxis]
    return plane


def _digit(mask: npt.NDArray[np.bool_], core: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the strokes of `mask` that belong to the digit: no specks, paper edges or strokes without `core`."""
    labels, count = ndimage.label(mask, _EIGHT)
    numbers = np.arange(count + 1)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    areas[~np.isin(numbers, labels[core])] = 0
    # Strokes along the picture's edge are not part of the digit, unless there is little else.
    along = np.zeros(count + 1, int)
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        along = np.maximum(along, np.bincount(side, minlength=count + 1))
    inside = np.where(along > min(mask.shape) / 4, 0, areas)
    if inside.max() >= 0.1 * areas.max():
        areas = inside
    return np.isin(labels, numbers[areas > _SPECK * areas.max()])


def _thickened(ink: Grey, kept: npt.NDArray[np.bool_]) -> Grey:
    """Thicken strokes that would be too thin to see at the size of the result."""
    rows, columns = (np.flatnonzero(kept.any(axis=axis)) for axis in (1, 0))
    size = max(np.ptp(rows), np.ptp(columns)) + 1
    strokes = np.pad(kept[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    width = 2 * float(np.percentile(ndimage.distance_transform_edt(strokes)[strokes], 90)) - 1
    missing = round(_THINNEST * size / 20 - width)
    return ndimage.maximum_filter(ink, missing + 1) if missing > 0 else ink
