"""Draw small images in rows, framed, with captions above them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.cells import cell_len

from mnist_exp.data.dataset import Images
from mnist_exp.report.figure import new_figure, wrap_title, write

_WIDEST = 10.5  # inches
_SMALL, _LARGE = 0.8, 1.1  # inches: the longer side of an image of up to 40 pixels, and of a larger one
_COLUMN, _LINE = 0.064, 0.13  # inches, for captions at 7.5 points
_GAP, _MARGIN = 0.1, 0.12
_MOST_PIXELS = 160  # larger images are reduced
_FRAME = "#888888"


def draw_sheet(
    images: Images, captions: Sequence[str], columns: int, title: str, path: Path, *, fixed: bool = False
) -> None:
    """Draw images (n, height, width, channels), at most `columns` per row, as one large image: faster than many.

    `fixed` keeps `columns` images per row even if that makes the figure wider than usual.
    """
    step = max(1, max(images.shape[1:3]) // _MOST_PIXELS)
    images = images[:, ::step, ::step]
    height, width, channels = images.shape[1:]
    unit = (_SMALL if max(height, width) <= 40 else _LARGE) / max(height, width)  # inches per pixel of an image
    places, size = _arrange((height, width), captions, columns, unit, fixed=fixed)
    paper = np.full((*size, channels), 0 if channels == 1 else 255, np.uint8)
    figure, axes = _blank(paper.shape[1] * unit, paper.shape[0] * unit, title)
    for image, caption, (top, left) in zip(images, captions, places, strict=True):
        paper[top : top + height, left : left + width] = image
        axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=_FRAME, linewidth=0.6))
        axes.text(left + width / 2, top, caption, ha="center", va="bottom", fontsize=7.5)
    if not places:
        axes.text(paper.shape[1] / 2, paper.shape[0] / 2, "none", ha="center", va="center")
    pixels, colours = (paper[..., 0], "gray_r") if channels == 1 else (paper, None)
    extent = (0, paper.shape[1], paper.shape[0], 0)
    axes.imshow(pixels, cmap=colours, vmin=0, vmax=255, extent=extent, aspect="auto")
    write(figure, path)


def _arrange(
    size: tuple[int, int], captions: Sequence[str], columns: int, unit: float, *, fixed: bool
) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Return the top and left of each image, and the height and width of the sheet, in pixels of `unit` inches."""
    height, width = size
    gap, count = round(_GAP / unit), len(captions)
    widest = max((cell_len(line) for text in captions for line in text.split("\n")), default=0)
    cell = max(width, round(_COLUMN * widest / unit)) + gap
    columns = min(columns, max(count, 1)) if fixed else max(1, min(columns, count, int(_WIDEST / unit / cell)))
    places, bottom = [], 0
    for start in range(0, count, columns):
        row = captions[start : start + columns]
        lines = max(text.count("\n") + 1 if text else 0 for text in row)
        top = bottom + round(_LINE / unit * lines)
        places += [(top, number * cell + (cell - width) // 2) for number in range(len(row))]
        bottom = top + height + gap
    return places, (bottom or round(0.5 / unit), columns * cell)


def _blank(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """Return a figure with empty axes of this size in inches below its title."""
    across = max(4.5, width + 2 * _MARGIN)
    top = 0.17 * (wrap_title(title, across).count("\n") + 1) + _MARGIN
    down = top + height + _MARGIN
    figure = new_figure(across, down, title, by_hand=True)
    axes = figure.add_axes(((across - width) / 2 / across, _MARGIN / down, width / across, height / down))
    axes.axis("off")
    return figure, axes
