"""Photographs of handwritten digits in the surroundings of daily life, made from MNIST's digits.

Each surrounding is a function of a digit and a random generator. Picture `number` of a surrounding is always the
same: `photograph` seeds its generator with `SEED`, the surrounding's place in the list and the number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

SEED = 20261128
Pixels = npt.NDArray[Any]
Rng = np.random.Generator


def photograph(name: str, digit: Pixels, number: int) -> Image.Image:
    """Return a colour picture of a digit (28×28, light on dark) in a surrounding."""
    rng = np.random.default_rng([SEED, list(SURROUNDINGS).index(name), number])
    pixels = SURROUNDINGS[name](digit, rng)
    noisy = pixels + rng.normal(0, 3, pixels.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _coverage(digit: Pixels, size: int) -> Pixels:
    """Return how much of each pixel of a square the enlarged strokes cover, 0…1."""
    large = Image.fromarray(digit).resize((size, size), Image.Resampling.LANCZOS)
    smooth = large.filter(ImageFilter.GaussianBlur(size / 100))
    return np.clip((np.asarray(smooth, float) - 90) / 60, 0, 1)


def _placed(digit: Pixels, size: int, shape: tuple[int, int], rng: Rng, spread: float = 0.5) -> Pixels:
    """Return the coverage of a digit near the middle of a larger picture."""
    whole = np.zeros(shape)
    top, left = ((side - size) / 2 * (1 + spread * rng.uniform(-1, 1)) for side in shape)
    whole[int(top) : int(top) + size, int(left) : int(left) + size] = _coverage(digit, size)
    return whole


def _plain(shape: tuple[int, int], colour: tuple[int, ...] = (226, 224, 218)) -> Pixels:
    return np.tile(np.array(colour, float), (*shape, 1))


def _drawn(paper: Pixels, cover: Pixels, colour: tuple[int, ...]) -> Pixels:
    """Lay a colour over a picture where `cover` is 1."""
    return paper * (1 - cover[..., np.newaxis]) + np.array(colour, float) * cover[..., np.newaxis]


def _clouds(shape: tuple[int, int], scale: float, rng: Rng) -> Pixels:
    """Return smooth random values with mean 0 and deviation 1 that vary over `scale` pixels."""
    step = max(1, int(scale // 4))
    small = ndimage.gaussian_filter(rng.normal(size=(shape[0] // step + 2, shape[1] // step + 2)), scale / step)
    large = ndimage.zoom(small, step, order=1)[: shape[0], : shape[1]]
    return (large - large.mean()) / large.std()


def _table(shape: tuple[int, int], rng: Rng) -> Pixels:
    """Return a table of dark wood with a grain."""
    grain = ndimage.gaussian_filter(rng.normal(size=shape), (1.5, 40))
    grain *= 12 / grain.std()
    return np.array([112, 82, 58.0]) + grain[..., np.newaxis]


def _warped(pixels: Pixels, matrix: Pixels, size: tuple[int, int], fill: int = 0) -> Pixels:
    """Transform channels by the homography from the result's (x, y) to the source's."""
    coefficients = (matrix / matrix[2, 2]).ravel()[:8]
    channels = [
        np.asarray(
            Image.fromarray(channel.astype(np.float32)).transform(
                size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR, fillcolor=fill
            )
        )
        for channel in np.moveaxis(pixels, -1, 0)
    ]
    return np.stack(channels, axis=-1)


def _turn(degrees: float, size: tuple[int, int], source: tuple[int, int]) -> Pixels:
    """Return the homography of a rotation about the centres of two pictures, given their (width, height)."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.eye(3)
    matrix[:2, :2] = turn
    matrix[:2, 2] = np.array(source) / 2 - turn @ (np.array(size) / 2)
    return matrix


def glare(digit: Pixels, rng: Rng) -> Pixels:
    """A lamp is reflected by the paper, over a part of the digit."""
    shape = (640, 520)
    page = _drawn(_plain(shape, (186, 184, 178)), _placed(digit, 360, shape, rng), (40, 44, 60))
    y, x = np.mgrid[: shape[0], : shape[1]]
    centre, width = rng.uniform((200, 150), (440, 370)), rng.uniform(50, 80)
    light = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * width**2))
    return page + 110 * light[..., np.newaxis] * (page + 80) / 260


def hard_shadow(digit: Pixels, rng: Rng) -> Pixels:
    """The sharp shadow of a hand or a phone lies over half of the sheet."""
    shape = (600, 600)
    page = _drawn(_plain(shape), _placed(digit, 380, shape, rng), (36, 36, 44))
    y, x = np.mgrid[: shape[0], : shape[1]]
    angle = rng.uniform(0, 2 * np.pi)
    side = (x - 300) * np.cos(angle) + (y - 300) * np.sin(angle) + rng.uniform(-90, 90)
    side += 25 * np.sin((x * np.sin(angle) - y * np.cos(angle)) / 60)
    dark = 1 / (1 + np.exp(-side / rng.uniform(1, 3)))
    return page * (1 - rng.uniform(0.4, 0.6) * dark[..., np.newaxis])


def torn_sheet(digit: Pixels, rng: Rng) -> Pixels:
    """A scrap of paper with torn edges lies on a table."""
    shape = (620, 700)
    cover = _placed(digit, 280, shape, rng, 0.1)
    y, x = np.mgrid[: shape[0], : shape[1]]
    distance = np.maximum(np.abs(y - 310) / 215, np.abs(x - 350) / 235)
    distance += 0.04 * _clouds(shape, 25, rng) + 0.015 * _clouds(shape, 6, rng)
    paper = np.clip((1 - distance) * 60, 0, 1)
    rim = np.clip((1.03 - distance) * 60, 0, 1)  # torn fibres are lighter than the sheet
    scene = _drawn(_drawn(_table(shape, rng), rim, (240, 238, 234)), paper, (222, 218, 208))
    return _drawn(scene, cover * paper, (52, 52, 60))


def turned_sheet(digit: Pixels, rng: Rng) -> Pixels:
    """A sheet lies on a table, turned and casting a shadow; the digit is turned along with it."""
    source = (360, 470)
    page = _drawn(_plain(source[::-1], (232, 232, 228)), _placed(digit, 260, source[::-1], rng), (46, 50, 92))
    size = (760, 680)
    matrix = _turn(rng.choice([-1, 1]) * rng.uniform(8, 16), size, source)
    sheet = _warped(np.dstack([page, np.ones(page.shape[:2])]), matrix, size)
    shadow = ndimage.gaussian_filter(np.roll(sheet[..., 3], (9, 7), (0, 1)), 4)
    table = _table(size[::-1], rng) * (1 - 0.5 * shadow[..., np.newaxis])
    inside = sheet[..., 3:]
    return table * (1 - inside) + sheet[..., :3]


def ruled_perspective(digit: Pixels, rng: Rng) -> Pixels:
    """Ruled paper is seen at an angle: its lines converge, and are thicker in front."""
    shape = (620, 620)
    page = _plain(shape, (228, 227, 220))
    step, first = rng.integers(48, 66), rng.integers(0, 40)
    for row in range(first, shape[0], step):
        page[row : row + 3] = (120, 140, 190)
    page = _drawn(page, _placed(digit, 330, shape, rng, 0.2), (38, 38, 48))
    lean, tilt = rng.uniform(-0.25, 0.25), rng.uniform(0.3, 0.5) * rng.choice([-1, 1])
    matrix = np.eye(3)
    matrix[0, 1], matrix[2, 0] = lean * 0.3, tilt / 620
    matrix[1, 0] = rng.uniform(-0.06, 0.06)
    middle = np.array([310, 310, 1.0])
    there = matrix @ middle
    back = np.eye(3)
    back[:2, 2] = middle[:2] - there[:2] / there[2]
    return _warped(page, back @ matrix, (620, 620), 210)[40:580, 70:550]


def finger(digit: Pixels, rng: Rng) -> Pixels:
    """A finger holds the sheet at its edge."""
    shape = (600, 540)
    page = _drawn(_plain(shape), _placed(digit, 330, shape, rng, 0.2), (30, 32, 40))
    canvas = Image.new("L", shape[::-1])
    width, length = int(rng.integers(70, 100)), int(rng.integers(50, 85))
    at = int(rng.integers(120, 380))
    ImageDraw.Draw(canvas).rounded_rectangle((at - width // 2, -60, at + width // 2, length), width // 2, fill=255)
    mask = np.rot90(np.asarray(canvas.filter(ImageFilter.GaussianBlur(2)), float) / 255, 2 * rng.integers(0, 2))
    return _drawn(page, mask, (198, 142, 118))


def two_pens(digit: Pixels, rng: Rng) -> Pixels:
    """The pen failed halfway: the upper part is pale blue ink, the lower one black."""
    shape = (500, 500)
    cover = _placed(digit, 340, shape, rng)
    rows = np.flatnonzero(cover.any(axis=1))
    border = np.interp(rng.uniform(0.35, 0.65), (0, 1), (rows[0], rows[-1]))
    upper = (np.arange(shape[0]) < border)[:, np.newaxis] * cover
    return _drawn(_drawn(_plain(shape), upper, (128, 146, 205)), cover - upper, (26, 26, 30))


def exercise_book(digit: Pixels, rng: Rng) -> Pixels:
    """Squared paper with a red margin line, slightly turned."""
    shape = (700, 700)
    page, step = _plain(shape, (236, 236, 230)), int(rng.integers(34, 48))
    for place in range(int(rng.integers(0, step)), shape[0], step):
        page[place : place + 2] = page[:, place : place + 2] = (150, 168, 205)
    margin = int(rng.integers(110, 140))
    page[:, margin : margin + 3] = (214, 110, 110)
    page = _drawn(page, _placed(digit, 340, shape, rng, 0.15), (30, 40, 120))
    matrix = _turn(rng.uniform(-4, 4), (600, 600), shape)
    return _warped(page, matrix, (600, 600), 230)


def coffee_ring(digit: Pixels, rng: Rng) -> Pixels:
    """A creased sheet with the stain of a cup that overlaps the digit."""
    shape = (560, 640)
    page = _plain(shape, (230, 226, 214))
    y, x = np.mgrid[: shape[0], : shape[1]]
    centre, radius = rng.uniform((180, 200), (380, 440)), rng.uniform(130, 190)
    distance = np.hypot(y - centre[0], x - centre[1]) - radius
    stain = 0.28 * np.exp(-((distance / 5) ** 2)) + 0.06 * (distance < 0)
    page = _drawn(page, stain * (1 + 0.2 * np.clip(_clouds(shape, 30, rng), -2, 2)), (120, 78, 40))
    fold = x - rng.uniform(150, 490) + (y - 280) * rng.uniform(-0.1, 0.1)
    page *= (1 + 0.12 * np.tanh(fold / 3) * np.exp(-np.abs(fold) / 60))[..., np.newaxis]
    return _drawn(page, _placed(digit, 350, shape, rng, 0.3), (44, 44, 52))


def whiteboard(digit: Pixels, rng: Rng) -> Pixels:
    """A marker on a whiteboard with its frame, badly wiped, under uneven light."""
    shape = (600, 760)
    page = _plain(shape, (214, 218, 222)) + 3 * _clouds(shape, 50, rng)[..., np.newaxis]
    smear = np.clip(_clouds(shape, 18, rng) - 1, 0, 1) * np.clip(_clouds(shape, 90, rng), 0, 1)
    page = _drawn(page, 0.08 * smear, (90, 100, 160))
    page = _drawn(page, _placed(digit, 340, shape, rng, 0.3), (24, 92, 70))
    y, x = np.mgrid[: shape[0], : shape[1]]
    page *= (1 - 0.35 * np.hypot(y / shape[0] - rng.uniform(), x / shape[1] - rng.uniform()))[..., np.newaxis]
    page[: int(rng.integers(14, 26))] = (92, 94, 98)
    page[:, -int(rng.integers(14, 26)) :] = (120, 122, 126)
    return page


def plain_sheet(digit: Pixels, rng: Rng) -> Pixels:
    """A clean sheet, evenly lit."""
    return _drawn(_plain((400, 400)), _placed(digit, 260, (400, 400), rng, 0.3), (36, 36, 44))


SURROUNDINGS: dict[str, Callable[[Pixels, Rng], Pixels]] = {
    make.__name__: make
    for make in (
        glare, hard_shadow, torn_sheet, turned_sheet, ruled_perspective,
        finger, two_pens, exercise_book, coffee_ring, whiteboard,
        plain_sheet,
    )
}  # fmt: skip
