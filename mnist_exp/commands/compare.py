"""`mnist-exp compare`: compare runs and sweeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from mnist_exp.config.command_schemas import CompareConfig
from mnist_exp.config.metric_directions import Direction, direction_of
from mnist_exp.config.overrides import Request
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.config.validation import compose_checked
from mnist_exp.errors import Problem, RequestError
from mnist_exp.report.documents import CompareDocument
from mnist_exp.runs.directory import RunSummary, list_runs
from mnist_exp.runs.lookup import find_runs, is_finished, read_config
from mnist_exp.suggest import near_or_all
from mnist_exp.sweeps.groups import TrainedRun, map_repeated
from mnist_exp.text import display_path


def compare(request: Request, started: float) -> CompareDocument:
    """Print the results of groups of runs and which groups differ, and plot their curves.

    Raises `RequestError`.
    """
    config, _ = compose_checked(request, CompareConfig)
    chosen, remark = choose_runs(config)
    runs, left_out = select_comparable(chosen, config.metric)
    if len(runs) < 2:
        reasons = "".join(f"\n  {display_path(path)}: {reason}" for path, reason in left_out.items())
        raise RequestError(f"{len(runs)} of {len(chosen)} runs can be compared; at least two are needed{reasons}")
    direction = direction_by(config)
    refuse_different_data(runs, config)
    from mnist_exp.sweeps.comparison_report import report_comparison  # SciPy, Matplotlib

    return report_comparison(config, direction, runs, chosen, left_out, remark)


def direction_by(config: CompareConfig) -> Direction:
    """Return whether higher (`max`) or lower values (`min`) of the metric are better.

    Raises `RequestError` if that is unknown, or if `mode` contradicts it.
    """
    known = direction_of(config.metric)
    if known is None and config.mode is None:
        message = (
            f"metric={config.metric}: unknown whether higher or lower values are better; add mode=max or mode=min"
        )
        raise RequestError([Problem("unusable", COMMAND_LINE, message, "mode")])
    if known is not None and config.mode not in (None, known):
        better = "higher" if known == "max" else "lower"
        message = f"mode={config.mode}: must be {known}, as {better} values of {config.metric} are better"
        raise RequestError([Problem("unusable", COMMAND_LINE, message, "mode")])
    return known or config.mode or "max"


def choose_runs(config: CompareConfig) -> tuple[list[RunSummary], str]:
    """Find the requested runs; without `run=`, all finished or diverged runs on the same data as the newest run.

    Returns:
        The runs, and a remark on the runs left out (empty if there are none).

    Raises:
        RequestError: Names match no run, or the picture would overwrite a file; the error lists all problems.
    """
    problems: list[Problem] = []
    outputs = Path(config.outputs)
    if config.output is not None and Path(config.output).expanduser().exists():
        message = f"output={config.output}: already exists; give a new file"
        problems.append(Problem("unusable", COMMAND_LINE, message, "output"))
    runs: dict[Path, RunSummary] = {}
    for wanted in config.run or ():
        try:
            runs |= {run.path.resolve(): run for run in find_runs(wanted, outputs)}
        except RequestError as error:
            problems.append(Problem("not-found", COMMAND_LINE, f"run={error}", "run"))
    if problems:
        raise RequestError(problems, "this comparison")
    return _choose_newest(outputs, config.across_data) if config.run is None else (list(runs.values()), "")


def _choose_newest(outputs: Path, across_data: bool) -> tuple[list[RunSummary], str]:
    """Return the finished or diverged runs, and a remark on those left out.

    Unless `across_data` is set, the runs must be on the same data as the newest finished run.
    """
    runs = list_runs(outputs)
    finished = [run for run in runs if is_finished(run)]
    if not finished:
        raise RequestError(f"no finished run in {outputs}; 'mnist-exp' trains one")
    counted = [run for run in runs if is_finished(run) or run.result.diverged]
    if across_data:
        return counted, ""
    data = finished[0].result.data.sha256
    others = sum(run.result.data.sha256 != data for run in finished)
    number = f"{others} run{'s' * (others > 1)}"
    remark = f"left out: {number} on data other than the newest run's; run=… selects runs"
    return [run for run in counted if run.result.data.sha256 == data], remark if others else ""


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


def _reason_against(run: RunSummary, metric: str) -> str | None:
    """Return why a run cannot be compared, according to its result; None if it can."""
    if not is_finished(run):
        return "diverged" if run.result.diverged else run.status
    if metric.startswith("val/") and (count := run.result.validation_images_seen):
        return f"started from weights that were trained on {count} of its validation images"
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


def refuse_different_data(runs: Sequence[TrainedRun], config: CompareConfig) -> None:
    """Raise `RequestError` if the runs used different images or labels, unless that was requested.

    Fallback data is never compared with other data.
    """
    sets: dict[str, list[TrainedRun]] = {}
    for run in runs:
        sets.setdefault(run.data, []).append(run)
    stands_in = any(run.summary.result.data.stands_in_for for run in runs)
    if len(sets) > 1 and (stands_in or not config.across_data):
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
