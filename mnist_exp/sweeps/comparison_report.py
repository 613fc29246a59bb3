"""Print and plot the comparison of groups of runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from mnist_exp.config.command_schemas import CompareConfig
from mnist_exp.config.metric_directions import Direction
from mnist_exp.errors import RequestError
from mnist_exp.report import plots
from mnist_exp.report.documents import CompareDocument, LeftOutEntry
from mnist_exp.report.figure import resolution
from mnist_exp.report.plots import History
from mnist_exp.runs.directory import RunSummary, add_timestamp, make_directory, read_history
from mnist_exp.runs.fingerprint import LIBRARIES
from mnist_exp.runs.log import say, warn
from mnist_exp.runs.lookup import read_config
from mnist_exp.runs.result import RunResult
from mnist_exp.sweeps.comparison import (
    Pair,
    compare_pairs,
    describe_cut_intervals,
    describe_remedies,
    describe_seeds_needed,
    describe_sensitivity,
    print_best_groups,
    print_means,
    print_pairs,
    sort_groups,
    summarize_groups,
)
from mnist_exp.sweeps.comparison_document import group_entry, pair_entry
from mnist_exp.sweeps.groups import Group, TrainedRun, group_key, group_runs, mark_groups
from mnist_exp.sweeps.model_comparison import compare_models
from mnist_exp.text import display_path

PICTURE = "compare.png"
_MOST_LEFT_OUT = 2  # maximum number of lines about omitted runs in the short report


def report_comparison(
    config: CompareConfig,
    direction: Direction,
    runs: Sequence[TrainedRun],
    chosen: Sequence[RunSummary],
    left_out: Mapping[Path, str],
    remark: str,
) -> CompareDocument:
    """Print the results of groups of runs and which groups differ, plot their curves, and return a document.

    Args:
        config: The config of the verb.
        direction: Which values of the metric are better.
        runs: The runs to compare, all with a value of the metric.
        chosen: All runs that were requested.
        left_out: The requested runs that cannot be compared, each with the reason.
        remark: A remark on runs that were not requested; empty if there is none.

    Raises:
        RequestError: A history is missing, or the picture cannot be written.
    """
    groups = mark_groups(sort_groups(group_runs(runs), config.metric, direction))
    pairs = compare_pairs(groups, config.metric, find_diverged(groups, chosen))
    picture = draw_curves(groups, config)
    summary = summarize_groups(groups, pairs, config.metric, direction)
    say(summary)
    if remark:
        say(remark)
    if config.full:
        print_all(groups, pairs, left_out, config.metric, direction)
    else:
        print_left_out(left_out)
        say(f"data    {_data_titles(groups)}")
        print_best_groups(groups, pairs, config.metric, direction)
    remarks = list_remarks(groups, config.metric)
    if scope := describe_scope(groups, config.metric):
        say(scope)
    _print_conditions(pairs, config, len(remarks))
    fallback_for = _warn_of_fallbacks(runs)
    say(f"plot    {display_path(picture)}")
    return CompareDocument(
        metric=config.metric,
        mode=direction,
        summary=summary,
        data=_data_titles(groups),
        fallback_for=fallback_for,
        groups=[group_entry(group, config.metric) for group in groups],
        pairs=[pair_entry(pair, direction) for pair in pairs],
        left_out=[LeftOutEntry(path=str(path.resolve()), reason=reason) for path, reason in left_out.items()],
        remarks=[*filter(None, [remark]), *remarks],
        picture=str(picture.resolve()),
    )


def _warn_of_fallbacks(runs: Sequence[TrainedRun]) -> list[str]:
    """Warn if any runs used fallback data; return the names of the data sets that were missing."""
    names = sorted({name for run in runs if (name := run.summary.result.data.stands_in_for)})
    if names:
        warn(f"these results are for the fallback of {', '.join(names)}")
    return names


def _print_conditions(pairs: Sequence[Pair], config: CompareConfig, notes: int) -> None:
    """Print what the verdicts assume, what they can detect, and how to see the rest."""
    for sentence in describe_tests(pairs, config.metric, full=config.full):
        say(sentence)
    if not config.full:
        and_notes = f", with {notes} note{'s' * (notes > 1)}" if notes else ""
        everything = "all groups and metrics, the interval and tests of each pair, and the omitted runs"
        say(f"full=true prints {everything}{and_notes}.")


def print_left_out(left_out: Mapping[Path, str]) -> None:
    """Print the omitted runs; if there are many, only the first ones and the number of the others."""
    lines = [f"without {display_path(path)}: {reason}" for path, reason in left_out.items()]
    if len(lines) > _MOST_LEFT_OUT:
        lines[_MOST_LEFT_OUT - 1 :] = [f"without {len(lines) - _MOST_LEFT_OUT + 1} more"]
    for line in lines:
        say(line)


def describe_scope(groups: Sequence[Group], metric: str) -> str:
    """Return what the intervals of a metric show, and on how many images; empty if there are none."""
    runs = [run for group in groups for run in group.runs]
    if not any(len(group.values(metric)) > 1 for group in groups):
        return ""
    part, _, name = metric.partition("/")
    count = runs[0].summary.result.data.images.get(part)
    images = ""
    same = len({run.data for run in runs}) == 1 and not _have_other_splits(runs, metric)
    if count and same:
        images = f" on the same {count:,} {'validation' if part == 'val' else part} images"
        if name == "accuracy":
            images += f" (one image is {100 / count:.3g} points)"
    seeds, others = f"varies between seeds{images}", "would vary on other images"
    return f"Intervals of {metric} show how much it {seeds}, not how much it {others}."


def _have_other_splits(runs: Sequence[TrainedRun], metric: str) -> bool:
    """Return whether a metric was computed on validation images that were split off differently."""
    splits = {tuple(run.settings.get(f"data.{key}") for key in ("val_fraction", "split_seed")) for run in runs}
    return metric.startswith("val/") and len(splits) > 1


def describe_tests(pairs: Sequence[Pair], metric: str, *, full: bool = True) -> list[str]:
    """Return sentences on how the verdicts are reached, when they are valid, and what they can detect.

    Args:
        pairs: All pairs.
        metric: The metric that decides the verdicts.
        full: Whether all pairs are shown, not only those with the best group.
    """
    tests = sum(pair.difference is not None for pair in pairs)
    if not tests:
        return []
    together = f", corrected for {tests} comparisons (Holm)" if tests > 1 else ""
    conditions = (
        f"Verdicts: paired t tests{together}, assuming that the differences (one per seed) are roughly normal; "
        "withheld if the spreads differ widely or a run diverged."
    )
    others = (
        describe_remedies([pair for pair in pairs if full or pair.first is pairs[0].first]),
        describe_sensitivity(pairs, metric),
        describe_seeds_needed(pairs),
        describe_cut_intervals(pairs),
    )
    return [conditions, *filter(None, others)]


def print_all(
    groups: Sequence[Group],
    pairs: Sequence[Pair],
    left_out: Mapping[Path, str],
    decisive: str,
    direction: Direction,
) -> None:
    """Print every group, metric and pair, the omitted runs, and McNemar's test of single models."""
    print_groups(groups, left_out)
    metrics = list(dict.fromkeys([decisive, "val/accuracy", "test/accuracy"]))
    print_means(groups, [*metrics, "seconds"])
    if len(groups) > 1:
        metrics = [metric for metric in metrics if any(group.values(metric) for group in groups)]
        print_pairs(groups, metrics, decisive, pairs, direction)
        say(
            f"Verdicts by {decisive}. Differences of accuracies are in percentage points; `detectable` is the "
            "smallest difference that would be significant."
        )
    else:
        say("These runs differ only in their seed, so there is a single group and nothing to compare it with.")
    compare_models(groups)
    for remark in list_remarks(groups, decisive):
        say(f"note    {remark}")


def print_groups(groups: Sequence[Group], left_out: Mapping[Path, str]) -> None:
    """Print the compared groups and the omitted runs."""
    for path, reason in left_out.items():
        say(f"without {display_path(path)}: {reason}")
    say(f"data    {_data_titles(groups)}")
    for group in groups:
        seeds = ", ".join(str(run.seed) for run in group.runs)
        say(f"{group.mark:<7} {group.label}; seed{'s' * (len(group.runs) > 1)} {seeds}")


def _data_titles(groups: Sequence[Group]) -> str:
    """Return the names of the data sets and, for fallbacks, of those that they replace."""
    sets = {run.data: run.summary.result.data.title for group in groups for run in group.runs}
    return "; ".join(dict.fromkeys(sets.values()))


def find_diverged(groups: Sequence[Group], chosen: Sequence[RunSummary]) -> set[str]:
    """Return the marks of the groups with a diverged run whose seed no other run of the group has."""
    keys = {group_key(group.runs[0]): group for group in groups}
    marks = set()
    for summary in chosen:
        values = [*(summary.result.best or {}).values(), *(summary.result.test or {}).values()]
        if not summary.result.diverged and all(map(math.isfinite, values)):
            continue
        try:
            run = TrainedRun.of(summary, read_config(summary.path))
        except (
            RequestError,
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
        ):  # the run ended before its config was recorded
            continue
        group = keys.get(group_key(run))
        if group is not None and run.seed not in {other.seed for other in group.runs}:
            marks.add(group.mark)
    return marks


def draw_curves(groups: Sequence[Group], config: CompareConfig) -> Path:
    """Plot the learning curves. Returns the picture's path. Raises `RequestError`."""
    histories = [[read_history(run.summary.path) for run in group.runs] for group in groups]
    metric = find_common_metric(histories, config.metric)
    have_several = any(len(group.runs) > 1 for group in groups)
    title = (
        f"{metric} · {_data_titles(groups)}" + "\nmean of the seeds, band: ± 1 standard deviation" * have_several
    )
    curves = [
        (f"{group.mark}  {group.label}  (n = {len(group.runs)})", of_group)
        for group, of_group in zip(groups, histories, strict=True)
    ]
    try:
        if config.output is None:
            path = make_directory(Path(config.outputs) / "compare", add_timestamp("compare")) / PICTURE
        else:
            path = Path(config.output).expanduser()
            path.parent.mkdir(parents=True, exist_ok=True)
        with resolution(config.plots.dpi):
            plots.comparison(curves, metric, title, path)
    except OSError as error:
        raise RequestError(f"output: {error.filename} cannot be written: {error.strerror}") from error
    return path


def find_common_metric(histories: Sequence[Sequence[History]], metric: str) -> str:
    """Return the metric or, failing that, the most similar one that every epoch of every run has.

    Raises `RequestError` if there is none, or a run has no epochs.
    """
    flat = [history for of_group in histories for history in of_group]
    if not all(flat):
        raise RequestError("the history.csv of a run has no epochs")
    name = metric.partition("/")[2]
    for candidate in (f"val/{name}", "val/accuracy", f"train/{name}", "train/accuracy"):
        if all(candidate in row for history in flat for row in history):
            return candidate
    raise RequestError("the history.csv files of these runs have no metric in common")


def list_remarks(groups: Sequence[Group], metric: str) -> list[str]:
    """Return remarks that qualify the figures."""
    runs = [run for group in groups for run in group.runs]
    remarks = _remarks_on_results([run.summary.result for run in runs])
    if _have_other_splits(runs, metric):
        name = metric.removeprefix("val/")
        tested = all(name in (run.summary.result.test or ()) for run in runs)
        limited = any(run.settings.get("data.limit") is not None for run in runs)  # limits the test set, too
        advice = f"; use metric=test/{name}, which is measured on the same images" * (tested and not limited)
        return [f"{metric} is measured on different validation images{advice}", *remarks]
    return remarks


def _remarks_on_results(results: Sequence[RunResult]) -> list[str]:
    """Return remarks on different devices or versions, and on durations that were not recorded."""
    remarks = []
    if unknown := sum(result.training_seconds is None for result in results):
        remarks.append(
            f"seconds leave out {unknown} resumed run{'s' * (unknown > 1)}: the time before was not recorded"
        )
    if len({(result.device.device, result.device.threads) for result in results}) > 1:
        remarks.append("seconds were measured on different devices or numbers of threads")
    versions = {tuple(result.versions.get(name) for name in LIBRARIES) for result in results}
    if len(versions) > 1 or len({result.code_sha256 for result in results}) > 1:
        remarks.append("these runs used different versions of mnist-exp or its libraries")
    return remarks
