"""What every picture begins and ends with: a figure with a title, and a PNG file.

Figures are made without pyplot: no global state, no display, and half a second less at start-up.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mnist_exp.runs.files import replace_file

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
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png")
