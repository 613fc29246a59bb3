"""The tables of a comparison: the results of each group, and which differences are significant."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from mnist_exp.config.metric_directions import Direction
from mnist_exp.report.tables import percent, print_table
from mnist_exp.sweeps.groups import Group
from mnist_exp.sweeps.intervals import (
    ALPHA,
    Difference,
    Verdict,
    differences,
    holm,
    mean_of,
    sign_flip,
    verdicts,
)

_NOT = "not distinguishable"
_WITHHELD = {
    "unequal": "withheld: unequal spreads",
    "extreme": "withheld: a group's spread is over ten times another's",
    "diverged": "withheld: a run diverged",
}
_MOST_GROUPS = 6  # in the short table and the summary


@dataclass(frozen=True)
class Pair:
    """Two groups and the number of seeds they share; if there are at least two, the tested difference."""

    first: Group
    second: Group
    seeds: int
    difference: Difference | None = None
    verdict: Verdict | None = None
    sign_flip: float | None = None
    """The p-value of the sign-flip test, corrected for the number of pairs; None for too few seeds."""


def best_first(groups: Sequence[Group], metric: str, direction: Direction) -> list[Group]:
    """Return the groups sorted by their mean of a metric, best first. Every run must have a value of it."""
    sign = 1 if direction == "min" else -1
    return sorted(groups, key=lambda group: sign * mean_of(list(group.values(metric).values())).mean)


def paired(groups: Sequence[Group], metric: str, diverged: Container[str] = ()) -> list[Pair]:
    """Return every pair of groups, and test the difference between their runs, paired by seed.

    The tests are corrected for the number of pairs with at least two common seeds.

    Args:
        groups: The groups.
        metric: The metric to compare.
        diverged: The marks of the groups of which a run diverged, so that the others are too good.
    """
    pairs, values = [], []
    for first, second in combinations(groups, 2):
        ours, theirs = first.values(metric), second.values(metric)
        seeds = sorted(ours.keys() & theirs.keys())
        pairs.append(Pair(first, second, len(seeds)))
        if len(seeds) > 1:
            values.append(([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]))
    found = differences(values)
    flips = [sign_flip(*pair) for pair in values]
    corrected = iter(holm(np.array([p for p in flips if p is not None])))
    tested = iter(
        [
            (difference, verdict, None if p is None else float(next(corrected)))
            for difference, verdict, p in zip(found, verdicts(found), flips, strict=True)
        ]
    )
    judged = []
    for pair in pairs:
        if pair.seeds > 1:
            difference, verdict, p = next(tested)
            if pair.first.mark in diverged or pair.second.mark in diverged:
                verdict = "diverged"
            pair = replace(pair, difference=difference, verdict=verdict, sign_flip=p)
        judged.append(pair)
    return judged


def verdict_on(better: str, worse: str, verdict: Verdict) -> str:
    """Return `A is better than B`, that the two are not distinguishable, or why there is no verdict."""
    return f"{better} is better than {worse}" if verdict == "different" else _WITHHELD.get(verdict, _NOT)


def summary(groups: Sequence[Group], pairs: Sequence[Pair], metric: str, direction: Direction) -> str:
    """Return one sentence: which group is best, and what can be said of it and each of the others."""
    best = groups[0]
    if len(groups) == 1:
        found = mean_of(list(best.values(metric).values()))
        interval = _interval(_possible(found.interval, metric), metric)
        return (
            f"One group, whose {found.n} runs differ by their seed alone: {metric} {_value(found.mean, metric)}"
            + (f", 95 % interval {interval}" if found.interval else "")
        )
    better: list[str] = []
    worse: list[str] = []
    other: dict[str, list[str]] = {}
    for pair in pairs:
        if pair.first is not best:
            continue
        mark = pair.second.mark
        if pair.difference is None or pair.verdict is None:
            other.setdefault("not tested, for want of two common seeds, against", []).append(mark)
        elif pair.verdict == "different":
            text = f"{mark} by {_range(pair.difference, metric)}"
            (better if (pair.difference.mean < 0) == (direction == "min") else worse).append(text)
        elif pair.verdict == "same":
            other.setdefault("not distinguishable from", []).append(mark)
        else:
            other.setdefault(f"verdict {_WITHHELD[pair.verdict]}, on", []).append(mark)
    statements = [f"{text} {_listed(marks)}" for text, marks in other.items()]
    statements += [f"better than {_listed(better)}"] * bool(better) + [f"worse than {_listed(worse)}"] * bool(
        worse
    )
    return "; ".join([f"{best.mark} is best" if not worse else f"{best.mark} has the best mean", *statements])


def _listed(texts: Sequence[str]) -> str:
    more = len(texts) - _MOST_GROUPS
    return ", ".join(texts[:_MOST_GROUPS]) + (f" and {more} more" if more > 0 else "")


def _range(difference: Difference, metric: str) -> str:
    """Return the size of a difference: `0.30 to 0.60 points`."""
    assert difference.interval is not None
    low, high = sorted(map(abs, difference.interval))
    unit = " points" if "accuracy" in metric else f" of {metric}"
    return f"{_plain(low, metric)} to {_plain(high, metric)}{unit}"


def sensitivity(pairs: Sequence[Pair], metric: str) -> str | None:
    """Return the smallest differences that the seeds could show, as a sentence; None if nothing was tested."""
    found = [
        pair.difference.smallest for pair in pairs if pair.difference and pair.difference.smallest is not None
    ]
    if not found:
        return None
    least, most = (_plain(value, metric) for value in (min(found), max(found)))
    unit = " points" if "accuracy" in metric else f" of {metric}"
    size = f"{least}{unit}" if least == most else f"{least} to {most}{unit}, depending on the pair,"
    return f"So many seeds with this spread could show differences of {size} or more."


def print_short(groups: Sequence[Group], pairs: Sequence[Pair], metric: str, direction: Direction) -> None:
    """Print a row for each of the best groups: its mean and its difference from the best one."""
    rows = []
    against = {pair.second.mark: pair for pair in pairs if pair.first is groups[0]}
    for group in groups[:_MOST_GROUPS]:
        found = mean_of(list(group.values(metric).values()))
        interval = _interval(_possible(found.interval, metric), metric)
        row = [group.mark, group.label, str(found.n), _value(found.mean, metric), interval]
        if pair := against.get(group.mark):
            cells = _difference(pair, metric, direction)
            row += [cells[0], cells[-1]]
        rows.append(row + [""] * (7 - len(row)))
    header = ["", "group", "seeds", metric, "95 % interval", f"{groups[0].mark} − it", "verdict"]
    print_table(header, rows, right=("seeds", metric, "95 % interval", f"{groups[0].mark} − it"))


def print_means(groups: Sequence[Group], metrics: Sequence[str]) -> None:
    """Print a row per metric and group: the mean, its 95 % interval, and the standard deviation."""
    rows = []
    for metric in metrics:
        shown = metric
        for group in groups:
            values = list(group.values(metric).values())
            if not values:
                continue
            found = mean_of(values)
            deviation = "–" if found.deviation is None else _plain(found.deviation, metric)
            interval = _interval(_possible(found.interval, metric), metric)
            rows.append([shown, group.mark, str(found.n), _value(found.mean, metric), deviation, interval])
            shown = ""
    header = ["metric", "group", "n", "mean", "sd", "95 % interval"]
    print_table(header, rows, right=("n", "mean", "sd", "95 % interval"))


def print_pairs(
    groups: Sequence[Group], metrics: Sequence[str], decisive: str, judged: Sequence[Pair], direction: Direction
) -> None:
    """Print a row per metric and pair of groups.

    Only the rows of the `decisive` metric, whose pairs are `judged`, contain p-values and a verdict.
    """
    rows = []
    for metric in metrics:
        pairs = judged if metric == decisive else paired(groups, metric)
        shown = metric
        for pair in pairs:
            if pair.difference is not None or metric == decisive:
                row = [shown, f"{pair.first.mark} − {pair.second.mark}", str(pair.seeds)]
                rows.append(row + _difference(pair, metric, direction if metric == decisive else None))
                shown = ""
    header = [
        "metric",
        "pair",
        "seeds",
        "difference",
        "95 % interval",
        "could show",
        "p",
        "sign-flip p",
        "verdict",
    ]
    print_table(header, rows, right=header[2:-1])


def _difference(pair: Pair, metric: str, direction: Direction | None) -> list[str]:
    """Format a difference; with p-values and a verdict only if the better direction is given."""
    difference, decisive = pair.difference, direction is not None
    if difference is None or pair.verdict is None:
        return ["–", "–", "–", "–", "–", "needs two common seeds" if decisive else "–"]
    better, worse = pair.first.mark, pair.second.mark
    if (difference.mean < 0) != (direction == "min"):
        better, worse = worse, better
    return [
        _plain(difference.mean, metric, signed=True),
        _interval(difference.interval, metric, signed=True),
        "–" if difference.smallest is None else _plain(difference.smallest, metric),
        _chance(difference.p) if decisive else "–",
        _chance(pair.sign_flip) if decisive and pair.sign_flip is not None else "–",
        verdict_on(better, worse, pair.verdict) if decisive else "–",
    ]


def print_mcnemar(rows: Sequence[tuple[str, str, int, int, float]]) -> None:
    """Print the result of McNemar's test for each pair of models.

    Args:
        rows: The two models, the number of images that only the first classifies correctly, the number that only
            the second does, and the corrected p-value.
    """
    shown = []
    for first, second, only_first, only_second, p in rows:
        better, worse = (first, second) if only_first >= only_second else (second, first)
        counts = [str(only_first), str(only_second)]
        shown.append(
            [
                f"{first} − {second}",
                *counts,
                _chance(p),
                verdict_on(better, worse, "different" if p < ALPHA else "same"),
            ]
        )
    header = ["models", "only the first right", "only the second right", "p", "verdict"]
    print_table(header, shown, right=header[1:4])


def _value(value: float, metric: str) -> str:
    return percent(value) if "accuracy" in metric else _plain(value, metric)


def _plain(value: float, metric: str, *, signed: bool = False) -> str:
    """Format a value; accuracies are in percentage points."""
    sign = "+" if signed else ""
    if "accuracy" in metric:
        return f"{100 * value:{sign}.2f}"
    return f"{value:{sign}.1f}" if metric == "seconds" else f"{value:{sign}.4f}"


def _possible(interval: tuple[float, float] | None, metric: str) -> tuple[float, float] | None:
    """Clip the interval of a mean to the range of the metric, which does not change its coverage."""
    if interval is None or not (metric == "seconds" or "accuracy" in metric):
        return interval
    return max(interval[0], 0.0), interval[1] if metric == "seconds" else min(interval[1], 1.0)


def _interval(interval: tuple[float, float] | None, metric: str, *, signed: bool = False) -> str:
    return "–" if interval is None else " … ".join(_plain(end, metric, signed=signed) for end in interval)


def _chance(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
