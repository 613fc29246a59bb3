"""Print small images as text on a terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

import numpy as np

from mnist_exp.data.dataset import Images

_SHADES = " ░▒▓█"
_WIDTH = 100  # columns, if the output is not a terminal


def print_images(rows: Sequence[Images]) -> None:
    """Print rows of images (n, height, width, channels), as many per row as fit side by side."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDTH
    for images in rows:
        shown = max((width + 2) // (images.shape[2] + 2), 1)
        lines = zip(*(format_image(image) for image in images[:shown]), strict=True)
        print("\n".join("  ".join(line).rstrip() for line in lines))


def format_image(image: Images) -> list[str]:
    """Convert an image to lines of characters, each covering one pixel in width and two in height."""
    grey = image.mean(axis=-1)
    if len(grey) % 2:
        grey = np.concatenate([grey, grey[-1:]])
    pairs = grey.reshape(len(grey) // 2, 2, -1).mean(axis=1)
    levels = np.rint(pairs / 255 * (len(_SHADES) - 1)).astype(int)
    return ["".join(_SHADES[level] for level in line) for line in levels]
