"""The report of a sweep or a comparison: which group of runs is best, by how much, and how certain that is."""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mnist_exp.config.command_schemas import ReportConfig
from mnist_exp.config.metric_directions import Direction
from mnist_exp.config.overrides import Request, key_of
from mnist_exp.data.folder import natural_order
from mnist_exp.engine.report_subject import same_columns
from mnist_exp.engine.run_report import (
    TIME_NOTE,
    describe_data,
    describe_environments,
    format_duration,
    original_command,
    using_lines,
)
from mnist_exp.errors import RequestError
from mnist_exp.report import charts, plots, static_charts
from mnist_exp.report.html_page import (
    Block,
    Chart,
    Code,
    Notice,
    Page,
    Picture,
    Section,
    Table,
    Text,
    drawn,
)
from mnist_exp.report.parallel_axis import axis_of
from mnist_exp.report.plots import History
from mnist_exp.runs.directory import RunSummary, read_history
from mnist_exp.runs.selection import ListedRun, differing_settings, metrics_of
from mnist_exp.runs.sweep_file import read_sweep
from mnist_exp.sweeps.class_report import class_section
from mnist_exp.sweeps.comparable_runs import (
    direction_by,
    refuse_different_data,
    refuse_too_few,
    select_comparable,
)
from mnist_exp.sweeps.comparison import (
    Pair,
    compare_pairs,
    describe_interval,
    format_value,
    sort_groups,
    summarize_groups,
    tabulate_groups,
    tabulate_pairs,
)
from mnist_exp.sweeps.comparison_report import (
    describe_scope,
    describe_tests,
    find_common_metric,
    find_diverged,
    list_remarks,
)
from mnist_exp.sweeps.groups import Group, group_runs, mark_groups
from mnist_exp.sweeps.intervals import mean_of
from mnist_exp.sweeps.report_target import Target
from mnist_exp.text import display_path
from mnist_exp.text import format_value as format_setting
from mnist_exp.tracking.run_description import plugin_flags
from mnist_exp.tracking.sweep_record import LEADERBOARD

_MOST_GROUPS_DRAWN = 28  # as many as there are combinations of colour and dash pattern
_MOST_PAIRS = 300
_MOST_AXES = 10
_MOST_VALUES = 30  # of a key that differs between the runs
_ALL_GROUPS = "'mnist-exp compare full=true' prints all"


@dataclass
class Comparison:
    """Groups of runs, best first, and the differences between them; no groups if the runs cannot be compared."""

    metric: str
    direction: Direction
    groups: Sequence[Group] = ()
    pairs: Sequence[Pair] = ()
    left_out: Mapping[Path, str] = field(default_factory=dict)
    refusal: str = ""
    """Why the runs cannot be compared."""

    @property
    def best(self) -> Group | None:
        """The group with the best mean."""
        return self.groups[0] if self.groups else None

    @property
    def best_run(self) -> RunSummary | None:
        """The best run of the best group, by the metric."""
        if self.best is None:
            return None
        sign = 1 if self.direction == "max" else -1
        return max(self.best.runs, key=lambda run: sign * (run.value(self.metric) or 0.0)).summary


def compare_runs(runs: Sequence[RunSummary], config: ReportConfig, *, strict: bool) -> Comparison:
    """Group runs and test the differences. With `strict`, raises `RequestError` if they cannot be compared."""
    result = Comparison(config.metric, direction_by(config.metric, config.mode))
    try:
        comparable, result.left_out = select_comparable(runs, config.metric)
        refuse_different_data(comparable, across_data=config.across_data)
        if strict:
            refuse_too_few(comparable, result.left_out)
    except RequestError as error:
        if strict:
            raise
        result.refusal = str(error)
        return result
    if comparable:
        result.groups = mark_groups(sort_groups(group_runs(comparable), config.metric, result.direction))
        diverged = find_diverged(result.groups, runs)
        result.pairs = compare_pairs(result.groups, config.metric, diverged)
    else:
        result.refusal = "No run has finished, so there is nothing to compare."
    return result


def groups_page(request: Request, target: Target, config: ReportConfig) -> Page:
    """Return the report of a sweep, or of a comparison of several runs. Raises `RequestError`."""
    compared = compare_runs(target.runs, config, strict=target.kind == "comparison")
    listed = [ListedRun.read(run) for run in target.runs]
    keys = swept_keys(target, listed)
    title = target.folder.name if target.folder else f"comparison of {len(target.runs)} runs"
    sections = [
        Section("verdicts", "Verdicts", verdict_blocks(compared)),
        Section("question", "What was varied", varied_blocks(target, listed, keys)),
        Section("runs", "All runs", [runs_table(target, listed, keys, compared)]),
        Section("curves", "Curves", curve_blocks(compared)),
        Section("parallel", "Settings and results", parallel_blocks(listed, keys, compared)),
        Section("classes", "Results by class", class_section(request, compared.groups)),
        Section("data", "Data", describe_data(target.runs)),
        Section("environment", "Environment and time", describe_environments(target.runs)),
        Section("repeat", "Repeat and use", repeat_blocks(target, keys, compared)),
    ]
    return Page(title, f"Report of a {target.kind}", summarize(compared, target), notices_of(target, compared),
                headline(target, compared), sections)  # fmt: skip


# ── The answer ───────────────────────────────────────────────────────────────────────────────────────────────────


def summarize(compared: Comparison, target: Target) -> str:
    """Return which group is best, by how much, and how certain that is, in words."""
    best, metric = compared.best, compared.metric
    if best is None:
        return f"{len(target.runs)} runs, none of which can be compared with another."
    mean = mean_of(list(best.values(metric).values()))
    certain = f", 95 % interval {describe_interval(mean.interval, metric)}" if mean.interval else ""
    seeds = f"{mean.n} seeds" if mean.n > 1 else "one seed"
    verdict = summarize_groups(compared.groups, compared.pairs, metric, compared.direction)
    if len(compared.groups) == 1:
        return f"{verdict}."
    mean_text = f"mean {metric} {format_value(mean.mean, metric)} over {seeds}{certain}"
    return f"{verdict}. {best.mark} is {best.label}: {mean_text}."


def notices_of(target: Target, compared: Comparison) -> list[str]:
    """Return what qualifies the figures."""
    notices = [compared.refusal] if compared.refusal else []
    unfinished = [run for run in target.runs if run.status != "finished"]
    if unfinished:
        statuses = {
            status: sum(run.status == status for run in unfinished) for status in {r.status for r in unfinished}
        }
        counts = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
        notices.append(f"{len(unfinished)} of {len(target.runs)} runs did not finish: {counts}.")
    replaced = sorted({name for run in target.runs if (name := run.result.data.stands_in_for)})
    if replaced:
        notices.append(f"These results are for the fallback of {', '.join(replaced)}.")
    if compared.groups:
        notices += [f"Note: {remark}." for remark in list_remarks(compared.groups, compared.metric)]
    return notices


def headline(target: Target, compared: Comparison) -> list[tuple[str, str]]:
    """Return the most important figures."""
    rows = [("Runs", f"{len(target.runs)}")]
    if (best := compared.best) is not None:
        seeds = sorted({run.seed for group in compared.groups for run in group.runs})
        rows += [
            ("Groups", f"{len(compared.groups)}"),
            ("Seeds", f"{len(seeds)} ({', '.join(map(str, seeds[:8]))}{', …' * (len(seeds) > 8)})"),
            *_mean_rows(f"Best mean {compared.metric}", best, compared.metric),
        ]
        if best.values("test/accuracy") and compared.metric != "test/accuracy":
            rows += _mean_rows("Its mean test accuracy", best, "test/accuracy")
    known = [run.result.training_seconds for run in target.runs]
    rows.append((f"Time of all runs{TIME_NOTE}", format_duration(sum(seconds or 0.0 for seconds in known))))
    return rows


def _mean_rows(label: str, group: Group, metric: str) -> list[tuple[str, str]]:
    """Return a group's mean of a metric and, for several seeds, its interval."""
    mean = mean_of(list(group.values(metric).values()))
    rows = [(label, format_value(mean.mean, metric))]
    if mean.interval:
        rows.append((f"95 % interval ({metric})", describe_interval(mean.interval, metric)))
    return rows


def verdict_blocks(compared: Comparison) -> list[Block]:
    """Return the means of the groups, the tested differences, and what the verdicts assume."""
    if not compared.groups:
        return [Notice(compared.refusal)]
    groups, pairs, metric = compared.groups, compared.pairs, compared.metric
    blocks: list[Block] = []
    if len(groups) == 1:
        blocks.append(Text("These runs differ only in their seed, so there is nothing to compare."))
    header, rows = tabulate_groups(groups, pairs, metric, compared.direction)
    header[0] = "mark"
    caption = f"Groups of runs that differ only in their seed, best {metric} first"
    right = ("seeds", *header[3:-1])
    blocks.append(Table(caption, header, rows, right, interactive=True, elsewhere=_ALL_GROUPS))
    if scope := describe_scope(groups, metric):
        blocks.append(Text(scope))
    tests = sum(pair.difference is not None for pair in pairs)
    if tests:
        blocks += map(Text, describe_tests(pairs, metric))
    elif len(groups) > 1:
        blocks.append(Notice("No two groups share two seeds, so no difference was tested."))
    if tests:
        shown = pairs[:_MOST_PAIRS]
        head, lines = tabulate_pairs(groups, [metric], metric, shown, compared.direction)
        of_all = "All" if len(shown) == len(pairs) else f"The first {len(shown)} of {len(pairs)}"
        blocks.append(Table(f"{of_all} pairs of groups", head, lines, head[2:-1], interactive=True, folded=True))
        if len(shown) < len(pairs):
            blocks.append(Text(f"{_ALL_GROUPS} pairs."))
    if compared.left_out:
        reasons = [(str(display_path(path)), reason) for path, reason in compared.left_out.items()]
        blocks.append(Table("Left out of the comparison", ("run", "reason"), reasons, elsewhere=_ALL_GROUPS))
    return blocks


# ── The runs ─────────────────────────────────────────────────────────────────────────────────────────────────────


def swept_keys(target: Target, listed: Sequence[ListedRun]) -> list[str]:
    """Return the keys that were swept or, for other runs, those that differ."""
    if target.folder is not None and (sweep := read_sweep(target.folder)) is not None:
        return [key.lstrip("+") for key in sweep.swept]
    return differing_settings(run.config for run in listed)


def setting(run: ListedRun, key: str) -> str:
    """Return a run's value of a key as text; that of a group is the chosen option's name."""
    value = run.lookup(key)
    return format_setting(value)


def varied_blocks(target: Target, listed: Sequence[ListedRun], keys: Sequence[str]) -> list[Block]:
    """Return the keys that were varied, with their values, and what all runs share."""
    rows = [(key, _list_values(sorted({setting(run, key) for run in listed}, key=natural_order))) for key in keys]
    blocks: list[Block] = [
        Table("Keys that differ between the runs", ("key", "values"), rows)
        if rows
        else Text("These runs have the same settings.")
    ]
    sweep = read_sweep(target.folder) if target.folder else None
    if sweep is not None and sweep.fixed:
        blocks.append(Code("The same for all jobs", shlex.join(sweep.fixed)))
    return blocks


def _list_values(values: Collection[str]) -> str:
    """Return the different values of a key; of many, the first ones and the number of the others."""
    more = len(values) - _MOST_VALUES
    return ", ".join(list(values)[:_MOST_VALUES]) + (f" and {more:,} more" if more > 0 else "")


def runs_table(target: Target, listed: Sequence[ListedRun], keys: Sequence[str], compared: Comparison) -> Table:
    """Return a row per run: its settings, how it ended, and its results."""
    marks = {run.summary.path: group.mark for group in compared.groups for run in group.runs}
    names = dict.fromkeys(name for run in listed for name in metrics_of(run.summary.result))
    first = list(dict.fromkeys(["val/accuracy", "test/accuracy", compared.metric]))
    metrics = [name for name in first if name in names] + [name for name in names if name not in first]
    right = ["epochs", *metrics, "seconds"]
    header = ["group", *keys, *metrics, "status", "epochs", "seconds", "run"]
    rows = [
        [marks.get(run.summary.path, "–"), *(setting(run, key) for key in keys), *_results_row(run, metrics)]
        for run in _best_first(listed, compared)
    ]
    caption = f"All runs, with their settings and results, best first; seconds are{TIME_NOTE[1:]}"
    everything = (
        f"{LEADERBOARD} in the sweep's directory" if target.kind == "sweep" else "'mnist-exp runs format=json'"
    )
    return Table(caption, header, rows, right, interactive=True, elsewhere=f"{everything} has all")


def _results_row(run: ListedRun, metrics: Sequence[str]) -> list[str]:
    """Return a run's values of these metrics, then its status, epochs, seconds and name."""
    result, values = run.summary.result, metrics_of(run.summary.result)
    return [
        *(format_value(values[name], name) if name in values else "–" for name in metrics),
        run.summary.status,
        str(result.epochs),
        "–" if result.training_seconds is None else f"{result.training_seconds:.1f}",
        run.summary.path.name,
    ]


def _best_first(listed: Sequence[ListedRun], compared: Comparison) -> list[ListedRun]:
    """Return runs by their value of the metric; those without one, or with NaN or an infinity, are last."""
    sign = -1 if compared.direction == "max" else 1

    def rank(run: ListedRun) -> float:
        value = metrics_of(run.summary.result).get(compared.metric, math.nan)
        return sign * value if math.isfinite(value) else math.inf

    return sorted(listed, key=rank)


# ── Charts ───────────────────────────────────────────────────────────────────────────────────────────────────────


def curve_blocks(compared: Comparison) -> list[Block]:
    """Return the curves of all runs with the mean and the band of each group."""
    if not compared.groups:
        return []
    shown = compared.groups[:_MOST_GROUPS_DRAWN]
    try:
        histories = [[same_columns(read_history(run.summary.path)) for run in group.runs] for group in shown]
        metric = find_common_metric(histories, compared.metric)
    except RequestError as error:
        return [Notice(f"There are no curves: {error}")]
    have_same_seeds = len({len(group.runs) for group in shown}) == 1
    seeds = ["" if have_same_seeds else f" (n={len(group.runs)})" for group in shown]
    labels = [f"{group.mark} {group.label}{count}" for group, count in zip(shown, seeds, strict=True)]
    traced: list[tuple[str, list[tuple[str, History]]]] = [
        (label, [(run.summary.name, history) for run, history in zip(group.runs, of_group, strict=True)])
        for label, group, of_group in zip(labels, shown, histories, strict=True)
    ]
    png = drawn(partial(plots.comparison, list(zip(labels, histories, strict=True)), metric, metric))
    alt = f"{metric} by epoch for {len(shown)} groups; the table of runs has the final values."
    few = f" The best {len(shown)} of {len(compared.groups)} groups." if len(shown) < len(compared.groups) else ""
    caption = (
        f"{metric} by epoch: a thin line per run, a thick one for the mean of each group, with a band of ± 1 "
        f"standard deviation.{few} A click on the legend hides a group."
    )
    return [Chart(charts.traces(traced, metric), Picture(png, alt, caption))]


def parallel_blocks(listed: Sequence[ListedRun], keys: Sequence[str], compared: Comparison) -> list[Block]:
    """Return parallel coordinates of the settings and the metric."""
    figures = [(run, metrics_of(run.summary.result).get(compared.metric, math.nan)) for run in listed]
    valued = [(run, value) for run, value in figures if math.isfinite(value)]
    if len(valued) < 2 or not keys:
        return []
    columns = {key: [setting(run, key) for run, _ in valued] for key in keys[:_MOST_AXES]}
    return [parallel_chart(columns, [value for _, value in valued], compared.metric)]


def parallel_chart(
    columns: Mapping[str, Sequence[str]], values: Sequence[float], metric: str, pruned: int = 0
) -> Chart:
    """Return the chart of parallel coordinates; the last `pruned` lines are those of pruned trials."""
    axes = {**columns, metric: [f"{value:.6g}" for value in values]}
    places = [axis_of(texts, 0 if name == metric else 6) for name, texts in axes.items()]
    named = [(name, axis.places, axis.ticks) for name, axis in zip(axes, places, strict=True)]
    png = drawn(partial(static_charts.parallel_coordinates, named, values, metric, pruned=pruned))
    alt = f"Parallel coordinates of {len(values)} runs; the table of all of them has the values."
    caption = f"A line per run through its settings to its {metric}; blue lines are higher, orange ones lower."
    if pruned:
        caption += f" The {pruned} dotted lines are those of pruned trials, at their end."
    return Chart(charts.parallel(columns, values, metric, pruned), Picture(png, alt, caption))


# ── Repeating ────────────────────────────────────────────────────────────────────────────────────────────────────


def repeat_blocks(target: Target, keys: Sequence[str], compared: Comparison) -> list[Block]:
    """Return the commands that repeat the sweep or the groups, and those that use the best run's model."""
    blocks: list[Block] = []
    if target.kind == "sweep" and (command := sweep_command(target, keys)):
        blocks.append(Code("Repeat this sweep; finished jobs are not trained again", command))
    elif compared.groups:
        blocks += [
            Code(
                f"The command that started the first run of {group.mark}",
                original_command(group.runs[0].summary.result),
            )
            for group in compared.groups[:_MOST_GROUPS_DRAWN]
        ]
    if (best := compared.best_run) is not None:
        blocks += using_lines(best, "the best run")
    return blocks


def sweep_command(target: Target, keys: Sequence[str]) -> str:
    """Return the command of a sweep, from the overrides of its jobs; empty if they are not known."""
    assert target.folder is not None
    sweep = read_sweep(target.folder)
    values: dict[str, dict[str, None]] = {}
    for run in target.runs:
        for text in run.result.overrides:
            key, equals, value = text.partition("=")
            if equals and key_of(text).lstrip("+") in keys:
                values.setdefault(key, {})[value] = None
    if sweep is None or len(values) < len(keys):
        return ""
    words = [f"{key}={','.join(found)}" for key, found in values.items()]
    flags = plugin_flags(plugin for run in target.runs for plugin in run.result.plugins)
    return shlex.join(["mnist-exp", *flags, "-m", *words, *sweep.fixed])
