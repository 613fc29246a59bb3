"""Find the digits in a photograph or scan: on a sheet of any kind, in any light.

The picture is reduced to at most `LARGE` pixels on its longer side. Ink is whatever is darker (or lighter) than
the paper around it, relative to the paper's brightness, so that shadows and glare make little difference. Ruled
lines, frames, specks and everything around the sheet are removed; the remaining connected pieces are grouped into
digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

Grey = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]  # 0 or 1
Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; right and bottom are exclusive."""

LARGE = 512
"""Maximum length of the longer side, in pixels: larger pictures are reduced to it."""
_SMALL = 128  # pixels: in larger pictures, single pixels are noise rather than strokes
# Widths of the areas that are searched for paper, as shares of the longer side.
_NEIGHBOURHOODS = (1 / 10, 1 / 6, 1 / 4, 1 / 2)
_STROKES = 2.2  # a neighbourhood must be at least this many times as wide as a stroke
_FAINTEST = 0.08  # contrast with the paper: blank paper varies by less
_PALE = 0.3  # minimum contrast of ink, as a share of the strongest
_BLURRED = 0.2  # the same minimum in small pictures, whose strokes are blurred
_SPECK = 0.03  # share of the largest piece's area: smaller pieces are dropped
_SHORTEST = LARGE // 50  # pixels: in a reduced picture, a digit must be longer than this
_MEASURED = 12  # lines, at least: their median width is that of all lines
_DETAIL = 100  # pixels: a smaller digit is read again from the unreduced picture


@dataclass(frozen=True)
class Digit:
    """A digit in a picture."""

    ink: Grey
    """The share of each pixel in the box that is covered with ink, 0…1, shape (height, width)."""
    box: Box
    """Its place in the picture."""
    pieces: int
    """The number of its unconnected pieces."""
    stroke: float
    """The width of its strokes, in pixels of `ink`."""
    at_edge: bool
    """Whether it reaches the edge of the picture or sheet."""


def find_digits(picture: Image.Image) -> list[Digit]:
    """Find the digits in a grey picture (mode L), in reading order: by lines, then from left to right."""
    whole = np.asarray(picture)
    if min(whole.shape) < 3:
        return []
    for reduced in _reduced(whole):
        scale = max(whole.shape) / max(reduced.shape)
        found = [digit for digit in _digits(reduced) if scale == 1 or max(digit.ink.shape) > _SHORTEST]
        if found:
            return _in_reading_order([_enlarged(digit, whole, scale) for digit in found])
    return []


def _reduced(whole: Mask) -> Iterator[Mask]:
    """Yield a large picture reduced to `LARGE`: to the mean, the darkest and the lightest pixel of each block.

    Means are less noisy, but they lose strokes that are much thinner than a block. A small picture is yielded
    unchanged.
    """
    longest = max(whole.shape)
    if longest <= LARGE:
        yield whole
        return
    height, width = (max(3, round(side * LARGE / longest)) for side in whole.shape)
    yield cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    block = np.ones((math.ceil(longest / LARGE),) * 2, np.uint8)
    for extreme in (cv2.erode, cv2.dilate):
        yield cv2.resize(extreme(whole, block), (width, height), interpolation=cv2.INTER_NEAREST)


def _enlarged(digit: Digit, whole: Mask, scale: float) -> Digit:
    """Return the digit with its box in the unreduced picture; a small digit is also read again from there."""
    left, top, right, bottom = (round(scale * side) for side in digit.box)
    placed = replace(digit, box=(left, top, right, bottom))
    if scale < 1.2 or max(digit.ink.shape) >= _DETAIL:
        return placed
    size = max(right - left, bottom - top)
    x, y = max(0, left - size // 2), max(0, top - size // 2)
    around = whole[y : bottom + size // 2, x : right + size // 2]
    found = [replace(one, box=_shifted(one.box, x, y)) for one in _digits_on(around, np.ones_like(around))]
    same = [one for one in found if 0.7 * size < max(one.ink.shape) < 1.4 * size]
    return same[0] if len(same) == 1 else placed


def _digits(grey: Mask) -> list[Digit]:
    """Find the digits in a picture of moderate size: on a sheet of paper if it shows one, or else anywhere."""
    if max(grey.shape) <= _SMALL:
        return _digits_on(grey, np.ones_like(grey))
    grey = _without_dust(grey)
    sheet = _sheet(grey)
    if sheet is not None:
        left, top, width, height = cv2.boundingRect(sheet)
        within = np.s_[top : top + height, left : left + width]
        inside = sheet[within] > 0
        level = int(np.median(grey[within][inside]))
        page = np.where(inside, grey[within], np.uint8(level))
        found = _digits_on(page, sheet[within])
        # A solid shape is the inside of a digit, not a digit.
        if found and not any(digit.at_edge or digit.stroke > 0.35 * max(digit.ink.shape) for digit in found):
            return [replace(digit, box=_shifted(digit.box, left, top)) for digit in found]
    return _digits_on(grey, np.ones_like(grey))


def _sheet(grey: Mask) -> Mask | None:
    """Return a mask of the sheet of paper that lies on another surface; None if there is none."""
    soft = cv2.GaussianBlur(grey, (0, 0), max(grey.shape) / 100)
    _, light = cv2.threshold(soft, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    for mask in (light, 1 - light):
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        if not outlines:
            return None
        outline = max(outlines, key=cv2.contourArea)
        left, top, width, height = cv2.boundingRect(outline)
        right, bottom = left + width >= grey.shape[1], top + height >= grey.shape[0]
        area, hull = cv2.contourArea(outline), cv2.contourArea(cv2.convexHull(outline))
        _, (long, short), _ = cv2.minAreaRect(outline)
        is_solid = area > 0.85 * hull and area > 0.79 * long * short  # an ellipse has 0.785
        filled = cv2.drawContours(np.zeros_like(grey), [outline], -1, 1, cv2.FILLED)
        plain = np.count_nonzero(mask & filled) > 0.75 * np.count_nonzero(filled)
        if 0.08 * grey.size < area and is_solid and plain and (left == 0) + (top == 0) + right + bottom <= 2:
            margin = max(3, max(grey.shape) // 60) | 1
            sheet: Mask = cv2.erode(filled, np.ones((margin, margin), np.uint8))
            return sheet
    return None


def _shifted(box: Box, right: int, down: int) -> Box:
    return box[0] + right, box[1] + down, box[2] + right, box[3] + down


def _digits_on(grey: Mask, page: Mask) -> list[Digit]:
    """Find the digits on a page of a picture."""
    is_small = max(grey.shape) <= _SMALL
    darker = [level - grey for level in (_plane(grey), _usual(grey))]
    pale, most, shares = (_BLURRED, 1.0, _NEIGHBOURHOODS[-1:]) if is_small else (_PALE, 0.7, _NEIGHBOURHOODS)
    for share in shares:
        size = int(share * max(grey.shape)) | 1
        contrast, noise, paper = _contrast(grey, size, darker)
        contrast *= page
        top = float(contrast.max())
        if top < max(_FAINTEST, 6 * noise):
            continue
        mask = (contrast > max(pale * top, 4 * noise)).astype(np.uint8)
        if mask.mean() > most:
            continue  # noise
        pieces = _pieces(_without_lines(mask, paper & page), contrast, top) or _pieces(mask, contrast, top)
        if pieces and (share == _NEIGHBOURHOODS[-1] or _is_whole(pieces[0], grey, size)):
            return [_digit(group, contrast, noise, page) for group in _grouped(pieces)]
    return []


def _is_whole(piece: _Piece, grey: Mask, size: int) -> bool:
    """Return whether a neighbourhood is large enough for a piece, so that its strokes are not cut off."""
    if _STROKES * piece.stroke > size:
        return False
    left, top, right, bottom = piece.box
    x, y = max(0, left - 4), max(0, top - 4)
    grown = np.zeros((bottom - y + 4, right - x + 4), np.uint8)
    grown[top - y : bottom - y, left - x : right - x] = piece.mask
    around = grey[y : bottom + 4, x : right + 4].astype(np.float32)
    grown = grown[: around.shape[0], : around.shape[1]]
    ring = cv2.dilate(grown, np.ones((7, 7), np.uint8)) - cv2.dilate(grown, np.ones((3, 3), np.uint8))
    ink, paper = float(np.median(around[grown > 0])), float(np.median(around[ring > 0]))
    return float(np.mean(np.abs(around[ring > 0] - ink) < 0.4 * abs(paper - ink))) < 0.15


def _without_dust(grey: Mask) -> Mask:
    """Replace pixels that are darker or lighter than all but one of their neighbours.

    Even in a thin stroke, each pixel is next to two others of the stroke; a noisy pixel rarely is.
    """
    bordered = cv2.copyMakeBorder(grey, 1, 1, 1, 1, cv2.BORDER_REFLECT_101)
    height, width = grey.shape
    dark = [np.full_like(grey, 255) for _ in range(3)]
    light = [np.zeros_like(grey) for _ in range(3)]
    for y in range(3):
        for x in range(3):
            shifted = np.ascontiguousarray(bordered[y : y + height, x : x + width])
            for kept, nearer, farther in ((dark, cv2.min, cv2.max), (light, cv2.max, cv2.min)):
                kept[2] = nearer(kept[2], farther(kept[1], shifted))
                kept[1] = nearer(kept[1], farther(kept[0], shifted))
                kept[0] = nearer(kept[0], shifted)
    clean: Mask = cv2.min(cv2.max(grey, dark[2]), light[2])
    return clean


def _contrast(grey: Mask, size: int, darker: Sequence[Grey]) -> tuple[Grey, float, Mask]:
    """Return the ink's contrast with the paper in its neighbourhood, the noise, and a mask of the paper.

    The contrast is relative to the paper's brightness, because shadows darken ink and paper alike. `darker` holds
    how much darker than usual each pixel is, by two measures.
    """
    best: tuple[float, Mask, Mask] | None = None
    for picture, sign in ((grey, 1), (255 - grey, -1)):
        paper: Mask = cv2.morphologyEx(picture, cv2.MORPH_CLOSE, np.ones((size, size), np.uint8))
        ink = paper - picture
        depth = ink.astype(np.float32)
        # Areas inside strokes stand out only from their neighbourhood, shadows only from the whole picture.
        stands_out = [float(cv2.min(depth, sign * by).max()) for by in darker]
        seen = sum(stands_out) if stands_out[0] > 255 * _FAINTEST / 2 else 0  # uneven light is not ink
        if best is None or seen > best[0]:
            best = seen, ink, paper
    assert best is not None
    seen, ink, paper = best
    if not seen:
        return np.zeros(grey.shape, np.float32), 0.0, paper
    white = float(np.percentile(paper[::4, ::4], 95))
    contrast = ink / np.maximum(paper.astype(np.float32), 0.4 * white)
    tenth, quarter = np.percentile(contrast[::3, ::3], (10, 25))
    noise = float(quarter - tenth) / 0.607  # the standard deviation, if it is normally distributed
    level = float(quarter) + 0.674 * noise
    return np.maximum(contrast - level, 0), noise, (paper > 0.6 * white).astype(np.uint8)


def _usual(grey: Mask) -> Grey:
    """Return the median of each pixel's surroundings, a third of the picture in width and height."""
    size = 64
    small = cv2.medianBlur(cv2.resize(grey, (size, size), interpolation=cv2.INTER_AREA), size // 3 | 1)
    usual: Grey = cv2.resize(small, grey.shape[::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32)
    return usual


def _plane(grey: Mask) -> Grey:
    """Return a plane fitted to the values at the picture's edge, ignoring outliers."""
    step = max(1, max(grey.shape) // _SMALL)
    coarse = grey[::step, ::step]
    width = max(1, min(coarse.shape) // 16)
    edge = np.ones(coarse.shape, bool)
    edge[width:-width, width:-width] = False
    y, x = step * np.array(np.nonzero(edge))
    places, values = np.stack([np.ones(len(x)), x, y], axis=-1), grey[y, x].astype(float)
    far = np.abs(values - np.median(values))
    for _ in range(4):
        near = far <= max(3 * float(np.median(far)), 8)
        found = np.linalg.lstsq(places[near], values[near], rcond=None)[0]
        far = np.abs(values - places @ found)
    level, along, down = found.astype(np.float32)
    plane: Grey = np.tile(level + along * np.arange(grey.shape[1], dtype=np.float32), (grey.shape[0], 1))
    plane += down * np.arange(grey.shape[0], dtype=np.float32)[:, np.newaxis]
    return plane


# --- lines


def _without_lines(mask: Mask, paper: Mask) -> Mask:
    """Erase the straight lines across the sheet from a mask, but not the strokes that cross them."""
    longest, thickest = max(mask.shape), max(mask.shape) // 50
    if longest <= _SMALL:
        return mask
    lines = _find_lines(mask, paper, thickest)
    widths = [line.width(mask) for line in lines[:: max(1, len(lines) // _MEASURED)]]
    if not widths or (width := round(float(np.median(widths)))) > 2 * thickest:
        return mask
    drawn = np.zeros_like(mask)
    for line in lines:
        cv2.line(drawn, *line.ends, 1, width + 3)
    strokes = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((width + 3,) * 2, np.uint8))
    left = mask & ~(drawn & ~cv2.dilate(strokes, np.ones((3, 3), np.uint8)))
    crossing = cv2.morphologyEx(left, cv2.MORPH_CLOSE, np.ones((width + 5,) * 2, np.uint8))
    kept_ink: Mask = left | (mask & crossing)
    return kept_ink


def _find_lines(mask: Mask, paper: Mask, thickest: int) -> list[_Line]:
    """Return the straight lines across the paper that are inked throughout or, if several are parallel, mostly."""
    longest = max(mask.shape)
    # Shapes that a square fits into are too thick to be lines.
    thin = mask & ~cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((thickest + 2,) * 2, np.uint8))
    shortest = longest // 5
    found = cv2.HoughLinesP(thin, 2, np.pi / 180, shortest // 2, minLineLength=shortest, maxLineGap=longest // 8)
    distinct = {_rough(segment): segment for segment in (() if found is None else found.reshape(-1, 4)[:500])}
    lines = [_Line(segment, mask.shape) for segment in distinct.values()]
    covered = [line.covered(mask, paper) for line in lines]
    angles = np.array([line.angle for line in lines])
    kept = np.array([share > 0.5 for share in covered], bool)
    return [
        line
        for line, share in zip(lines, covered, strict=True)
        if share > 0.92 or (share > 0.5 and _parallel(line.angle, angles[kept]) >= 4)
    ]


def _parallel(angle: float, angles: npt.NDArray[np.float64]) -> int:
    return int(np.count_nonzero(np.abs(np.sin(angles - angle)) < 0.2))


def _rough(segment: npt.NDArray[np.int32]) -> tuple[int, int]:
    """Return a segment's direction and distance from the origin, in steps of 2° and 3 pixels."""
    x0, y0, x1, y1 = map(float, segment)
    angle = math.atan2(y1 - y0, x1 - x0) % math.pi
    return round(angle / math.pi * 90), round((x0 * math.sin(angle) - y0 * math.cos(angle)) / 3)


class _Line:
    """A straight line across a picture."""

    def __init__(self, segment: npt.NDArray[np.int32], shape: tuple[int, ...]) -> None:
        """Extend a segment to the picture's edges."""
        x0, y0, x1, y1 = map(float, segment)
        self.angle = math.atan2(y1 - y0, x1 - x0)
        self.along = math.cos(self.angle), math.sin(self.angle)
        first, last = -2.0 * max(shape), 2.0 * max(shape)
        for start, step, side in ((x0, self.along[0], shape[1] - 1), (y0, self.along[1], shape[0] - 1)):
            if abs(step) > 1e-9:
                near, far = sorted((-start / step, (side - start) / step))
                first, last = max(first, near), min(last, far)
        first, last = math.ceil(first), math.floor(last)
        self.samples = last - first + 1
        self.start, self.end = ((x0 + at * self.along[0], y0 + at * self.along[1]) for at in (first, last))

    @property
    def ends(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Its first and last pixel, (x, y)."""
        return (round(self.start[0]), round(self.start[1])), (round(self.end[0]), round(self.end[1]))

    def strip(self, mask: Mask, reach: int) -> Mask:
        """Return the pixels within `reach` of the line, shape (2·reach+1, samples)."""
        (cos, sin), (x, y) = self.along, self.start
        matrix = np.array([[cos, -sin, x + reach * sin], [sin, cos, y - reach * cos]])
        how = cv2.WARP_INVERSE_MAP | cv2.INTER_NEAREST
        strip: Mask = cv2.warpAffine(mask, matrix, (self.samples, 2 * reach + 1), flags=how)
        return strip

    def covered(self, mask: Mask, paper: Mask) -> float:
        """Return the inked share of the line's part on the paper; 0 if that part is short."""
        on_paper = self.strip(paper, 0)[0] > 0
        if on_paper.sum() < max(mask.shape) / 3:
            return 0
        inked = self.strip(mask, 2).max(axis=0)
        return float(inked[on_paper].mean())

    def width(self, mask: Mask) -> float:
        """Return the median width of the line, in pixels."""
        widths = self.strip(mask, max(mask.shape) // 40).sum(axis=0)
        return float(np.median(widths[widths > 0]))


# --- pieces


@dataclass(frozen=True)
class _Piece:
    """A connected piece of ink."""

    mask: Mask
    """The piece's pixels in its box."""
    box: Box
    area: int
    stroke: float
    """The width of its strokes."""
    contrast: float
    at_edge: bool

    @property
    def size(self) -> int:
        """The length of its longer side."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])


def _pieces(mask: Mask, contrast: Grey, top: float) -> list[_Piece]:
    """Return the pieces of a mask that may belong to a digit, the most likely one first."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    order = [number for number in np.argsort(-stats[:, cv2.CC_STAT_AREA])[:60] if number and number < count]
    pieces: list[_Piece] = []
    for number in order:
        left, upper, width, height, area = (int(value) for value in stats[number])
        box = (left, upper, left + width, upper + height)
        if pieces and area <= _SPECK * pieces[0].area:
            break
        within = np.s_[upper : upper + height, left : left + width]
        piece = (labels[within] == number).astype(np.uint8)
        values = contrast[within][piece > 0]
        if values.max() < 0.5 * top and len(values) > 1:
            continue
        full = float(np.median(values[values > 0.5 * values.max()]))
        edge = left == 0 or upper == 0 or box[2] == mask.shape[1] or box[3] == mask.shape[0]
        pieces.append(_Piece(piece, box, area, _stroke(piece), full, edge))
    return _likely(pieces, mask.shape)


def _likely(pieces: list[_Piece], shape: tuple[int, ...]) -> list[_Piece]:
    """Drop frames and pieces that reach into the picture from outside, unless little else remains."""
    inside = [piece for piece in pieces if not piece.at_edge]
    if inside and max(piece.area for piece in inside) >= 0.1 * max(piece.area for piece in pieces):
        pieces = inside
    framed = [piece for piece in pieces if not any(_encloses(piece, other) for other in pieces)]
    pieces = framed or pieces
    if not pieces:
        return []
    main = max(pieces, key=lambda piece: piece.area * piece.contrast)
    others = [
        piece
        for piece in pieces
        if piece is not main and piece.area > _SPECK * main.area and 0.4 < piece.stroke / main.stroke < 2.5
    ]
    return [main, *others]


def _encloses(frame: _Piece, other: _Piece) -> bool:
    """Return whether a piece is a rectangular frame around another."""
    outer, inner = frame.box, other.box
    around = outer[0] < inner[0] and outer[1] < inner[1] and outer[2] > inner[2] and outer[3] > inner[3]
    if not around or other.size < 0.3 * frame.size:
        return False
    points = np.argwhere(frame.mask)[:, ::-1].astype(np.int32)
    _, (long, short), _ = cv2.minAreaRect(points)
    return bool(cv2.contourArea(cv2.convexHull(points)) > 0.88 * long * short)


def _stroke(piece: Mask) -> float:
    """Return the width of a piece's strokes."""
    distance = cv2.distanceTransform(np.pad(piece, 1), cv2.DIST_L2, 3)
    return 2 * float(np.percentile(distance[distance > 0], 90)) - 1


def _grouped(pieces: list[_Piece]) -> list[list[_Piece]]:
    """Group pieces into digits, and drop groups that are much smaller than the largest."""
    tallest = max(piece.size for piece in pieces)
    groups = [[piece] for piece in pieces]
    joined = True
    while joined:
        joined = False
        for i in range(len(groups)):
            for j in range(i + 1, len(groups)):
                if not joined and _belong_together(_around(groups[i]), _around(groups[j]), tallest):
                    groups[i] += groups.pop(j)
                    joined = True
    sizes = [max(box[2] - box[0], box[3] - box[1]) for box in map(_around, groups)]
    return [group for group, size in zip(groups, sizes, strict=True) if size >= 0.4 * max(sizes)]


def _belong_together(one: Box, other: Box, tallest: int) -> bool:
    """Return whether two boxes belong to one digit: one lies above the other, or they nearly touch."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    narrower = min(one[2] - one[0], other[2] - other[0])
    wider = max(one[2] - one[0], other[2] - other[0])
    if across > 0.3 * narrower and wider < 1.2 * tallest:
        return -down < 0.25 * tallest
    return -across < 0.06 * tallest and -down < 0.06 * tallest


def _around(group: list[_Piece]) -> Box:
    left, top, right, bottom = zip(*(piece.box for piece in group), strict=True)
    return min(left), min(top), max(right), max(bottom)


def _digit(group: list[_Piece], contrast: Grey, noise: float, page: Mask) -> Digit:
    """Return the ink of a group of pieces with its blurred edges."""
    left, top, right, bottom = _around(group)
    x, y = max(0, left - 1), max(0, top - 1)
    right, bottom = min(contrast.shape[1], right + 1), min(contrast.shape[0], bottom + 1)
    kept = np.zeros((bottom - y, right - x), np.uint8)
    full = np.zeros(kept.shape, np.float32)
    for piece in group:
        within = np.s_[piece.box[1] - y : piece.box[3] - y, piece.box[0] - x : piece.box[2] - x]
        kept[within] |= piece.mask
        full[within] = np.where(piece.mask > 0, piece.contrast, full[within])
    around, stroke = contrast[y:bottom, x:right], max(piece.stroke for piece in group)
    near = np.ones((3, 3), np.uint8)
    full = cv2.dilate(full, near)
    if max(contrast.shape) > _SMALL:  # pens differ in how dark their ink is
        reach = np.ones((int(stroke) | 1,) * 2, np.uint8)
        full = np.minimum(full, cv2.blur(cv2.dilate(around * kept, reach), (3, 3)))
    lowest = np.minimum(3 * noise, 0.2 * full)
    spread = np.maximum(full - lowest, 1e-3)
    kept = cv2.dilate(kept, near)
    ink: Grey = np.clip((around - lowest) / spread, 0, 1) * kept
    at_edge = any(piece.at_edge for piece in group) or bool((kept & (1 - page[y:bottom, x:right])).any())
    return Digit(ink, (x, y, right, bottom), len(group), stroke, at_edge)


def _in_reading_order(digits: list[Digit]) -> list[Digit]:
    lines: list[list[Digit]] = []
    for digit in sorted(digits, key=lambda digit: digit.box[1] + digit.box[3]):
        middle = (digit.box[1] + digit.box[3]) / 2
        if lines and middle < max(other.box[3] for other in lines[-1]):
            lines[-1].append(digit)
        else:
            lines.append([digit])
    return [digit for line in lines for digit in sorted(line, key=lambda digit: digit.box[0])]
