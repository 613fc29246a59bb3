"""Draw a confusion matrix: with all counts for some classes; with the ten worst pairs and classes for many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from rich.cells import cell_len

from mnist_exp.report.class_labels import class_labels
from mnist_exp.report.figure import label_percent, new_figure, percent_formatter, write
from mnist_exp.report.palette import RAREST, RIGHT, TRAIN, WRONG

Counts = npt.NDArray[np.int64]

MOST_CLASSES = 30
"""The maximum number of classes for which every count is drawn."""
_NAMED = 60  # maximum number of classes that are named next to the matrix
_WORST = 10
_COLUMN = 0.085  # inches, at 10 points
_DARK = 0.85  # share of correct predictions from which white text is more readable than black text
_CORRECT = LinearSegmentedColormap.from_list("correct", ["white", RIGHT])
_ON_WHITE = 1 - np.outer((RAREST, 1), 1 - np.array(to_rgb(WRONG)))
_MISTAKES = LinearSegmentedColormap.from_list("mistakes", _ON_WHITE)


def draw_confusion(counts: Counts, names: Sequence[str], title: str, path: Path) -> None:
    """Draw the number of images of each class (rows) by predicted class (columns)."""
    figure = _some_classes(counts, names, title) if len(names) <= MOST_CLASSES else _many(counts, names, title)
    write(figure, path, compact=True)


def _some_classes(counts: Counts, names: Sequence[str], title: str) -> Figure:
    """Draw the matrix with every count."""
    labels, classes = class_labels(names), len(names)
    longest = max(map(cell_len, labels))
    size = max(4.2, (0.5 if classes <= 15 else 0.4) * classes + 0.6)
    rotated = longest > 3
    width, height = size + _COLUMN * longest + 0.4, size + (0.7 * _COLUMN * longest if rotated else 0.1) + 0.5
    figure = new_figure(width, height, title)
    axes = figure.add_subplot()
    shares = _shares(counts)
    _draw_cells(axes, shares)
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if row == column and shares[row, column] > _DARK else "black"
        text = str(counts[row, column])
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8 if len(text) < 5 else 6)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_xticks(range(classes), labels)
    if rotated:
        for tick in axes.get_xticklabels():
            tick.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(classes), labels)
    return figure


def _many(counts: Counts, names: Sequence[str], title: str) -> Figure:
    """Draw the matrix in colours only, next to the pairs and classes with most mistakes."""
    labels = class_labels(names, 20)
    figure = new_figure(13, 7.4, title)
    grid = figure.add_gridspec(2, 2, width_ratios=(3, 2))
    axes = figure.add_subplot(grid[:, 0])
    mistakes = _draw_cells(axes, _shares(counts))
    figure.colorbar(
        mistakes, ax=axes, shrink=0.6, format=percent_formatter(), label="mistakes: share of the class"
    )
    if len(names) <= _NAMED:
        axes.set(xlabel="predicted", ylabel="true")
        axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=6)
        axes.set_yticks(range(len(names)), labels, fontsize=6)
    else:
        axes.set(xlabel="predicted class, by number", ylabel="true class, by number")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        labels = tuple(
            label if label == str(number) else f"{number} {label}" for number, label in enumerate(labels)
        )
    _worst_pairs(figure.add_subplot(grid[0, 1]), counts, labels)
    _worst_classes(figure.add_subplot(grid[1, 1]), counts, labels)
    return figure


def _draw_cells(axes: Axes, shares: npt.NDArray[np.float64]) -> AxesImage:
    """Draw correct predictions in blue, and mistakes in orange on a scale of their own; return the latter."""
    is_right = np.eye(len(shares), dtype=bool)
    axes.imshow(np.ma.masked_where(~is_right, shares), cmap=_CORRECT, vmin=0, vmax=1, interpolation="nearest")
    most = np.max(shares, where=~is_right, initial=0) or 1.0
    # Most mistakes are rare: the root of their share makes them visible.
    return axes.imshow(
        np.ma.masked_where(is_right | (shares == 0), shares),
        cmap=_MISTAKES,
        norm=PowerNorm(0.5, vmin=0, vmax=most),
        interpolation="nearest",
    )


def _worst_pairs(axes: Axes, counts: Counts, labels: Sequence[str]) -> None:
    mistakes = counts * ~np.eye(len(counts), dtype=bool)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:_WORST]
    pairs = [(int(row), int(column)) for row, column in zip(*np.unravel_index(order, counts.shape), strict=True)]
    pairs = [pair for pair in pairs if mistakes[pair]]
    left_out = int((mistakes >= mistakes[pairs[-1]]).sum()) - len(pairs) if pairs else 0
    ties = f"\n{left_out} more as often as the last" if left_out else ""
    totals = counts.sum(axis=1)
    rows = [
        (
            f"{labels[row]} → {labels[column]}",
            float(counts[row, column]),
            f"{counts[row, column]:,} of {totals[row]:,}",
        )
        for row, column in pairs
    ]
    _bars(axes, rows, f"most frequent mistakes (true → predicted){ties}", "images")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _worst_classes(axes: Axes, counts: Counts, labels: Sequence[str]) -> None:
    totals, right = counts.sum(axis=1), counts.diagonal()
    recall = right / np.maximum(totals, 1)
    order = [number for number in np.argsort(recall, kind="stable") if totals[number]][:_WORST]
    rows = [
        (labels[number], float(recall[number]), f"{right[number]:,} of {totals[number]:,}") for number in order
    ]
    _bars(axes, rows, "classes with the lowest recall", "recall")
    label_percent(axes.xaxis)


def _bars(axes: Axes, rows: Sequence[tuple[str, float, str]], title: str, xlabel: str) -> None:
    """Draw a horizontal bar per row: a label, a length, and a text at the bar's end."""
    axes.set_title(title, fontsize=9)
    if not rows:
        axes.axis("off")
        axes.text(0.5, 0.5, "none", ha="center", transform=axes.transAxes)
        return
    labels, lengths, texts = zip(*rows, strict=True)
    bars = axes.barh(range(len(rows)), lengths, color=TRAIN)
    axes.bar_label(bars, texts, fontsize=7, padding=2)
    axes.set_yticks(range(len(rows)), labels, fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, max(lengths) * 1.3 or 1)
    axes.set_xlabel(xlabel, fontsize=8)


def _shares(counts: Counts) -> npt.NDArray[np.float64]:
    shares: npt.NDArray[np.float64] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return shares
