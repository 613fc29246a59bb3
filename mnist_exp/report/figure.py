"""Create titled figures and write them as PNG files.

Figures avoid pyplot: there is no global state, no display is needed, and start-up is half a second faster.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axis import Axis, XAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image
from rich.cells import cell_len

from mnist_exp.report.fonts import prepare_text
from mnist_exp.runs.atomic import replace_file

DPI = 110
"""The pixels per inch for which sizes in pixels are meant; `resolution` sets those of the files."""
_resolution: ContextVar[int] = ContextVar("resolution", default=DPI)
matplotlib.rcParams["text.parse_math"] = False  # class names may contain "$"


def new_figure(width: float, height: float, title: str, *, by_hand: bool = False) -> Figure:
    """Create a figure with its title wrapped to its width.

    `width` and `height` are in inches. `by_hand` disables automatic layout: the caller positions everything.
    """
    figure = Figure(figsize=(width, height), dpi=_resolution.get(), layout=None if by_hand else "constrained")
    FigureCanvasAgg(figure)
    y = {"y": 1 - 0.06 / height} if by_hand else {}
    figure.suptitle(wrap_title(title, width), fontsize=10, **y)
    return figure


def label_percent(axis: Axis) -> None:
    """Label an axis of shares from 0 to 1 as in `90 %`; a horizontal one with few labels, so that none overlap."""
    axis.set_major_formatter(percent_formatter())
    if isinstance(axis, XAxis):
        axis.set_major_locator(sparse_ticks())


def sparse_ticks() -> MaxNLocator:
    """Return a locator of few, round ticks, between which long labels have room."""
    return MaxNLocator(6, steps=[1, 2, 5, 10])


def percent_formatter() -> FuncFormatter:
    """Return a formatter of shares from 0 to 1 that adds no zeros: `90 %` or `99.25 %`."""
    return FuncFormatter(lambda share, _: f"{100 * share:.6g} %")


@contextmanager
def resolution(dpi: int) -> Iterator[None]:
    """Write the figures that are created in the block with `dpi` pixels per inch."""
    token = _resolution.set(dpi)
    try:
        yield
    finally:
        _resolution.reset(token)


def wrap_title(title: str, width: float) -> str:
    """Wrap a title to a width in inches. A separator (` · `) is left out where a line begins or ends."""
    lines = (
        part
        for line in title.split("\n")
        for part in textwrap.wrap(line, max(1, int(11 * width * len(line) / max(cell_len(line), 1)))) or [line]
    )
    return "\n".join(line.strip().removeprefix("· ").removesuffix(" ·") for line in lines)


def write(figure: Figure, path: Path, *, compact: bool = False) -> None:
    """Write a figure as a PNG file, atomically, with fonts for all of its texts, and control characters escaped.

    Args:
        figure: The figure.
        path: The file.
        compact: Whether to keep only 256 colours, enough for lines and text; the file is four times smaller.
    """
    for text in figure.findobj(Text):
        prepare_text(text)
    if (layout := figure.get_layout_engine()) is not None:
        layout.execute(figure)  # done here because `draw` would do it as well
        figure.set_layout_engine(None)
    canvas: Any = figure.canvas  # Matplotlib's methods have no types
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    image = Image.fromarray(pixels)
    if (pixels == pixels[..., :1]).all():
        image = image.convert("L")
    elif compact:
        image = image.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    with replace_file(path) as temporary:
        image.save(temporary, "png", dpi=(figure.dpi, figure.dpi), compress_level=6)
