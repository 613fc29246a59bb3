"""The recall of each class in groups of runs, for a report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from mnist_exp.config.overrides import Request
from mnist_exp.data.dataset import SET_NAMES
from mnist_exp.engine.model_report import ALL_CLASSES
from mnist_exp.engine.report_subject import Scored, collect_subject
from mnist_exp.report import charts, static_charts
from mnist_exp.report.html_page import Block, Bullets, Chart, Picture, Table, Text, drawn
from mnist_exp.sweeps.groups import Group, TrainedRun
from mnist_exp.text import format_percent

_MOST_GROUPS = 6  # scored, the best ones
_MOST_MODELS = 24


def class_section(request: Request, groups: Sequence[Group]) -> list[Block]:
    """Return the recall of each class: means over the runs of the best groups, and their differences."""
    recalls: list[tuple[Group, npt.NDArray[np.float64]]] = []
    names: tuple[str, ...] = ()
    parts: dict[str, None] = {}
    lacking: dict[str, None] = {}
    most = max(1, _MOST_MODELS // max(1, min(len(groups), _MOST_GROUPS)))
    for group in groups[:_MOST_GROUPS]:
        found = []
        for run in group.runs[:most]:
            scored, reasons = _score(request, run, names)
            lacking |= dict.fromkeys(f"{run.summary.name}: {reason}" for reason in reasons)
            if scored is not None:
                names = scored.class_names
                parts[scored.name] = None
                found.append([np.nan if one.recall is None else one.recall for one in scored.assessment.classes])
        if found:
            recalls.append((group, np.array(found).mean(axis=0)))
    blocks: list[Block] = [_differences(recalls, names, list(parts))] if recalls else []
    if recalls:
        blocks += _charted(recalls, names, _scope(groups, most))
    if lacking:
        blocks += [Text("Models that could not be scored:"), Bullets(list(lacking)[:10])]
    return blocks


def _score(request: Request, run: TrainedRun, names: tuple[str, ...]) -> tuple[Scored | None, Sequence[str]]:
    """Return a run's predictions, or None with the reasons. `names` are the classes of other runs, if known."""
    subject = collect_subject(request, run.summary)
    if subject.scored is None:
        return None, subject.missing
    if names and subject.scored.class_names != names:
        return None, ["its classes have other names"]
    return subject.scored, ()


def _differences(
    recalls: Sequence[tuple[Group, npt.NDArray[np.float64]]], names: Sequence[str], parts: Sequence[str]
) -> Text:
    """Return which classes have the lowest recall, and where the best group differs most, in words."""
    best, values = recalls[0]
    order = [int(index) for index in np.argsort(values)[:3] if values[index] < 1]
    weakest = ", ".join(f"{names[index]} ({format_percent(values[index])})" for index in order)
    part = " and ".join(SET_NAMES[part] for part in parts)
    lowest = f"these classes have the lowest recall ({part}): {weakest}"
    text = f"In {best.mark}, {lowest if weakest else f'all images are classified correctly ({part})'}."
    for other, theirs in recalls[1:2]:
        gaps = values - theirs
        index = int(np.nanargmax(np.abs(gaps)))
        text += (
            f" The largest difference from {other.mark} is in class {names[index]}: "
            f"{100 * gaps[index]:+.2f} points."
        )
    return Text(text)


def _scope(groups: Sequence[Group], most: int) -> str:
    """Return which runs are scored, in words: `most` in each group."""
    shown = groups[:_MOST_GROUPS]
    runs = f"the first {most} runs" if max(len(group.runs) for group in shown) > most else "the runs"
    return (
        f"{runs} of each of the {len(shown)} best groups" if len(shown) < len(groups) else f"{runs} of each group"
    )


def _charted(
    recalls: Sequence[tuple[Group, npt.NDArray[np.float64]]], names: Sequence[str], scope: str
) -> list[Block]:
    marks = [f"{group.mark}  {group.label}" for group, _ in recalls]
    series = [
        (mark, [None if np.isnan(value) else float(value) for value in values])
        for mark, (_, values) in zip(marks, recalls, strict=True)
    ]
    png = drawn(partial(static_charts.class_dots, names, series, "recall"))
    caption = f"Recall of each class: the share of its images that is recognized, as a mean over {scope}."
    columns = [group.mark for group, _ in recalls]
    rows = [[name, *(format_percent(of[number]) for _, of in series)] for number, name in enumerate(names)]
    return [
        Chart(charts.dots(names, series, "recall"), Picture(png, f"{caption} The table has the values.", caption)),
        Table(
            "Recall of each class by group",
            ["class", *columns],
            rows,
            columns,
            interactive=True,
            elsewhere=ALL_CLASSES,
        ),
    ]
