"""The tables of a comparison: the results of each group, and which differences are significant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from mnist_exp.config.metric_directions import Direction
from mnist_exp.report.tables import percent, print_table
from mnist_exp.sweeps.groups import Group
from mnist_exp.sweeps.intervals import ALPHA, Difference, differences, mean_of

_NOT = "not distinguishable"


@dataclass(frozen=True)
class Pair:
    """Two groups, the number of seeds they share, and, if there are at least two, the tested difference."""

    first: Group
    second: Group
    seeds: int
    difference: Difference | None


def best_first(groups: Sequence[Group], metric: str, direction: Direction) -> list[Group]:
    """Return the groups sorted by their mean of a metric, best first. Every run must have a value of it."""
    sign = 1 if direction == "min" else -1
    return sorted(groups, key=lambda group: sign * mean_of(list(group.values(metric).values())).mean)


def paired(groups: Sequence[Group], metric: str) -> list[Pair]:
    """Return every pair of groups, and test the difference between their runs, paired by seed.

    The tests are corrected for the number of pairs with at least two common seeds.
    """
    common: list[tuple[Group, Group, list[int]]] = []
    for first, second in combinations(groups, 2):
        seeds = sorted(first.values(metric).keys() & second.values(metric).keys())
        common.append((first, second, seeds))
    told = iter(
        differences(
            [
                ([first.values(metric)[seed] for seed in seeds], [second.values(metric)[seed] for seed in seeds])
                for first, second, seeds in common
                if len(seeds) > 1
            ]
        )
    )
    return [
        Pair(first, second, len(seeds), next(told) if len(seeds) > 1 else None) for first, second, seeds in common
    ]


def verdict(better: str, worse: str, *, is_real: bool) -> str:
    """Return `A is better than B`, or that the two are not distinguishable."""
    return f"{better} is better than {worse}" if is_real else _NOT


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
    groups: Sequence[Group], metrics: Sequence[str], decisive: str, direction: Direction
) -> list[Pair]:
    """Print a row per metric and pair of groups, and return the pairs of the `decisive` metric.

    Only the rows of that metric contain a p-value and a verdict.
    """
    rows, judged = [], []
    for metric in metrics:
        pairs = paired(groups, metric)
        if metric == decisive:
            judged = pairs
        shown = metric
        for pair in pairs:
            if pair.difference is not None or metric == decisive:
                row = [shown, f"{pair.first.mark} − {pair.second.mark}", str(pair.seeds)]
                rows.append(row + _difference(pair, metric, direction if metric == decisive else None))
                shown = ""
    header = ["metric", "pair", "seeds", "difference", "95 % interval", "p", "verdict"]
    print_table(header, rows, right=("seeds", "difference", "95 % interval", "p"))
    return judged


def _difference(pair: Pair, metric: str, direction: Direction | None) -> list[str]:
    """Format a difference; with a p-value and a verdict only if the better direction is given."""
    difference, decisive = pair.difference, direction is not None
    if difference is None:
        return ["–", "–", "–", "needs two common seeds" if decisive else "–"]
    better, worse = pair.first.mark, pair.second.mark
    if (difference.mean < 0) != (direction == "min"):
        better, worse = worse, better
    return [
        _plain(difference.mean, metric, signed=True),
        _interval(difference.interval, metric, signed=True),
        _chance(difference.p) if decisive else "–",
        verdict(better, worse, is_real=difference.is_real) if decisive else "–",
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
        shown.append([f"{first} − {second}", *counts, _chance(p), verdict(better, worse, is_real=p < ALPHA)])
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
