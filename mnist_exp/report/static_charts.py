"""Pictures that take the place of a report's interactive charts on paper and without JavaScript."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.ticker import MaxNLocator

from mnist_exp.report.figure import label_percent, new_figure, write
from mnist_exp.report.palette import GROUPS, MARK, RAMP, TRAIN

_MARKERS = "osD^vP"
_FAINT = "#888888"
_RAMP = LinearSegmentedColormap.from_list("ramp", RAMP)


def parallel_coordinates(
    axes: Sequence[tuple[str, Sequence[float], Mapping[str, float]]],
    values: Sequence[float],
    metric: str,
    path: Path,
    pruned: int = 0,
) -> None:
    """Draw a line per run through its settings to its value of a metric.

    Args:
        axes: The name of each axis, the place of each run on it (0 to 1), and the places of its labels.
        values: The value of the metric, for each run, which determines the colour.
        metric: The metric.
        path: The PNG file to write.
        pruned: How many of the runs, at the end, are pruned trials, which are drawn faintly.
    """
    figure = new_figure(max(6.4, 1.6 * len(axes) + 1), 4.2, f"settings and {metric}")
    drawing = figure.add_subplot()
    finished = len(values) - pruned
    low, high = min(values[:finished]), max(values[:finished])
    colours = ScalarMappable(Normalize(low, high if high > low else low + 1), _RAMP)
    shades = colours.to_rgba(np.asarray(values, float))
    for number in range(len(values)):
        places = [of_runs[number] for _, of_runs, _ in axes]
        if number < finished:
            drawing.plot(range(len(axes)), places, color=shades[number], alpha=0.7, linewidth=1.2)
        else:
            label = "pruned" if number == finished else None
            drawing.plot(
                range(len(axes)), places, ":", color=_FAINT, alpha=0.6, linewidth=1, zorder=1, label=label
            )
    for position, (_, _, ticks) in enumerate(axes):
        drawing.axvline(position, color="#57606a", linewidth=0.8)
        for text, place in ticks.items():
            drawing.text(position + 0.03, place, shorten_label(text), fontsize=8, va="center")
    drawing.set_xticks(range(len(axes)), [shorten_label(name, 28) for name, _, _ in axes], fontsize=8)
    drawing.set_yticks([])
    drawing.set_xlim(-0.15, len(axes) - 0.4)
    figure.colorbar(colours, ax=drawing, label=metric)
    if pruned:
        figure.legend(loc="outside lower center", fontsize=8, frameon=False)
    write(figure, path)


def class_dots(
    class_names: Sequence[str], series: Sequence[tuple[str, Sequence[float | None]]], label: str, path: Path
) -> None:
    """Draw a row per class with a dot per group: for example, the recall of each class."""
    figure = new_figure(6.8, min(1.6 + 0.28 * len(class_names) + 0.2 * len(series), 20), f"{label} of each class")
    axes = figure.add_subplot()
    for number, (group, values) in enumerate(series):
        known = [(value, row) for row, value in enumerate(values) if value is not None]
        axes.plot(
            [value for value, _ in known], [row for _, row in known], _MARKERS[number % len(_MARKERS)],
            color=GROUPS[number % len(GROUPS)], alpha=0.8, label=shorten_label(group, 90),
        )  # fmt: skip
    axes.set_yticks(range(len(class_names)), [shorten_label(name, 28) for name in class_names], fontsize=8)
    axes.invert_yaxis()
    label_percent(axes.xaxis)
    axes.set(xlabel=label)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=8, frameon=False)
    write(figure, path, compact=True)


def trial_values(
    numbers: Sequence[int],
    values: Sequence[float],
    best: Sequence[float],
    metric: str,
    path: Path,
    pruned: Sequence[tuple[int, float]] = (),
) -> None:
    """Draw the value of each finished trial, the best value so far and, faintly, pruned trials."""
    figure = new_figure(6.4, 3.6, f"{metric} of each trial")
    axes = figure.add_subplot()
    if pruned:
        axes.plot(*zip(*pruned, strict=True), "o", color=_FAINT, markersize=4, fillstyle="none", label="pruned")
    axes.plot(numbers, values, "o", color=TRAIN, markersize=4, label="finished")
    axes.step(numbers, best, where="post", color=MARK, label="best so far")
    axes.set(xlabel="trial", ylabel=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if "accuracy" in metric:
        label_percent(axes.yaxis)
    axes.grid(alpha=0.3)
    axes.legend()
    write(figure, path, compact=True)


def shorten_label(text: str, most: int = 20) -> str:
    """Return a label with at most `most` characters, without its middle if it is longer."""
    if len(text) <= most:
        return text
    half = (most - 1) // 2
    return f"{text[:half]}…{text[-(most - 1 - half) :]}"
