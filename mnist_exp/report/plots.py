"""Plots of a run. Each function draws one figure and writes it as a PNG file."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter, MaxNLocator
from rich.cells import cell_len

from mnist_exp.data.dataset import Images, Labels
from mnist_exp.inference.metrics import confident_mistakes, confusion
from mnist_exp.report.class_labels import class_labels
from mnist_exp.report.confusion_plots import draw_confusion
from mnist_exp.report.figure import label_percent, new_figure, write
from mnist_exp.report.image_sheets import draw_sheet
from mnist_exp.report.palette import GROUPS, MARK, TRAIN, VALIDATION
from mnist_exp.text import format_percent

History = Sequence[Mapping[str, float]]

_OTHERS = "#bbbbbb"
_NAMED = 12  # maximum number of groups in a legend
_LABEL_LINES = 6  # of a group in a legend: a setting can be a whole list of layers
_SHORT = 3  # columns: class names up to this width are captioned on one line
_MARKED = 40  # maximum number of epochs whose points are marked
_STROKES = ("-", "--", ":", "-.")
_CHARACTER, _LINE = 0.072, 0.2  # inches, for monospaced text at 8 points


def curve(history: History, metric: str, title: str, path: Path, best_epoch: int | None = None) -> None:
    """Plot a metric on training and validation data over the epochs, and mark `best_epoch`."""
    figure = new_figure(6.4, 4, title)
    axes = figure.add_subplot()
    epochs = [row["epoch"] for row in history]
    for part, label, colour in (("train", "training", TRAIN), ("val", "validation", VALIDATION)):
        if f"{part}/{metric}" in history[0]:
            values = [row[f"{part}/{metric}"] for row in history]
            axes.plot(epochs, values, color=colour, marker=_marker(epochs), markersize=4, label=label)
    if best_epoch is not None:
        axes.axvline(best_epoch, color=MARK, linestyle="--", linewidth=1, label=f"saved: epoch {best_epoch}")
    _label_values(axes, metric)
    _epochs_axis(axes, epochs)
    axes.grid(alpha=0.3)
    axes.legend()
    write(figure, path, compact=True)


def comparison(groups: Sequence[tuple[str, Sequence[History]]], metric: str, title: str, path: Path) -> None:
    """Plot a metric over the epochs for groups of runs: mean ± 1 standard deviation, in one colour per group.

    Each curve ends with the shortest run of its group, because the mean would cover fewer runs after it. The first
    12 groups are named; further ones are grey.
    """
    labels = [textwrap.fill(label, 90, max_lines=_LABEL_LINES, placeholder=" …") for label, _ in groups[:_NAMED]]
    lines = sum(label.count("\n") + 1 for label in labels) + (len(groups) > _NAMED)
    figure = new_figure(6.4, 4.2 + 0.17 * lines, title)
    axes = figure.add_subplot()
    longest: list[float] = []
    for number, (_, histories) in reversed([*enumerate(groups)]):  # the best group is drawn last, on top
        rows = list(zip(*histories, strict=False))
        epochs = [row[0]["epoch"] for row in rows]
        values = np.array([[run[metric] for run in row] for row in rows])
        longest = max(longest, epochs, key=len)
        if number >= _NAMED:
            axes.plot(
                epochs,
                mean_and_deviation(values)[0],
                color=_OTHERS,
                marker=_marker(epochs),
                markersize=2,
                linewidth=0.8,
            )
        else:
            _draw_group(axes, number, epochs, values, labels[number])
    _label_values(axes, metric)
    _epochs_axis(axes, longest)
    axes.grid(alpha=0.3)
    handles = axes.get_legend_handles_labels()[0][::-1]
    if (more := len(groups) - _NAMED) > 0:
        handles.append(Line2D([], [], color=_OTHERS, label=f"{more} more"))
    figure.legend(handles=handles, loc="outside lower center", fontsize=8, frameon=False)
    write(figure, path, compact=True)


def _draw_group(
    axes: Axes, number: int, epochs: Sequence[float], values: npt.NDArray[np.float64], label: str
) -> None:
    """Draw the mean of a group's values (epochs, runs) with a band of ± 1 standard deviation."""
    mean, deviation = mean_and_deviation(values)
    colour, stroke = GROUPS[number % len(GROUPS)], _STROKES[number // len(GROUPS) % len(_STROKES)]
    axes.plot(epochs, mean, stroke, color=colour, marker=_marker(epochs), markersize=3, label=label)
    if values.shape[1] == 1:
        return
    axes.fill_between(epochs, mean - deviation, mean + deviation, color=colour, alpha=0.18, linewidth=0)
    if len(epochs) == 1:  # a band would have no width
        axes.errorbar(epochs, mean, deviation, color=colour, capsize=4)


def mean_and_deviation(values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the mean and standard deviation of each epoch's values (epochs, runs); that of one run is 0.

    Both are NaN where a run diverged.
    """
    with np.errstate(invalid="ignore"):  # infinities
        return values.mean(axis=1), values.std(axis=1, ddof=min(1, values.shape[1] - 1))


def learning_rate(rates: npt.NDArray[np.float32], steps_per_epoch: int, title: str, path: Path) -> None:
    """Plot the learning rate at every planned step."""
    figure = new_figure(6.4, 3, title)
    axes = figure.add_subplot()
    # Stairs rather than a line: each rate holds for a whole step, so even a single step is visible.
    axes.stairs(rates, np.arange(len(rates) + 1) / steps_per_epoch, baseline=None, color=TRAIN)
    axes.set(xlabel="epochs done", ylabel="learning rate", ylim=(0, float(rates.max()) * 1.05))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    write(figure, path, compact=True)


def rate_curve(
    rates: npt.NDArray[np.float64],
    losses: npt.NDArray[np.float64],
    smoothed: npt.NDArray[np.float64],
    marks: tuple[float | None, float | None],
    title: str,
    path: Path,
) -> None:
    """Plot the loss of a range test over the learning rate, on a logarithmic axis.

    `marks` holds the proposed rate, and a tenth of the rate at the minimum; None if there is none.
    """
    figure = new_figure(6.4, 4, title)
    axes = figure.add_subplot()
    axes.plot(rates, losses, color=_OTHERS, marker=".", markersize=3, linewidth=0.8, label="loss of each batch")
    axes.plot(rates, smoothed, color=TRAIN, label="smoothed loss")
    meanings, strokes = ("the smoothed loss falls most steeply", "a tenth of the rate at the minimum"), ("-", ":")
    for rate, meaning, stroke in zip(marks, meanings, strokes, strict=True):
        if rate is not None:
            axes.axvline(rate, color=MARK, linestyle=stroke, linewidth=1.2, label=f"{rate:g}: {meaning}")
    low, high = float(losses.min()), float(smoothed.max())
    margin = 0.1 * (high - low) or 0.1
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(low - margin, high + margin))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(LogFormatter())  # labels them if there are few decades
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    write(figure, path, compact=True)


def _label_values(axes: Axes, metric: str) -> None:
    """Label the axes of a metric over the epochs. Accuracies are percentages, unless a damaged file exceeds 1."""
    if "accuracy" in metric and not axes.dataLim.ymax > 1:
        label_percent(axes.yaxis)
    axes.set(xlabel="epoch", ylabel=metric)


def _marker(epochs: Sequence[float]) -> str | None:
    return "o" if len(epochs) <= _MARKED else None


def _epochs_axis(axes: Axes, epochs: Sequence[float]) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(epochs) == 1:
        axes.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)


def architecture(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[str],
    remarks: Sequence[str],
    title: str,
    path: Path,
) -> None:
    """Draw a table of layers with the remarks below it.

    The last row holds the totals; `right` lists the names of the right-aligned columns.
    """
    widths = [max(map(len, column)) + 2 for column in zip(header, *rows, strict=True)]
    edges = np.concatenate([[0], np.cumsum(widths)])
    notes = _wrapped_list(remarks, int(edges[-1]))
    lines = 1 + len(rows) + (1 + len(notes) if notes else 0)
    figure = new_figure(edges[-1] * _CHARACTER, 0.6 + lines * _LINE, title)
    axes = figure.add_subplot()
    axes.set(xlim=(0, edges[-1]), ylim=(lines - 0.4, -0.6))
    axes.axis("off")
    for number, cells in enumerate([header, *rows]):
        outside = number in (0, len(rows))
        if number % 2 == 0 and not outside:
            axes.axhspan(number - 0.5, number + 0.5, color="#f0f4f8", linewidth=0)
        for cell, name, left, end in zip(cells, header, edges, edges[1:], strict=False):
            at, align = (end - 1, "right") if name in right else (left + 1, "left")
            weight = "bold" if outside else "normal"
            axes.text(at, number, cell, ha=align, va="center", fontsize=8, family="monospace", weight=weight)
    for height in (0.5, len(rows) - 0.5):
        axes.axhline(height, color="black", linewidth=0.8)
    for number, note in enumerate(notes, len(rows) + 2):
        axes.text(1, number, note, va="center", fontsize=8, family="monospace")
    write(figure, path, compact=True)


def _wrapped_list(texts: Sequence[str], width: int) -> list[str]:
    """Format texts as the entries of a list, and return its lines, wrapped at `width` characters."""
    entries = [textwrap.wrap(f"– {text}", width, subsequent_indent="  ") for text in texts]
    return [line for entry in entries for line in entry]


def confusion_matrix(
    labels: Labels, predicted: Labels, class_names: Sequence[str], title: str, path: Path
) -> None:
    """Draw the number of images of each class (rows) by predicted class (columns)."""
    draw_confusion(confusion(labels, predicted, len(class_names)), class_names, title, path)


def misclassified(
    images: Images,
    labels: Labels,
    probabilities: npt.NDArray[np.float32],
    class_names: Sequence[str],
    title: str,
    path: Path,
    at_most: int = 40,
) -> None:
    """Draw up to `at_most` misclassified images, the most confident mistakes first."""
    predicted = probabilities.argmax(axis=1)
    mistakes = confident_mistakes(labels, probabilities)
    total, wrong = len(mistakes), mistakes[:at_most]
    shown = f" (the {len(wrong)} most confident)" if total > len(wrong) else ""
    names = class_labels(class_names)
    between = " → " if max(map(cell_len, names)) <= _SHORT else "\n→ "
    captions = [
        f"{names[labels[i]]}{between}{names[predicted[i]]}  {format_percent(probabilities[i, predicted[i]], 0)}"
        for i in wrong
    ]
    draw_sheet(images[wrong], captions, 10, f"{title}\n{total} of {len(labels)}{shown}", path)


def reliability(
    accuracy: Sequence[float], confidence: Sequence[float], counts: Sequence[int], title: str, path: Path
) -> None:
    """Plot the accuracy of predictions against their confidence, and the number of images in each bin.

    `accuracy` and `confidence` are means over bins of equal width from 0 to 1; values of empty bins are ignored.
    """
    figure = new_figure(5.2, 6, title)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = np.linspace(0, 1, len(counts) + 1)
    centres, width = (edges[:-1] + edges[1:]) / 2, 1 / len(counts)
    filled = np.flatnonzero(counts)
    right, sure = np.asarray(accuracy)[filled], np.asarray(confidence)[filled]
    upper.bar(centres[filled], right, width, color=TRAIN, edgecolor="white", label="accuracy")
    upper.bar(
        centres[filled], sure - right, width, right, fill=False, edgecolor=VALIDATION, hatch="///",
        label="gap to confidence",
    )  # fmt: skip
    upper.plot([0, 1], [0, 1], "--", color="black", linewidth=1, label="perfectly calibrated")
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    lower.bar(centres, counts, width, color="#777777", edgecolor="white")
    lower.set(
        xlabel="confidence: probability of the predicted class",
        ylabel="images",
        yscale="log",
        ylim=(0.5, 2 * max(counts)),
    )
    lower.yaxis.set_major_formatter("{x:,.0f}")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    write(figure, path, compact=True)


def augmentation_sheet(originals: Images, augmented: Sequence[Images], title: str, path: Path) -> None:
    """Draw images in the left column with augmented versions of each to its right."""
    rows = np.stack([originals, *augmented], axis=1)
    captions = ["original", "augmented"] + [""] * (rows.shape[0] * rows.shape[1] - 2)
    draw_sheet(rows.reshape(-1, *rows.shape[2:]), captions, rows.shape[1], title, path, fixed=True)
