"""Describe groups of runs and their differences in JSON documents."""

from __future__ import annotations

from mnist_exp.config.metric_directions import Direction
from mnist_exp.report.documents import GroupEntry, PairEntry
from mnist_exp.sweeps.comparison import Pair
from mnist_exp.sweeps.groups import Group
from mnist_exp.sweeps.intervals import mean_of


def group_entry(group: Group, metric: str) -> GroupEntry:
    """Return the entry of a group, with its mean of the metric that decides."""
    mean = mean_of(list(group.values(metric).values()))
    names = dict.fromkeys(name for run in group.runs for name in run.metrics)
    return GroupEntry(
        mark=group.mark,
        label=group.label,
        runs=[str(run.summary.path.resolve()) for run in group.runs],
        seeds=[run.seed for run in group.runs],
        mean=mean.mean,
        deviation=mean.deviation,
        interval=mean.interval,
        metrics={name: {str(run.seed): run.value(name) for run in group.runs} for name in (*names, "seconds")},
    )


def pair_entry(pair: Pair, direction: Direction) -> PairEntry:
    """Return the entry of a pair of groups."""
    difference = pair.difference
    better = None
    if difference is not None and pair.verdict == "different":
        is_first = (difference.mean < 0) == (direction == "min")
        better = pair.first.mark if is_first else pair.second.mark
    return PairEntry(
        first=pair.first.mark,
        second=pair.second.mark,
        seeds=pair.seeds,
        difference=difference.mean if difference else None,
        interval=difference.interval if difference else None,
        smallest=difference.smallest if difference else None,
        p=difference.p if difference else None,
        sign_flip_p=pair.sign_flip,
        verdict=pair.verdict,
        better=better,
    )
