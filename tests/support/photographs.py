"""Photographs and scans of digits, made from MNIST's: dark or light, large, off-centre, as JPEG."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[Any]


def larger(image: Pixels, times: int = 3) -> Pixels:
    height, width = image.shape
    return np.asarray(Image.fromarray(image).resize((width * times, height * times), Image.Resampling.BICUBIC))


def on_canvas(image: Pixels, size: int, rng: np.random.Generator) -> Pixels:
    """Place a digit at a random position on a larger dark canvas."""
    canvas = np.zeros((size, size), np.uint8)
    top, left = rng.integers(0, size - image.shape[0], 2)
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


def as_jpeg(image: Pixels, quality: int = 75) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def photographed(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Return grey ink on paper that is lit from one side and darker in the corners, with camera noise."""
    ink = on_canvas(larger(image, int(rng.integers(4, 8))), 320, rng) / 255
    y, x = np.mgrid[:320, :320] / 320
    light = 220 - 80 * x - 40 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)
    return as_jpeg(np.clip(light * (1 - 0.6 * ink) + rng.normal(0, 4, ink.shape), 0, 255).astype(np.uint8))


FORMS: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "inverted": lambda image, rng: 255 - image,
    "three times as large": lambda image, rng: larger(image),
    "off-centre": lambda image, rng: on_canvas(image, 60, rng),
    "off-centre, larger, inverted": lambda image, rng: 255 - on_canvas(larger(image), 200, rng),
    "JPEG": lambda image, rng: as_jpeg(on_canvas(larger(image), 200, rng)),
    "JPEG, inverted": lambda image, rng: as_jpeg(255 - image),
    "grey on grey": lambda image, rng: (150 - image * (60 / 255)).astype(np.uint8),
    "photographed": photographed,
}
