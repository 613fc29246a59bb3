"""Draw pictures next to the images that the model was given, with the predicted classes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mnist_exp.inference.image_files import Thumbnail, scaled_box
from mnist_exp.inference.mnist_form import Reading
from mnist_exp.report.class_labels import wrap_columns
from mnist_exp.report.figure import new_figure, write
from mnist_exp.text import printable, shorten

_PER_PAGE = 8  # pictures
_PER_LINE = 5  # images of a picture
_CAPTION = 24  # columns
_SURE, _DOUBTFUL = "tab:green", "tab:red"


@dataclass(frozen=True)
class ReadPicture:
    """A picture, and what was read in it."""

    name: str
    original: Thumbnail
    readings: Sequence[Reading]
    captions: Sequence[str]
    """The predicted class and its probability, for each reading, on one line or two."""


class InputSheets:
    """Writes `inputs-001.png`, `inputs-002.png`, …"""

    def __init__(self, folder: Path, title: str) -> None:
        self._folder, self._title = folder, title
        self._waiting: list[ReadPicture] = []
        self.pages = 0

    def add(self, picture: ReadPicture) -> None:
        """Add a picture, and write the page if it is full."""
        self._waiting.append(picture)
        if len(self._waiting) == _PER_PAGE:
            self.finish()

    def finish(self) -> None:
        """Write the last page, if there is a picture on it."""
        if self._waiting:
            self.pages += 1
            _draw_page(self._waiting, self._title, self._folder / f"inputs-{self.pages:03}.png")
            self._waiting = []


def _draw_page(pictures: Sequence[ReadPicture], title: str, path: Path) -> None:
    lines = [-(-len(picture.readings) // _PER_LINE) for picture in pictures]
    heights = [max(2.0, 1.3 * count) for count in lines]
    figure = new_figure(9, 0.6 + sum(heights), title)
    grid = figure.add_gridspec(len(pictures), 2, width_ratios=(1, 2), height_ratios=heights)
    for row, picture in enumerate(pictures):
        _draw_original(figure.add_subplot(grid[row, 0]), picture)
        _draw_readings(figure.add_subplot(grid[row, 1]), picture)
    write(figure, path)


def _draw_original(axes: Axes, picture: ReadPicture) -> None:
    """Draw the picture with a numbered box around each digit."""
    axes.axis("off")
    axes.set_title(shorten(printable(Path(picture.name).name), 40), fontsize=8)
    axes.imshow(picture.original.pixels)
    for number, reading in enumerate(picture.readings, start=1):
        if reading.box is None:
            continue
        left, top, right, bottom = scaled_box(reading.box, picture.original.scale)
        colour = _DOUBTFUL if reading.warning else _SURE
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour))
        if len(picture.readings) > 1:
            axes.text(left, top, str(number), color=colour, fontsize=8, ha="right", va="bottom")


def _draw_readings(axes: Axes, picture: ReadPicture) -> None:
    """Draw the images read from a picture in lines, each with its class and warning."""
    axes.axis("off")
    height, width, channels = picture.readings[0].image.shape
    down, across = round(2 * height), round(1.6 * width)
    lines = -(-len(picture.readings) // _PER_LINE)
    paper = np.full((lines * down, _PER_LINE * across, channels), 0 if channels == 1 else 255, np.uint8)
    for index, (reading, caption) in enumerate(zip(picture.readings, picture.captions, strict=True)):
        top, left = index // _PER_LINE * down, index % _PER_LINE * across
        paper[top : top + height, left : left + width] = reading.image
        number = f"{index + 1}: " if len(picture.readings) > 1 else ""
        caption = wrap_columns(number + caption, _CAPTION)
        colour = _DOUBTFUL if reading.warning else "black"
        text = "\n".join([caption, *textwrap.wrap(reading.warning, _CAPTION)])
        axes.text(left, top + 1.05 * height, text, fontsize=7, va="top", color=colour)
    grey = channels == 1
    axes.imshow(paper[..., 0] if grey else paper, cmap="gray_r" if grey else None, vmin=0, vmax=255)
