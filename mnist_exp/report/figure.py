"""What every picture begins and ends with: a figure with a title, and a PNG file.

Our own figures are made without pyplot: no global state, no display, and half a second less at start-up.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mnist_exp.runs.atomic import replace_file

DPI = 110
matplotlib.rcParams["text.parse_math"] = False  # "$" in a class's name is a dollar


def new_figure(width: float, height: float, title: str, *, by_hand: bool = False) -> Figure:
    """A figure of so many inches, its title wrapped to its width; `by_hand`: who draws says where things are."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout=None if by_hand else "constrained")
    FigureCanvasAgg(figure)
    y = {"y": 1 - 0.06 / height} if by_hand else {}
    figure.suptitle(wrapped(title, width), fontsize=10, **y)
    return figure


def wrapped(title: str, width: float) -> str:
    """A title in lines that fit into so many inches."""
    return "\n".join(textwrap.fill(line, int(11 * width)) for line in title.split("\n"))


def write(figure: Figure, path: Path) -> None:
    """Write a figure as a whole PNG file."""
    if (layout := figure.get_layout_engine()) is not None:
        layout.execute(figure)  # alone: left to it, `savefig` draws everything twice
        figure.set_layout_engine(None)
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png")


@contextmanager
def drawn_with_pyplot(width: float, title: str, path: Path) -> Iterator[None]:
    """Write the figure that a library draws in the block by way of pyplot, of whose state nothing is left."""
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
