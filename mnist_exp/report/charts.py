"""Interactive charts of a report, drawn by Bokeh in the reader's browser.

Colours of lines and text are placeholders that the page replaces by those of its light or dark theme.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from bokeh.embed import json_item
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    FactorRange,
    FixedTicker,
    HoverTool,
    MultiLine,
    NumeralTickFormatter,
    Range1d,
)
from bokeh.models.annotations import Legend, LegendItem, Span
from bokeh.plotting import figure
from bokeh.transform import linear_cmap
from rich.cells import cell_len

from mnist_exp.report.class_labels import LONGEST, cut_labels
from mnist_exp.report.palette import GROUPS, MARK, RAMP, RAREST, RIGHT, TRAIN, VALIDATION, WRONG
from mnist_exp.report.parallel_axis import ParallelAxis, axis_of
from mnist_exp.report.plots import History, mean_and_deviation
from mnist_exp.report.static_charts import shorten_label
from mnist_exp.text import escape_controls, mask_credentials

Item = Mapping[str, object]
"""A chart as JSON, as Bokeh's `json_item` returns it."""

# The page replaces these: see assets/report.js.
_INK, _LINE, _PAPER, _QUIET = "#010203", "#010204", "#010205", "#010206"
_DASHES = ("solid", "dashed", "dotted", "dotdash")
_STRONGEST = 0.6  # opacity at which text is readable on light and dark paper
_MOST_IN_LEGEND = 12
_LONGEST_LABEL = 43  # characters in a legend, which must fit on a phone
_LEGEND_LINE = 23  # pixels
_SLANTED = 5  # pixels: the height of a character of a label at an angle of 45°


def curves(history: History, metric: str, best_epoch: int | None) -> Item:
    """Return a chart of a metric on training and validation data over the epochs."""
    chart = _new_chart(metric, x_label="epoch", y_label=metric)
    hover = []
    for part, label, colour in (("train", "training", TRAIN), ("val", "validation", VALIDATION)):
        rows = [row for row in history if f"{part}/{metric}" in row]
        if not rows:
            continue
        source = ColumnDataSource(
            {
                "epoch": [row["epoch"] for row in rows],
                "value": [row[f"{part}/{metric}"] for row in rows],
                "part": [label] * len(rows),
            }
        )
        chart.line("epoch", "value", source=source, color=colour, line_width=2, legend_label=label)
        dots = chart.scatter("epoch", "value", source=source, color=colour, size=7, legend_label=label)
        hover.append(dots)
    if best_epoch is not None:
        chart.add_layout(Span(location=best_epoch, dimension="height", line_color=MARK, line_dash="dashed"))
    _add_hover(chart, hover, [("part", "@part"), ("epoch", "@epoch"), (metric, _value_format("@value", metric))])
    _finish(chart, metric)
    return json_item(chart)


def steps(history: History, column: str, label: str) -> Item:
    """Return a chart of a column of the history over the epochs."""
    chart = _new_chart(label, x_label="epoch", y_label=label, height=240)
    rows = [row for row in history if column in row]
    source = ColumnDataSource({"epoch": [row["epoch"] for row in rows], "value": [row[column] for row in rows]})
    chart.line("epoch", "value", source=source, color=TRAIN, line_width=2)
    dots = chart.scatter("epoch", "value", source=source, color=TRAIN, size=6)
    _add_hover(chart, [dots], [("epoch", "@epoch"), (label, "@value{0.[000000]}")])
    _finish(chart, label)
    return json_item(chart)


def confusion(counts: Sequence[Sequence[int]], class_names: Sequence[str]) -> Item:
    """Return a heat map of the number of images of each class (rows) by predicted class (columns).

    Correct predictions and mistakes have a colour and a scale of their own. The colours are translucent, so that
    they suit light and dark paper.
    """
    names = _distinct(class_names)
    source = _confusion_cells(np.asarray(counts), names, [*map(_plain, class_names)])
    longest = max(map(cell_len, names))
    height = min(max(300, 34 * len(names) + 50) + max(40, _SLANTED * longest), 900)
    chart = figure(
        x_range=FactorRange(factors=names), y_range=FactorRange(factors=names[::-1]), height=height, **_STYLE
    )
    boxes = chart.rect(
        "predicted", "true", 0.96, 0.96, source=source, fill_color="colour", fill_alpha="strength",
        line_color=_LINE, line_width=0.5,
    )  # fmt: skip
    if len(names) <= 30:
        chart.text(
            "predicted", "true", text="text", source=source, text_color=_INK, text_align="center",
            text_baseline="middle", text_font_size="12px",
        )  # fmt: skip
    chart.xaxis.axis_label, chart.yaxis.axis_label = "predicted", "true"
    chart.xaxis.major_label_orientation = 0.8 if longest > 2 else 0
    chart.grid.visible = False
    tooltips = [
        ("true", "@whole_true"),
        ("predicted", "@whole_predicted"),
        ("images", "@count"),
        ("share", "@share{0.0 %}"),
    ]
    _add_hover(chart, [boxes], tooltips)
    _finish(chart, "")
    return json_item(chart)


def _confusion_cells(table: npt.NDArray[np.int64], names: list[str], whole: list[str]) -> ColumnDataSource:
    """Return the cells of a confusion matrix: `names` are the labels of the axes, `whole` those for the mouse."""
    shares = (table / np.maximum(table.sum(axis=1, keepdims=True), 1)).ravel()
    is_right = np.eye(len(names), dtype=bool).ravel()
    most = shares[~is_right].max(initial=0) or 1.0
    # Most mistakes are rare: the root of their share makes them visible.
    strengths = np.where(is_right, shares, RAREST + (1 - RAREST) * np.sqrt(shares / most)) * (shares > 0)
    return ColumnDataSource(
        {
            "true": np.repeat(names, len(names)).tolist(),
            "predicted": names * len(names),
            "whole_true": np.repeat(whole, len(names)).tolist(),
            "whole_predicted": whole * len(names),
            "count": table.ravel().tolist(),
            "share": shares.tolist(),
            "text": [str(count or "") for count in table.ravel()],
            "strength": (_STRONGEST * strengths).round(3).tolist(),
            "colour": np.where(is_right, RIGHT, WRONG).tolist(),
        }
    )


def reliability(accuracy: Sequence[float], confidence: Sequence[float], counts: Sequence[int]) -> Item:
    """Return a chart of the accuracy of predictions by their confidence, in bins of equal width."""
    edges = np.linspace(0, 1, len(counts) + 1)
    filled = [index for index, count in enumerate(counts) if count]
    source = ColumnDataSource(
        {
            "left": [float(edges[index]) for index in filled],
            "right": [float(edges[index + 1]) for index in filled],
            "accuracy": [accuracy[index] for index in filled],
            "confidence": [confidence[index] for index in filled],
            "count": [counts[index] for index in filled],
        }
    )
    chart = _new_chart(
        "accuracy",
        x_label="confidence",
        y_label="accuracy",
        y_range=Range1d(start=0, end=1.02),
        x_range=Range1d(start=0, end=1),
    )
    bars = chart.quad(
        "left", "right", "accuracy", 0, source=source, fill_color=TRAIN, line_color=_PAPER, legend_label="accuracy"
    )
    chart.scatter(
        "confidence", "accuracy", source=source, color=VALIDATION, size=8, marker="diamond",
        legend_label="mean confidence",
    )  # fmt: skip
    chart.line([0, 1], [0, 1], color=_INK, line_dash="dashed", legend_label="ideal")
    percent = "{0.0 %}"
    tooltips = [("confidence", f"@confidence{percent}"), ("accuracy", f"@accuracy{percent}"), ("images", "@count")]
    _add_hover(chart, [bars], tooltips)
    _finish(chart, "accuracy")
    chart.xaxis.formatter = NumeralTickFormatter(format="0 %")
    return json_item(chart)


def traces(groups: Sequence[tuple[str, Sequence[tuple[str, History]]]], metric: str) -> Item:
    """Return a chart of a metric over the epochs for groups of runs.

    Each run has a thin line, each group its mean and a band of ± 1 standard deviation. Each mean ends with the
    shortest run of its group. A click on the legend hides a group.

    Args:
        groups: The label of each group, and the name and history of each of its runs.
        metric: The metric, such as `val/accuracy`.
    """
    height = 380 + _LEGEND_LINE * min(len(groups), _MOST_IN_LEGEND)
    chart = _new_chart(metric, x_label="epoch", y_label=metric, height=height)
    entries: list[LegendItem] = []
    hovered: list[Any] = []
    for number, (label, runs) in enumerate(groups):
        colour, dash = _look(number)
        drawn: list[Any] = []
        for name, history in runs:
            source = ColumnDataSource(
                {
                    "epoch": [row["epoch"] for row in history],
                    "value": [row[metric] for row in history],
                    "run": [_plain(name)] * len(history),
                    "group": [_plain(label)] * len(history),
                }
            )
            drawn.append(chart.line("epoch", "value", source=source, color=colour, line_width=1, line_alpha=0.45))
            drawn.append(chart.scatter("epoch", "value", source=source, color=colour, size=5, alpha=0.5))
            hovered.append(drawn[-1])
        rows = list(zip(*(history for _, history in runs), strict=False))
        values = np.array([[run[metric] for run in row] for row in rows])
        epochs = [row[0]["epoch"] for row in rows]
        mean, spread = mean_and_deviation(values)
        if len(runs) > 1:
            drawn.append(chart.varea(epochs, mean - spread, mean + spread, color=colour, alpha=0.15))
        drawn.append(chart.line(epochs, mean, color=colour, line_width=2.5, line_dash=dash))
        if number < _MOST_IN_LEGEND:
            entries.append(LegendItem(label=_in_legend(label), renderers=drawn))
    chart.add_layout(Legend(items=entries, click_policy="hide", location="top_left"), "below")
    tooltips = [
        ("run", "@run"),
        ("group", "@group"),
        ("epoch", "@epoch"),
        (metric, _value_format("@value", metric)),
    ]
    _add_hover(chart, hovered, tooltips)
    _finish(chart, metric)
    return json_item(chart)


def parallel(columns: Mapping[str, Sequence[str]], values: Sequence[float], metric: str, pruned: int = 0) -> Item:
    """Return parallel coordinates: a line per job or trial through its settings to its value of the metric.

    Args:
        columns: The settings, as text, by key.
        values: The value of the metric, for each job.
        metric: The metric.
        pruned: How many of the jobs, at the end, are pruned trials, which are drawn faintly.
    """
    scale, unit = (100, " %") if "accuracy" in metric else (1, "")
    result = axis_of([f"{value * scale:.6g}" for value in values], most_ticks=0)
    ticks = {f"{text}{unit}": place for text, place in result.ticks.items()}
    axes = [*map(axis_of, columns.values()), replace(result, ticks=ticks)]
    names = [*map(_plain, _short_keys([*columns])), _plain(metric)]
    lines = [[axis.places[number] for axis in axes] for number in range(len(values))]
    data: dict[str, Sequence[Any]] = {
        "xs": [list(range(len(axes)))] * len(values),
        "ys": lines,
        "value": list(values),
        **{f"c{index}": [*map(_plain, texts)] for index, texts in enumerate(columns.values())},
    }
    chart = figure(
        height=420,
        x_range=Range1d(start=-0.3, end=len(axes) - 0.5),
        y_range=Range1d(start=-0.06, end=1.06),
        **_STYLE,
    )
    drawn = _draw_lines(chart, data, values, pruned)
    for position, axis in enumerate(axes):
        _draw_axis(chart, position, axis)
    chart.xaxis.ticker = FixedTicker(ticks=list(range(len(axes))))
    chart.xaxis.major_label_overrides = dict(enumerate(names))
    chart.yaxis.visible = chart.grid.visible = False
    tooltips = [(name, f"@c{index}") for index, name in enumerate(names[:-1])]
    tooltips.append((names[-1], _value_format("@value", metric)))
    hover = HoverTool(renderers=drawn, tooltips=tooltips, line_policy="interp")
    chart.add_tools(hover)
    _finish(chart, "")
    return json_item(chart)


def _draw_lines(
    chart: figure, data: Mapping[str, Sequence[Any]], values: Sequence[float], pruned: int
) -> list[Any]:
    """Draw the lines of parallel coordinates; the last `pruned` ones faintly, with a legend."""
    finished = len(values) - pruned
    low, high = min(values[:finished]), max(values[:finished])
    colour = linear_cmap("value", RAMP, low, high if high > low else low + 1)
    looks: list[tuple[str, slice, dict[str, Any]]] = [
        ("finished", slice(finished), {"line_color": colour, "line_width": 2, "line_alpha": 0.75}),
        ("pruned", slice(finished, None), {"line_color": _QUIET, "line_dash": "dotted", "line_alpha": 0.6}),
    ]
    drawn: list[Any] = []
    entries: list[LegendItem] = []
    for label, part, look in looks[: 1 + bool(pruned)]:
        source = ColumnDataSource({name: list(column[part]) for name, column in data.items()})
        drawn.append(chart.multi_line("xs", "ys", source=source, **look))
        drawn[-1].hover_glyph = MultiLine(xs="xs", ys="ys", line_width=5, line_color=VALIDATION)
        entries.append(LegendItem(label=label, renderers=drawn[-1:]))
    if pruned:
        chart.add_layout(Legend(items=entries, click_policy="hide", location="top_left"), "below")
    return drawn


def _draw_axis(chart: figure, position: int, axis: ParallelAxis) -> None:
    """Draw an axis of parallel coordinates, with its labels above the lines."""
    chart.line([position, position], [0, 1], color=_QUIET)
    labels = chart.text(
        [position] * len(axis.ticks), [*axis.ticks.values()], text=[*map(_plain, axis.ticks)], x_offset=5,
        text_color=_INK, text_font_size="11px", text_baseline="middle",
    )  # fmt: skip
    labels.glyph.update(background_fill_color=_PAPER, background_fill_alpha=0.8)


def dots(rows: Sequence[str], series: Sequence[tuple[str, Sequence[float | None]]], label: str) -> Item:
    """Return a chart with a row per class and a dot per group: for example, the recall of each class."""
    names = _distinct(rows)
    chart = figure(
        y_range=FactorRange(factors=names[::-1]), height=min(max(280, 30 * len(names) + 120), 900), **_STYLE
    )
    entries: list[LegendItem] = []
    hovered: list[Any] = []
    for number, (group, values) in enumerate(series):
        known = [one for one in zip(names, map(_plain, rows), values, strict=True) if one[-1] is not None]
        source = ColumnDataSource(
            {
                "name": [name for name, _, _ in known],
                "whole": [whole for _, whole, _ in known],
                "value": [value for _, _, value in known],
                "group": [_plain(group)] * len(known),
            }
        )
        colour, _ = _look(number)
        marker = ("circle", "square", "triangle", "diamond", "inverted_triangle", "hex")[number % 6]
        drawn = chart.scatter("value", "name", source=source, color=colour, size=10, marker=marker, alpha=0.8)
        hovered.append(drawn)
        entries.append(LegendItem(label=_in_legend(group), renderers=list[Any]([drawn])))
    chart.add_layout(Legend(items=entries, click_policy="hide", location="top_left"), "below")
    chart.xaxis.axis_label = _plain(label)
    _add_hover(chart, hovered, [("group", "@group"), ("class", "@whole"), (label, "@value{0.0 %}")])
    _finish(chart, "")
    chart.xaxis.formatter = NumeralTickFormatter(format="0 %")
    return json_item(chart)


def trials(
    numbers: Sequence[int],
    values: Sequence[float],
    best: Sequence[float],
    metric: str,
    pruned: Sequence[tuple[int, float]] = (),
) -> Item:
    """Return a chart of the value of each finished trial, the best value so far and, faintly, pruned trials."""
    chart = _new_chart(metric, x_label="trial", y_label=metric)
    source = ColumnDataSource({"trial": list(numbers), "value": list(values), "best": list(best)})
    chart.step("trial", "best", source=source, color=MARK, mode="after", line_width=2, legend_label="best so far")
    drawn = [chart.scatter("trial", "value", source=source, color=TRAIN, size=8, legend_label="finished")]
    if pruned:
        ended = ColumnDataSource(dict(zip(("trial", "value"), map(list, zip(*pruned, strict=True)), strict=True)))
        drawn.append(
            chart.scatter(
                "trial", "value", source=ended, line_color=_QUIET, fill_color=None, line_alpha=0.7, size=8,
                legend_label="pruned",
            )
        )  # fmt: skip
    _add_hover(chart, drawn, [("trial", "@trial"), (metric, _value_format("@value", metric))])
    _finish(chart, metric)
    return json_item(chart)


# ── Style ────────────────────────────────────────────────────────────────────────────────────────────────────────

_STYLE: dict[str, Any] = {
    "sizing_mode": "stretch_width",
    "tools": "pan,wheel_zoom,box_zoom,reset",
    "active_scroll": None,
    "toolbar_location": "above",
    "background_fill_color": None,
    "border_fill_color": None,
    "outline_line_color": None,
}


def _new_chart(metric: str, *, x_label: str, y_label: str, height: int = 340, **ranges: Any) -> figure:
    chart = figure(height=height, **_STYLE, **ranges)
    chart.xaxis.axis_label, chart.yaxis.axis_label = _plain(x_label), _plain(y_label)
    if "accuracy" in metric:
        chart.yaxis.formatter = NumeralTickFormatter(format="0.[00] %")
    return chart


def _finish(chart: figure, metric: str) -> None:
    """Set the colours of axes, grid and legend, and integer ticks for epochs."""
    for axis in chart.axis:
        axis.axis_label_text_color = axis.major_label_text_color = _INK
        axis.axis_line_color = axis.major_tick_line_color = _QUIET
        axis.minor_tick_line_color = None
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "12px"
    chart.grid.grid_line_color = _LINE
    for axis in chart.xaxis:
        if axis.axis_label in ("epoch", "trial"):
            axis.ticker = BasicTicker(min_interval=1)
            axis.formatter = NumeralTickFormatter(format="0")
    if chart.legend and chart.legend[0] in chart.center:  # outside, where it hides nothing
        for legend in chart.legend:
            legend.orientation, legend.location = "horizontal", "top_left"
            chart.add_layout(legend, "below")
    for legend in chart.legend:
        legend.background_fill_color, legend.background_fill_alpha = _PAPER, 0.8
        legend.label_text_color, legend.label_text_font_size = _INK, "12px"
        legend.border_line_color = None
    chart.toolbar.logo = None


def _add_hover(chart: figure, renderers: Sequence[Any], tooltips: Sequence[tuple[str, str]]) -> None:
    chart.add_tools(
        HoverTool(renderers=list(renderers), tooltips=[(_plain(name), value) for name, value in tooltips])
    )


def _value_format(column: str, metric: str) -> str:
    return f"{column}{{0.00 %}}" if "accuracy" in metric else f"{column}{{0.0000}}"


def _look(number: int) -> tuple[str, str]:
    """Return the colour and dash pattern of a group; black becomes the colour of the text."""
    colour = GROUPS[number % len(GROUPS)]
    return (_INK if colour == "#000000" else colour), _DASHES[number // len(GROUPS) % len(_DASHES)]


def _plain(text: str) -> str:
    """Return a text that Bokeh does not take for TeX, without credentials and control characters."""
    return (
        escape_controls(mask_credentials(text), one_line=True).replace("$$", "$\u200b$").replace("\\", "\\\u200b")
    )


def _in_legend(text: str) -> str:
    """Return a label short enough for a phone: if it is long, with short keys and, if necessary, no middle."""
    text = _plain(text)
    if len(text) > _LONGEST_LABEL:
        text = re.sub(r"\b(?:\w+\.)+(\w+)=", r"\1=", text)
    return text if len(text) <= _LONGEST_LABEL else shorten_label(text, _LONGEST_LABEL)


def _short_keys(keys: Sequence[str]) -> list[str]:
    """Return the last part of each key, such as `learning_rate`; the whole key if that is ambiguous or vague."""
    last = [key.rpartition(".")[2] for key in keys]
    vague = {"name", "type", *(short for short in last if last.count(short) > 1)}
    return [key if short in vague else short for short, key in zip(last, keys, strict=True)]


def _distinct(names: Sequence[str]) -> list[str]:
    """Return short names for an axis, which must all differ."""
    shown: list[str] = []
    for short in cut_labels([*map(_plain, names)], LONGEST):
        while short in shown or not short:
            short += "\u200b"
        shown.append(short)
    return shown
