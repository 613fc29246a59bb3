"""Create titled figures and write them as PNG files.

The project's own figures avoid pyplot: there is no global state, no display is needed, and start-up is half a
second faster.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from mnist_exp.runs.atomic import replace_file
from mnist_exp.text import escape_controls

DPI = 110
matplotlib.rcParams["text.parse_math"] = False  # class names may contain "$"


def new_figure(width: float, height: float, title: str, *, by_hand: bool = False) -> Figure:
    """Create a figure with its title wrapped to its width.

    `width` and `height` are in inches. `by_hand` disables automatic layout: the caller positions everything.
    """
    figure = Figure(figsize=(width, height), dpi=DPI, layout=None if by_hand else "constrained")
    FigureCanvasAgg(figure)
    y = {"y": 1 - 0.06 / height} if by_hand else {}
    figure.suptitle(wrap_title(title, width), fontsize=10, **y)
    return figure


def wrap_title(title: str, width: float) -> str:
    """Wrap a title to a width in inches."""
    return "\n".join(textwrap.fill(line, int(11 * width)) for line in title.split("\n"))


def write(figure: Figure, path: Path, *, compact: bool = False) -> None:
    """Write a figure as a PNG file, atomically, with control characters in its texts escaped.

    Args:
        figure: The figure.
        path: The file.
        compact: Whether to keep only 256 colours, enough for lines and text; the file is four times smaller.
    """
    for text in figure.findobj(Text):
        text.set_text(escape_controls(text.get_text()))
    if (layout := figure.get_layout_engine()) is not None:
        layout.execute(figure)  # done here because `savefig` would draw everything twice
        figure.set_layout_engine(None)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", pil_kwargs={"compress_level": 0})
    image = Image.open(drawn).convert("RGB")
    pixels = np.asarray(image)
    if (pixels == pixels[..., :1]).all():
        image = image.convert("L")
    elif compact:
        image = image.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    with replace_file(path) as temporary:
        image.save(temporary, "png", dpi=(DPI, DPI), compress_level=9)


@contextmanager
def pyplot_figure(width: float, title: str, path: Path) -> Iterator[None]:
    """Write the figure that a library draws with pyplot in the block, then close all pyplot figures.

    `width` is in inches.
    """
    with matplotlib.rc_context({"text.parse_math": True}):
        matplotlib.use("Agg")
        from matplotlib import pyplot

        try:
            yield
            figure = pyplot.gcf()
            figure.set_size_inches(width, 4.8)
            figure.suptitle(title, fontsize=10)
            with replace_file(path) as temporary:
                figure.savefig(temporary, format="png", dpi=DPI, bbox_inches="tight")
        finally:
            pyplot.close("all")
