"""Select the runs that can be compared, and the direction in which a metric improves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from mnist_exp.config.metric_directions import Direction, direction_of
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.errors import Problem, RequestError
from mnist_exp.runs.directory import RunSummary
from mnist_exp.runs.lookup import is_finished, read_config
from mnist_exp.suggest import near_or_all
from mnist_exp.sweeps.groups import TrainedRun, map_repeated
from mnist_exp.text import display_path


def direction_by(metric: str, mode: Direction | None) -> Direction:
    """Return whether higher (`max`) or lower values (`min`) of the metric are better.

    Raises `RequestError` if that is unknown, or if `mode` contradicts it.
    """
    known = direction_of(metric)
    if known is None and mode is None:
        message = f"metric={metric}: unknown whether higher or lower values are better; add mode=max or mode=min"
        raise RequestError([Problem("unusable", COMMAND_LINE, message, "mode")])
    if known is not None and mode not in (None, known):
        better = "higher" if known == "max" else "lower"
        message = f"mode={mode}: must be {known}, as {better} values of {metric} are better"
        raise RequestError([Problem("unusable", COMMAND_LINE, message, "mode")])
    return known or mode or "max"


def select_comparable(chosen: Sequence[RunSummary], metric: str) -> tuple[list[TrainedRun], dict[Path, str]]:
    """Return the runs that can be compared, and the reasons for leaving out others.

    Raises `RequestError` if a run is damaged, or none has the metric.
    """
    left_out = {run.path: reason for run in chosen if (reason := _reason_against(run, metric))}
    runs = _read_runs([run for run in chosen if run.path not in left_out])
    known = sorted({name for run in runs for name in run.metrics})
    if runs and metric not in known:
        raise RequestError(f"metric={metric}: not a metric of any of these runs{near_or_all(metric, known)}")
    left_out |= {run.summary.path: reason for run in runs if (reason := _reason_by_value(run, metric))}
    runs = [run for run in runs if run.summary.path not in left_out]
    newer = map_repeated(runs)
    left_out |= {path: f"repeats {display_path(other)}, which is newer" for path, other in newer.items()}
    return [run for run in runs if run.summary.path not in newer], left_out


def refuse_too_few(runs: Sequence[TrainedRun], left_out: Mapping[Path, str]) -> None:
    """Raise `RequestError`, with the reasons for leaving out others, if there are fewer than two runs."""
    if len(runs) < 2:
        reasons = "".join(f"\n  {display_path(path)}: {reason}" for path, reason in left_out.items())
        raise RequestError(f"a comparison needs at least two comparable runs, found {len(runs)}{reasons}")


def _reason_against(run: RunSummary, metric: str) -> str | None:
    """Return why a run cannot be compared, according to its result; None if it can."""
    if not is_finished(run):
        return "diverged" if run.result.diverged else run.status
    if metric.startswith("val/") and (count := run.result.validation_images_seen):
        return f"used a model that was trained on {count} of its validation images"
    if not run.result.exact:
        other = "another device or with another version"
        return f"was resumed on {other}, so its result does not depend on the seed alone"
    return None


def _reason_by_value(run: TrainedRun, metric: str) -> str | None:
    """Return why a run cannot be compared by a metric; None if it can."""
    value = run.value(metric)
    if value is None:
        return f"has no {metric}"
    return None if math.isfinite(value) else f"diverged: its {metric} is {value}"


def _read_runs(summaries: Sequence[RunSummary]) -> list[TrainedRun]:
    """Read the configs of runs. Raises `RequestError` with all that are damaged."""
    runs: list[TrainedRun] = []
    damaged: list[str] = []
    for summary in summaries:
        try:
            runs.append(TrainedRun.of(summary, read_config(summary.path)))
        except RequestError as error:
            damaged.append(str(error))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            damaged.append(f"{summary.path}: config.yaml or result.json is not from a run: {error}")
    if damaged:
        raise RequestError("\n".join(damaged))
    return runs


def refuse_different_data(runs: Sequence[TrainedRun], *, across_data: bool) -> None:
    """Raise `RequestError` if the runs used different images or labels, unless that was requested.

    Fallback data is never compared with other data.
    """
    sets: dict[str, list[TrainedRun]] = {}
    for run in runs:
        sets.setdefault(run.data, []).append(run)
    stands_in = any(run.summary.result.data.stands_in_for for run in runs)
    if len(sets) > 1 and (stands_in or not across_data):
        advice = "fallback data is never compared with other data"
        lines = [
            f"  {same[0].summary.result.data.name} {digest[:8]}: "
            + ", ".join(str(display_path(run.summary.path)) for run in same)
            for digest, same in sets.items()
        ]
        raise RequestError(
            f"these runs are on {len(sets)} different data sets:\n"
            + "\n".join(lines)
            + f"\n{advice if stands_in else 'across_data=true compares them anyway'}"
        )
