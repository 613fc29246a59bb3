"""The tables of a comparison: the results of each group, and which differences are significant."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import numpy as np

from mnist_exp.config.metric_directions import Direction
from mnist_exp.report.class_labels import cut_labels
from mnist_exp.report.tables import print_table
from mnist_exp.sweeps.groups import Group
from mnist_exp.sweeps.intervals import (
    ALPHA,
    POWER,
    STRICT,
    UNEQUAL,
    Difference,
    Verdict,
    differences,
    holm,
    mean_of,
    sign_flip,
    verdicts,
)
from mnist_exp.text import format_loss, format_percent

_NOT = "not distinguishable"
_WITHHELD = {
    "unequal": "withheld: unequal spreads",
    "extreme": "withheld: a group's spread is over ten times another's",
    "diverged": "withheld: a run diverged",
}
_REMEDIES = {
    "unequal": "for unequal spreads, add seeds in a single step",
    "extreme": "for a spread over ten times another's, train longer, or change the config or leave out its runs",
    "diverged": "for a config with a diverged run, change it or leave out its runs",
}
_MOST_SEEDS = 1000  # larger numbers of seeds are not stated
_MOST_GROUPS = 6  # maximum number of groups in the short table and the summary
_LONGEST_LABEL = 60  # columns, in the short table


@dataclass(frozen=True)
class Pair:
    """Two groups and the number of seeds that they share; if they share two or more, the tested difference."""

    first: Group
    second: Group
    seeds: int
    difference: Difference | None = None
    verdict: Verdict | None = None
    sign_flip: float | None = None
    """The p-value of the sign-flip test, corrected for the number of pairs; None if there are too few seeds."""


def sort_groups(groups: Sequence[Group], metric: str, direction: Direction) -> list[Group]:
    """Return the groups sorted by their mean of a metric, best first. Every run must have a value for it."""
    sign = 1 if direction == "min" else -1
    return sorted(groups, key=lambda group: sign * mean_of(list(group.values(metric).values())).mean)


def compare_pairs(groups: Sequence[Group], metric: str, diverged: Container[str] = ()) -> list[Pair]:
    """Return every pair of groups, and test the difference between their runs, paired by seed.

    The tests are corrected for the number of pairs with at least two common seeds.

    Args:
        groups: The groups.
        metric: The metric to compare.
        diverged: The marks of groups with a diverged run. Judged by their other runs alone, they look too good.
    """
    shared = [_shared_values(first, second, metric) for first, second in combinations(groups, 2)]
    tested = [values for values in shared if len(values[0]) > 1]
    tests = differences(tested)
    flips = [sign_flip(*values) for values in tested]
    corrected = iter(holm(np.array([p for p in flips if p is not None])))
    flips = [None if p is None else float(next(corrected)) for p in flips]
    results = zip(tests, verdicts(tests), flips, strict=True)
    pairs = []
    for (first, second), (values, _) in zip(combinations(groups, 2), shared, strict=True):
        if len(values) < 2:
            pairs.append(Pair(first, second, len(values)))
            continue
        difference, verdict, p = next(results)
        if first.mark in diverged or second.mark in diverged:
            verdict = "diverged"
        pairs.append(Pair(first, second, len(values), difference, verdict, p))
    return pairs


def _shared_values(first: Group, second: Group, metric: str) -> tuple[list[float], list[float]]:
    """Return two groups' values of a metric for the seeds that they share."""
    ours, theirs = first.values(metric), second.values(metric)
    seeds = sorted(ours.keys() & theirs.keys())
    return [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]


def format_verdict(better: str, worse: str, verdict: Verdict) -> str:
    """Return `A is better than B`, that the two are not distinguishable, or why there is no verdict."""
    return f"{better} is better than {worse}" if verdict == "different" else _WITHHELD.get(verdict, _NOT)


def summarize_groups(groups: Sequence[Group], pairs: Sequence[Pair], metric: str, direction: Direction) -> str:
    """Summarize in one sentence which group is best and how it compares with each of the others."""
    best = groups[0]
    if len(groups) == 1:
        mean = mean_of(list(best.values(metric).values()))
        certain = f", 95 % interval {describe_interval(mean.interval, metric)}" if mean.interval else ""
        value = format_value(mean.mean, metric)
        return f"One group of {mean.n} runs that differ only in their seed: {metric} {value}{certain}"
    better: list[str] = []
    worse: list[str] = []
    other: dict[str, list[str]] = {}
    for pair in pairs:
        if pair.first is not best:
            continue
        mark = pair.second.mark
        if pair.difference is None or pair.verdict is None:
            other.setdefault("not tested against {} (fewer than two common seeds)", []).append(mark)
        elif pair.verdict == "different":
            text = f"{mark} by {_format_range(pair.difference, metric)}"
            (better if (pair.difference.mean < 0) == (direction == "min") else worse).append(text)
        elif pair.verdict == "indistinguishable":
            other.setdefault("not distinguishable from {}", []).append(mark)
        else:
            other.setdefault(f"verdict on {{}} {_WITHHELD[pair.verdict]}", []).append(mark)
    statements = [text.format(_join_marks(marks)) for text, marks in other.items()]
    statements += [
        f"{how} than {_join_marks(marks)} (95 % interval{'s' * (len(marks) > 1)})"
        for how, marks in (("better", better), ("worse", worse))
        if marks
    ]
    means = [fmean(group.values(metric).values()) for group in groups]
    equal = [group.mark for group, mean in zip(groups[1:], means[1:], strict=True) if math.isclose(mean, means[0])]
    shared = f", shared with {_join_marks(equal)}" if equal else ""
    leader = f"{best.mark} has the best mean{shared}" if worse or other else f"{best.mark} is best"
    return "; ".join([leader, *statements])


def describe_remedies(pairs: Sequence[Pair]) -> str | None:
    """Return what can be done about the withheld verdicts; None if there are none."""
    found = {pair.verdict for pair in pairs}
    remedies = "; ".join(remedy for verdict, remedy in _REMEDIES.items() if verdict in found)
    return f"Withheld verdicts: {remedies}. See 'mnist-exp help comparing'." if remedies else None


def _join_marks(texts: Sequence[str]) -> str:
    more = len(texts) - _MOST_GROUPS
    return ", ".join(texts[:_MOST_GROUPS]) + f" and {more} more" if more > 1 else ", ".join(texts)


def _format_range(difference: Difference, metric: str) -> str:
    """Return the size of a difference: `0.30 to 0.60 points`."""
    assert difference.interval is not None
    low, high = sorted(map(abs, difference.interval))
    unit = " points" if "accuracy" in metric else f" of {metric}"
    lowest = _format_end(low, metric, signed=False) if low else "0"
    return f"{lowest} to {_format_end(high, metric, signed=False)}{unit}"


def describe_sensitivity(pairs: Sequence[Pair], metric: str) -> str | None:
    """Return the smallest significant differences as a sentence; None if there are no verdicts."""
    judged = [pair.difference for pair in pairs if pair.difference and pair.verdict not in _WITHHELD]
    smallest = [difference.smallest for difference in judged if difference.smallest is not None]
    if not smallest:
        return None
    possible = [value for value in smallest if not _is_impossible(value, metric)]
    if not possible:
        return "With this number of seeds and these spreads, no difference can be significant; add seeds."
    least, most = (_format_number(value, metric) for value in (min(possible), max(possible)))
    unit = " points" if "accuracy" in metric else f" of {metric}"
    size = f"{least}{unit}" if least == most else f"{least} to {most}{unit}, depending on the pair,"
    text = f"With this number of seeds and these spreads, measured differences of at least {size} are significant"
    if stricter := sum(difference.spread_ratio > UNEQUAL for difference in judged):
        where = ", because the spreads differ" if stricter == len(judged) else " for pairs whose spreads differ"
        text += f" (at p < {STRICT}{where})"
    never = len(smallest) - len(possible)
    return f"{text}; for {never} of {len(smallest)} pairs, none can be." if never else f"{text}."


def _is_impossible(difference: float, metric: str) -> bool:
    """Return whether two values of a metric cannot differ as much."""
    return "accuracy" in metric and difference > 1


def describe_seeds_needed(pairs: Sequence[Pair]) -> str | None:
    """Return how many seeds would detect the best group's undetected differences; None if there are none."""
    best = pairs[0].first
    needed = [
        f"{_format_count(pair.difference.enough)} ({best.mark} vs. {pair.second.mark})"
        for pair in pairs
        if pair.first is best and pair.verdict in ("indistinguishable", "unequal") and pair.difference
        if pair.difference.enough is not None
    ]
    if not needed:
        return None
    return (
        f"Seeds per group for a significant result with a probability of {format_percent(POWER, 0)}, if the true "
        f"difference is as measured: {_join_marks(needed)}."
    )


def _format_count(seeds: int) -> str:
    return f"{seeds:,}" if seeds <= _MOST_SEEDS else f"more than {_MOST_SEEDS:,}"


def describe_cut_intervals(pairs: Sequence[Pair]) -> str | None:
    """Return a sentence on the intervals that end at 0; None if there are none."""
    if not any(pair.difference and pair.difference.interval and 0 in pair.difference.interval for pair in pairs):
        return None
    return (
        "An interval that ends at exactly 0 is cut off there: the difference is significant, but its interval, "
        "which is corrected for all pairs at once, would otherwise contain 0."
    )


def print_best_groups(groups: Sequence[Group], pairs: Sequence[Pair], metric: str, direction: Direction) -> None:
    """Print a row for each of the best groups: its short label, its mean and its difference from the best one."""
    header, rows = tabulate_groups(groups, pairs, metric, direction)
    labels = cut_labels([group.label for group in groups], _LONGEST_LABEL)
    shortened = [[row[0], label, *row[2:]] for row, label in zip(rows, labels, strict=True)]
    print_table(header, shortened[:_MOST_GROUPS], right=("seeds", *header[3:-1]))


def tabulate_groups(
    groups: Sequence[Group], pairs: Sequence[Pair], metric: str, direction: Direction
) -> tuple[list[str], list[list[str]]]:
    """Return a header, and a row for each group: its mean and its difference from the best one."""
    rows = []
    against = {pair.second.mark: pair for pair in pairs if pair.first is groups[0]}
    for group in groups:
        mean = mean_of(list(group.values(metric).values()))
        interval = format_interval(clip_interval(mean.interval, metric), metric)
        row = [group.mark, group.label, str(mean.n), format_value(mean.mean, metric), interval]
        if pair := against.get(group.mark):
            cells = _format_difference(pair, metric, direction)
            row += [cells[0], cells[-1]]
        rows.append(row + [""] * (7 - len(row)))
    header = ["", "group", "seeds", metric, "95 % interval", f"{groups[0].mark} − group", "verdict"]
    return header, rows


def print_means(groups: Sequence[Group], metrics: Sequence[str]) -> None:
    """Print a row per metric and group: the mean, its 95 % interval, and the standard deviation."""
    rows = []
    for metric in metrics:
        shown = metric
        for group in groups:
            values = list(group.values(metric).values())
            if not values:
                continue
            mean = mean_of(values)
            deviation = "–" if mean.deviation is None else _format_number(mean.deviation, metric)
            interval = format_interval(clip_interval(mean.interval, metric), metric)
            rows.append([shown, group.mark, str(mean.n), format_value(mean.mean, metric), deviation, interval])
            shown = ""
    header = ["metric", "group", "n", "mean", "sd", "95 % interval"]
    print_table(header, rows, right=("n", "mean", "sd", "95 % interval"))


def print_pairs(
    groups: Sequence[Group], metrics: Sequence[str], decisive: str, judged: Sequence[Pair], direction: Direction
) -> None:
    """Print a row per metric and pair of groups.

    Only the rows of the `decisive` metric, whose pairs are `judged`, contain p-values and a verdict.
    """
    header, rows = tabulate_pairs(groups, metrics, decisive, judged, direction)
    print_table(header, rows, right=header[2:-1])


def tabulate_pairs(
    groups: Sequence[Group], metrics: Sequence[str], decisive: str, judged: Sequence[Pair], direction: Direction
) -> tuple[list[str], list[list[str]]]:
    """Return the header and rows that `print_pairs` prints."""
    rows = []
    for metric in metrics:
        pairs = judged if metric == decisive else compare_pairs(groups, metric)
        shown = metric
        for pair in pairs:
            if pair.difference is not None or metric == decisive:
                row = [shown, f"{pair.first.mark} − {pair.second.mark}", str(pair.seeds)]
                rows.append(row + _format_difference(pair, metric, direction if metric == decisive else None))
                shown = ""
    header = [
        "metric",
        "pair",
        "seeds",
        "difference",
        "95 % interval",
        "detectable",
        "p",
        "sign-flip p",
        "verdict",
    ]
    return header, rows


def _format_difference(pair: Pair, metric: str, direction: Direction | None) -> list[str]:
    """Format a difference, adding p-values and a verdict only if the better direction is known."""
    difference, decisive = pair.difference, direction is not None
    if difference is None or pair.verdict is None:
        return ["–", "–", "–", "–", "–", "needs two common seeds" if decisive else "–"]
    better, worse = pair.first.mark, pair.second.mark
    if (difference.mean < 0) != (direction == "min"):
        better, worse = worse, better
    return [
        _format_number(difference.mean, metric, signed=True),
        format_interval(difference.interval, metric, signed=True),
        _format_smallest(difference.smallest, metric),
        _format_p(difference.p) if decisive else "–",
        _format_p(pair.sign_flip) if decisive and pair.sign_flip is not None else "–",
        format_verdict(better, worse, pair.verdict) if decisive else "–",
    ]


def _format_smallest(smallest: float | None, metric: str) -> str:
    if smallest is None:
        return "–"
    return "> 100" if _is_impossible(smallest, metric) else _format_number(smallest, metric)


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
                _format_p(p),
                format_verdict(better, worse, "different" if p < ALPHA else "indistinguishable"),
            ]
        )
    header = ["models", "only the first right", "only the second right", "p", "verdict"]
    print_table(header, shown, right=header[1:4])


def format_value(value: float, metric: str) -> str:
    """Format a value of a metric; accuracies are in percent."""
    return format_percent(value) if "accuracy" in metric else _format_number(value, metric)


def _format_number(value: float, metric: str, *, signed: bool = False) -> str:
    """Format a value; accuracies are in percentage points."""
    sign = "+" if signed else ""
    if "accuracy" in metric:
        return f"{100 * value:{sign}.2f}"
    return f"{value:{sign}.1f}" if metric == "seconds" else format_loss(value, sign)


def clip_interval(interval: tuple[float, float] | None, metric: str) -> tuple[float, float] | None:
    """Clip the interval of a mean to the range of the metric, which does not change its coverage."""
    if interval is None or not (metric == "seconds" or "accuracy" in metric):
        return interval
    return max(interval[0], 0.0), interval[1] if metric == "seconds" else min(interval[1], 1.0)


def format_interval(interval: tuple[float, float] | None, metric: str, *, signed: bool = False) -> str:
    """Format an interval; those of accuracies are in percentage points.

    An end that is not 0 has as many digits as it needs to differ from 0. The end of a `signed` interval that is
    cut off at 0 has no digits.
    """
    return "–" if interval is None else " … ".join(_format_end(end, metric, signed=signed) for end in interval)


def describe_interval(interval: tuple[float, float] | None, metric: str) -> str:
    """Return the interval of a mean, clipped to the range of the metric, with its unit."""
    return f"{format_interval(clip_interval(interval, metric), metric)}{' %' if 'accuracy' in metric else ''}"


def _format_end(value: float, metric: str, *, signed: bool) -> str:
    text = _format_number(value, metric, signed=signed)
    if value == 0:
        return "0" if signed else text
    if float(text):
        return text
    return f"{100 * value if 'accuracy' in metric else value:{'+' if signed else ''}.1g}"


def _format_p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
