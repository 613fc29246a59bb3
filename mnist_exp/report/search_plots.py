"""Plot the results of a sweep's jobs or a search's trials against the values of their keys."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import MaxNLocator
from rich.cells import cell_len

from mnist_exp.report.class_labels import class_labels
from mnist_exp.report.figure import label_percent, new_figure, percent_formatter, sparse_ticks, write
from mnist_exp.report.palette import MARK, TRAIN, VALIDATION
from mnist_exp.text import format_percent

_CHOICES = 8  # keys with at most this many different values have evenly spaced axes
_DECADES = 100  # ratio of the largest to the smallest value from which an axis is logarithmic
_PER_ROW = 3  # panels of `slices`
_LISTED = 30  # maximum number of jobs in `ranking`
_COLUMN = 0.068  # inches, at 8 points
_GREY = "#999999"


@dataclass(frozen=True)
class Point:
    """A job or trial: its number, the values of the keys as written, and its result; None if it has none."""

    number: int
    values: Mapping[str, str]
    result: float | None
    is_finished: bool = True
    """Whether the result is final: that of a pruned trial is not."""

    @property
    def label(self) -> str:
        """The keys and values on one line."""
        return "  ".join(f"{key}={value}" for key, value in self.values.items())


@dataclass(frozen=True)
class _Scale:
    """The axis of a key: evenly spaced choices, or numbers on a linear or logarithmic scale."""

    choices: tuple[str, ...] = ()
    is_log: bool = False

    @classmethod
    def of(cls, values: Sequence[str]) -> _Scale:
        numbers = {value: _as_number(value) for value in values}
        if len(numbers) <= _CHOICES or not all(map(math.isfinite, numbers.values())):
            return cls(tuple(sorted(numbers, key=lambda value: (numbers[value], value))))
        least, most = min(numbers.values()), max(numbers.values())
        return cls(is_log=least > 0 and most / least >= _DECADES)

    def place(self, value: str) -> float:
        """Return the position of a value on the axis."""
        if self.choices:
            return float(self.choices.index(value))
        return float(np.log10(float(value))) if self.is_log else float(value)

    def ticks(self, places: Sequence[float]) -> list[tuple[float, str]]:
        """Return the positions and texts of the axis' ticks, given the positions of all points."""
        if self.choices:
            return list(enumerate(class_labels(self.choices, 20)))
        if self.is_log:
            decades = range(math.ceil(min(places)), math.floor(max(places)) + 1)
            return [(float(decade), f"{10.0**decade:g}") for decade in decades]
        return [(place, f"{place:.4g}") for place in _round_values(places)]


def history(points: Sequence[Point], metric: str, *, maximizes: bool, title: str, path: Path) -> None:
    """Plot the result of each trial by its number, and the best result so far."""
    figure = new_figure(6.4, 4, title)
    axes = figure.add_subplot()
    finished = sorted((point for point in points if point.is_finished), key=lambda point: point.number)
    results = [point.result for point in finished if point.result is not None]
    numbers = [point.number for point in finished if point.result is not None]
    axes.plot(numbers, results, "o", color=TRAIN, markersize=5, label="finished")
    pruned = [
        (point.number, point.result) for point in points if not point.is_finished and point.result is not None
    ]
    if pruned:
        at, values = zip(*pruned, strict=True)
        axes.plot(at, values, "o", color=VALIDATION, markersize=5, fillstyle="none", label="pruned")
    if failed := [point.number for point in points if point.result is None]:
        bottom = axes.get_xaxis_transform()
        axes.plot(failed, [0.02] * len(failed), "x", color="black", transform=bottom, label="failed")
    best = np.maximum.accumulate(results) if maximizes else np.minimum.accumulate(results)
    axes.plot(numbers, best, drawstyle="steps-post", color=MARK, label="best so far")
    axes.set(xlabel="trial", ylabel=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _format_results(axes.yaxis, metric)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    write(figure, path, compact=True)


def slices(points: Sequence[Point], metric: str, title: str, path: Path) -> None:
    """Plot the results against each key's values, in a panel per key."""
    points = _with_results(points)
    keys = list(points[0].values)
    across = min(len(keys), _PER_ROW)
    down = -(-len(keys) // across)
    figure = new_figure(max(4.5, 3.3 * across + 0.6), 3 * down + 0.5, title)
    for number, key in enumerate(keys):
        axes = figure.add_subplot(down, across, number + 1)
        scale = _Scale.of([point.values[key] for point in points])
        places = [scale.place(point.values[key]) for point in points]
        axes.plot(places, [point.result or 0.0 for point in points], "o", color=TRAIN, alpha=0.6, markersize=5)
        at, texts = zip(*scale.ticks(places), strict=True)
        axes.set_xticks(at, texts, fontsize=8)
        if sum(map(cell_len, texts)) > 30:
            for tick in axes.get_xticklabels():
                tick.set(rotation=35, ha="right", rotation_mode="anchor")
        if scale.choices:
            axes.set_xlim(-0.5, len(scale.choices) - 0.5)
        axes.set_xlabel(_wrap_key(key, 38), fontsize=8)
        axes.tick_params(axis="y", labelsize=8)
        _format_results(axes.yaxis, metric)
        if number % across == 0:
            axes.set_ylabel(metric, fontsize=8)
        axes.grid(alpha=0.3)
    write(figure, path, compact=True)


def importances(shares: Mapping[str, float], title: str, path: Path) -> None:
    """Plot the importance of each key as a bar, the largest first."""
    keys = sorted(shares, key=lambda key: -shares[key])
    labels = [_wrap_key(key, 40) for key in keys]
    lines = sum(label.count("\n") + 1 for label in labels)
    figure = new_figure(6.4, 1.2 + 0.3 * lines, title)
    axes = figure.add_subplot()
    bars = axes.barh(range(len(keys)), [shares[key] for key in keys], color=TRAIN)
    axes.bar_label(bars, [f"{format_percent(shares[key], 0)}" for key in keys], fontsize=8, padding=3)
    axes.set_yticks(range(len(keys)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, max(shares.values()) * 1.15 or 1)
    axes.set_xlabel("share of the differences between trials", fontsize=8)
    label_percent(axes.xaxis)
    write(figure, path, compact=True)


def parallel_coordinates(points: Sequence[Point], metric: str, *, maximizes: bool, title: str, path: Path) -> None:
    """Plot each job or trial as a line through its values and its result.

    All with the best result are highlighted; pruned ones are dotted.
    """
    ranked = sorted(_with_results(points), key=lambda point: (point.result or 0.0) * (1 if maximizes else -1))
    pruned = [point for point in points if not point.is_finished and point.result is not None]
    drawn = [*pruned, *ranked]
    keys = list(drawn[0].values)
    figure = new_figure(max(6.4, 1.7 * (len(keys) + 1)), 4.6, title)
    axes = figure.add_subplot()
    axes.axis("off")
    lines = _draw_axes(axes, drawn, keys, metric)
    for number, line in enumerate(lines[: len(pruned)]):
        label = None if number else "pruned"
        axes.plot(range(len(line)), line, ":", color=_GREY, linewidth=1, alpha=0.8, zorder=0.5, label=label)
    for line, rank in zip(lines[len(pruned) :], np.linspace(0, 1, len(ranked)), strict=True):
        axes.plot(range(len(line)), line, color=_shade(rank), linewidth=1, alpha=0.8, zorder=1)
    best = [
        line for line, one in zip(lines[len(pruned) :], ranked, strict=True) if one.result == ranked[-1].result
    ]
    label = textwrap.fill(f"best: {ranked[-1].label}" + f" and {len(best) - 1} more" * (len(best) > 1), 90)
    for number, line in enumerate(best):
        axes.plot(
            range(len(line)), line, color=VALIDATION, linewidth=2.5, zorder=2, label=None if number else label
        )
    axes.set(xlim=(-0.45, len(keys) + 0.35), ylim=(-0.06, 1.06))
    figure.legend(loc="outside lower center", fontsize=8, frameon=False)
    write(figure, path, compact=True)


def _draw_axes(axes: Axes, points: Sequence[Point], keys: Sequence[str], metric: str) -> list[tuple[float, ...]]:
    """Draw an axis for each key and one for the result, and return the positions of each point on them."""
    columns = [
        _draw_key(axes, number, key, [point.values[key] for point in points]) for number, key in enumerate(keys)
    ]
    results = [point.result or 0.0 for point in points]
    at = _round_values(results)
    as_percent = percent_formatter()
    texts = [as_percent(value) if "accuracy" in metric else f"{value:.6g}" for value in at]
    _draw_axis(axes, len(keys), _wrap_key(metric, 22), _unit(at, results), texts)
    return list(zip(*columns, _unit(results, results), strict=True))


def _draw_key(axes: Axes, number: int, key: str, values: Sequence[str]) -> list[float]:
    """Draw the axis of a key, and return the position of each value on it, from 0 to 1."""
    scale = _Scale.of(values)
    places = [scale.place(value) for value in values]
    ticks = scale.ticks(places)
    _draw_axis(
        axes, number, _wrap_key(key, 22), _unit([at for at, _ in ticks], places), [text for _, text in ticks]
    )
    return _unit(places, places)


def ranking(points: Sequence[Point], metric: str, *, maximizes: bool, title: str, path: Path) -> None:
    """Plot the result of each job as a dot next to its values, the best first; only the first 30."""
    sign = -1 if maximizes else 1
    order = sorted(points, key=lambda point: (point.result is None, sign * (point.result or 0.0), point.number))
    listed = order[:_LISTED]
    labels = [textwrap.fill(point.label, 90) for point in listed]
    widest = max(cell_len(line) for label in labels for line in label.split("\n"))
    lines = sum(label.count("\n") + 1 for label in labels)
    if len(order) > len(listed):
        title += f"\nthe best {len(listed)} of {len(order)} jobs"
    figure = new_figure(4.2 + _COLUMN * widest, 1.1 + 0.2 * lines, title)
    axes = figure.add_subplot()
    for row, point in enumerate(listed):
        if point.result is None:
            axes.text(0.01, row, "no result", transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        else:
            is_best = point.result == listed[0].result
            axes.plot(point.result, row, "o", color=MARK if is_best else TRAIN, markersize=6 if is_best else 5)
    axes.set_yticks(range(len(listed)), labels, fontsize=8)
    axes.set_ylim(len(listed) - 0.5, -0.5)
    axes.set_xlabel(metric)
    axes.xaxis.set_major_locator(sparse_ticks())
    _format_results(axes.xaxis, metric)
    axes.grid(alpha=0.3)
    write(figure, path, compact=True)


def _as_number(value: str) -> float:
    """Return a value as a number; infinity, which is sorted last, if it is none."""
    try:
        return float(value)
    except ValueError:
        return math.inf


def _round_values(values: Sequence[float]) -> list[float]:
    """Return about five round numbers in the range of the values; for equal ones, their value."""
    least, most = min(values), max(values)
    if least == most:
        return [least]
    return [float(value) for value in MaxNLocator(5).tick_values(least, most) if least <= value <= most]


def _with_results(points: Sequence[Point]) -> list[Point]:
    return [
        point for point in points if point.is_finished and point.result is not None and math.isfinite(point.result)
    ]


def _format_results(axis: Axis, metric: str) -> None:
    if "accuracy" in metric:
        label_percent(axis)


def _unit(values: Sequence[float], all_values: Sequence[float]) -> list[float]:
    """Return positions scaled so that those of all values range from 0 to 1; equal ones are in the middle."""
    least, most = min(all_values), max(all_values)
    return [(value - least) / (most - least) if most > least else 0.5 for value in values]


def _draw_axis(axes: Axes, x: int, name: str, places: Sequence[float], texts: Sequence[str]) -> None:
    axes.plot([x, x], [0, 1], color="black", linewidth=1, zorder=3)
    axes.text(x, 1.06, name, ha="center", va="bottom", fontsize=8)
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
    for place, text in dict(zip(places, texts, strict=True)).items():
        axes.plot([x - 0.02, x], [place, place], color="black", linewidth=1, zorder=3)
        axes.text(x - 0.04, place, text, ha="right", va="center", fontsize=7, bbox=box, zorder=4)


def _shade(rank: float) -> tuple[float, float, float]:
    """Return a colour from pale grey (rank 0, the worst) to blue (rank 1)."""
    pale, blue = np.array((0.85, 0.85, 0.85)), np.array((0.0, 0.447, 0.698))
    red, green, blue_ = pale + rank**2 * (blue - pale)
    return float(red), float(green), float(blue_)


def _wrap_key(key: str, columns: int) -> str:
    """Wrap a dotted key after dots."""
    return textwrap.fill(key.replace(".", ". "), columns).replace(". ", ".")
