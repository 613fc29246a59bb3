"""The report of a study: its best trial, all trials, and which of the searched keys matter."""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mnist_exp.config.command_schemas import ReportConfig
from mnist_exp.config.metric_directions import Direction, direction_of
from mnist_exp.config.overrides import Request
from mnist_exp.engine.model_report import class_blocks
from mnist_exp.engine.report_subject import collect_subject
from mnist_exp.engine.run_report import (
    TIME_NOTE,
    accuracy_interval,
    accuracy_rows,
    curves_of,
    describe_data,
    describe_environments,
    format_duration,
    using_lines,
)
from mnist_exp.report import charts, static_charts
from mnist_exp.report.html_page import Block, Chart, Notice, Page, Picture, Section, Table, Text, drawn
from mnist_exp.runs.directory import RunSummary
from mnist_exp.runs.regular_files import read_text
from mnist_exp.runs.result import limit_metric
from mnist_exp.runs.selection import ListedRun, differing_settings
from mnist_exp.sweeps.comparison import format_value
from mnist_exp.sweeps.groups_report import parallel_chart
from mnist_exp.sweeps.report_target import IMPORTANCES, TABLE, Target
from mnist_exp.text import format_percent
from mnist_exp.text import format_value as format_setting

_TRIALS_PER_KEY = 10  # with fewer finished trials, the report warns about the importances
_COLUMNS = 3  # trial, state and metric, which precede the searched keys in the table of trials


@dataclass(frozen=True)
class TrialRow:
    """A trial, as its study's table or its run describes it."""

    number: int
    state: str
    value: float | None
    settings: tuple[str, ...]
    seconds: float | None
    reason: str = ""


@dataclass(frozen=True)
class StudyRecord:
    """The trials of a study, and the metric that they are compared by."""

    metric: str
    direction: Direction
    keys: tuple[str, ...]
    trials: tuple[TrialRow, ...]
    is_complete: bool

    @property
    def valued(self) -> list[TrialRow]:
        """The finished trials with a finite value, in their order."""
        return self._in_state("finished")

    @property
    def pruned(self) -> list[TrialRow]:
        """The pruned trials with a finite value, in their order."""
        return self._in_state("pruned")

    @property
    def best(self) -> TrialRow | None:
        """The best finished trial; of equal ones, the earliest."""
        sign = 1 if self.direction == "max" else -1
        return max(self.valued, key=lambda trial: (sign * (trial.value or 0.0), -trial.number), default=None)

    def _in_state(self, state: str) -> list[TrialRow]:
        return [
            trial
            for trial in self.trials
            if trial.state == state and trial.value is not None and math.isfinite(trial.value)
        ]


def study_page(request: Request, target: Target, config: ReportConfig) -> Page:
    """Return the report of a study."""
    assert target.folder is not None
    study = read_study(target.folder, target.runs, config)
    by_number = {number: run for run in target.runs if (number := _number_of(run)) is not None}
    best = by_number.get(study.best.number) if study.best else None
    subject = collect_subject(request, best) if best else None
    sections = [
        Section("best", "Best trial", _best(study, best)),
        Section("trials", "All trials", [_table(study)]),
        Section("history", "Progress of the search", _history(study)),
        Section("parallel", "Settings and results", _parallel(study)),
        Section("importance", "Which keys matter", _importance(study, target.folder)),
        Section(
            "curves",
            "Curves of the best trial",
            curves_of(subject.history, subject.summary.result.best_epoch) if subject else [],
        ),
        Section(
            "classes",
            "Results of the best trial by class",
            class_blocks(subject.scored) if subject and subject.scored else [],
        ),
        Section("data", "Data", describe_data(target.runs)),
        Section("environment", "Environment and time", describe_environments(target.runs)),
        Section("repeat", "Repeat and use", using_lines(best, "the best trial") if best else []),
    ]
    notices = [] if study.is_complete else ["This study is not complete: the best trial may still change."]
    notices += [f"This report lacks {reason}" for reason in (subject.missing if subject else [])]
    return Page(target.folder.name, "Report of a study", _summarize(study, best), notices,
                _headline(study, target, best), sections)  # fmt: skip


def read_study(folder: Path, runs: Sequence[RunSummary], config: ReportConfig) -> StudyRecord:
    """Read a study's table of trials or, if it is not complete or its table is damaged, the runs of its trials."""
    try:
        rows = list(csv.reader(read_text(folder / TABLE).splitlines()))
        header = rows[0]
        if header[:2] != ["trial", "state"] or header[-2:] != ["seconds", "reason"]:
            raise ValueError("not a table of trials")
        trials = [
            TrialRow(
                int(row[0]),
                row[1],
                _float(row[2]),
                tuple(map(_rounded, row[_COLUMNS:-2])),
                _float(row[-2]),
                row[-1],
            )
            for row in rows[1:]
            if len(row) == len(header)
        ]
        metric, keys = header[2], tuple(header[_COLUMNS:-2])
        return StudyRecord(metric, _direction(metric, config), keys, tuple(trials), True)
    except (OSError, ValueError, IndexError, csv.Error):
        return _study_of_runs(runs, config)


def _study_of_runs(runs: Sequence[RunSummary], config: ReportConfig) -> StudyRecord:
    listed = [ListedRun.read(run) for run in runs]
    keys = tuple(differing_settings(run.config for run in listed))
    trials = []
    for run in listed:
        number, result = _number_of(run.summary), run.summary.result
        if number is None:
            continue
        value = (result.best or {}).get(config.metric)
        settings = tuple(format_setting(run.lookup(key)) for key in keys)
        trials.append(
            TrialRow(number, run.summary.status, value, settings, result.training_seconds, result.reason)
        )
    return StudyRecord(config.metric, _direction(config.metric, config), keys, tuple(trials), False)


def _direction(metric: str, config: ReportConfig) -> Direction:
    return config.mode or direction_of(metric) or "max"


def _number_of(run: RunSummary) -> int | None:
    found = re.fullmatch(r"trial-(\d+)", run.path.name)
    return int(found[1]) if found else None


def _rounded(text: str) -> str:
    """Round a number to six significant digits; return other text unchanged."""
    try:
        return f"{float(text):.6g}" if "." in text or "e" in text else text
    except ValueError:
        return text


def _float(text: str) -> float | None:
    """Return the number in a cell; None for an empty cell, NaN or an infinity."""
    return number if text and math.isfinite(number := limit_metric(float(text))) else None


# ── The answer ───────────────────────────────────────────────────────────────────────────────────────────────────


def _summarize(study: StudyRecord, best: RunSummary | None) -> str:
    if study.best is None:
        return f"None of {len(study.trials)} trials has finished yet."
    settings = ", ".join(f"{key}={value}" for key, value in zip(study.keys, study.best.settings, strict=False))
    text = (
        f"Trial {study.best.number} is the best of {len(study.trials)}: {study.metric} "
        f"{format_value(study.best.value or 0.0, study.metric)} with {settings}"
    )
    if best is not None and best.result.test_accuracy is not None:
        bounds = accuracy_interval(best.result, "test")
        interval = f" (95 % interval {100 * bounds[0]:.2f} … {100 * bounds[1]:.2f} %)" if bounds else ""
        text += f". Its test accuracy is {format_percent(best.result.test_accuracy)}{interval}"
    return f"{text}."


def _headline(study: StudyRecord, target: Target, best: RunSummary | None) -> list[tuple[str, str]]:
    states = {
        state: sum(trial.state == state for trial in study.trials) for state in {t.state for t in study.trials}
    }
    rows = [("Trials", ", ".join(f"{count} {state}" for state, count in sorted(states.items())))]
    if study.best is not None and study.best.value is not None:
        rows.append((f"Best {study.metric}", format_value(study.best.value, study.metric)))
    if best is not None:
        rows += accuracy_rows(best.result, "test", "Its test accuracy")
    seconds = [trial.seconds for trial in study.trials if trial.seconds is not None]
    seeds = {ListedRun.read(run).setting("seed") for run in target.runs}
    rows += [
        (f"Time of all trials{TIME_NOTE}", format_duration(sum(seconds))),
        ("Seeds", f"{len(seeds)} per trial" if len(seeds) == 1 else f"{len(seeds)}"),
    ]
    return rows


def _best(study: StudyRecord, best: RunSummary | None) -> list[Block]:
    if study.best is None:
        return [Notice("No trial has finished, so none is best.")]
    rows = [
        (key, value, _searched(study, number))
        for number, (key, value) in enumerate(zip(study.keys, study.best.settings, strict=False))
    ]
    blocks: list[Block] = [Table("Searched keys", ("key", "best trial", "values of all trials"), rows)]
    runners = sorted(study.valued, key=lambda trial: trial.value or 0.0, reverse=study.direction == "max")
    if len(runners) > 1 and runners[1].value is not None and study.best.value is not None:
        blocks.append(
            Text(
                f"The next best is trial {runners[1].number} with {format_value(runners[1].value, study.metric)}. "
                "A search picks the best of many values from one seed each, so the value of the best trial is "
                "optimistic; its test accuracy is not, because the search did not use the test images. To see "
                "whether the difference between two trials is more than chance, train both over several seeds and "
                "compare them."
            )
        )
    if best is None:
        blocks.append(Notice("The run of the best trial is not in this study's directory."))
    return blocks


def _searched(study: StudyRecord, column: int) -> str:
    """Return the values of a key in all trials: the range of numbers, or a list."""
    texts = list(dict.fromkeys(trial.settings[column] for trial in study.trials if len(trial.settings) > column))
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return ", ".join(sorted(texts))
    if len(numbers) <= 6:
        return ", ".join(f"{number:g}" for number in sorted(numbers))
    return f"{min(numbers):.4g} … {max(numbers):.4g}"


# ── Tables and charts ────────────────────────────────────────────────────────────────────────────────────────────


def _table(study: StudyRecord) -> Table:
    right = ("trial", study.metric, "seconds")
    rows = [
        [
            str(trial.number),
            trial.state,
            "–" if trial.value is None else format_value(trial.value, study.metric),
            *trial.settings,
            "–" if trial.seconds is None else f"{trial.seconds:.1f}",
            trial.reason or "–",
        ]
        for trial in study.trials
    ]
    header = ["trial", "state", study.metric, *study.keys, "seconds", "reason"]
    caption = "All trials, in the order of the search"
    everything = f"{TABLE} in the study's directory has all"
    return Table(caption, header, rows, right, interactive=True, elsewhere=everything)


def _history(study: StudyRecord) -> list[Block]:
    valued = study.valued
    if not valued:
        return []
    numbers, values = [trial.number for trial in valued], [trial.value or 0.0 for trial in valued]
    best = list(itertools.accumulate(values, max if study.direction == "max" else min))
    pruned = [(trial.number, trial.value or 0.0) for trial in study.pruned]
    png = drawn(partial(static_charts.trial_values, numbers, values, best, study.metric, pruned=pruned))
    also = f" and {len(pruned)} pruned" if pruned else ""
    alt = f"{study.metric} of {len(valued)} finished{also} trials; the table of trials has the values."
    caption = f"{study.metric} of each finished trial, and the best value so far."
    if pruned:
        caption += f" Empty circles: the {len(pruned)} pruned trials, at their end."
    return [Chart(charts.trials(numbers, values, best, study.metric, pruned), Picture(png, alt, caption))]


def _parallel(study: StudyRecord) -> list[Block]:
    valued = [trial for trial in study.valued if len(trial.settings) == len(study.keys)]
    if len(valued) < 2 or not study.keys:
        return []
    pruned = [trial for trial in study.pruned if len(trial.settings) == len(study.keys)]
    drawn_trials = [*valued, *pruned]
    columns = {key: [trial.settings[number] for trial in drawn_trials] for number, key in enumerate(study.keys)}
    values = [trial.value or 0.0 for trial in drawn_trials]
    return [parallel_chart(columns, values, study.metric, len(pruned))]


def _importance(study: StudyRecord, folder: Path) -> list[Block]:
    """Return the importance of each key, which the search computed."""
    try:
        _, *rows = csv.reader(read_text(folder / IMPORTANCES).splitlines())
        shares = [[key, format_percent(float(share), 0)] for key, share in rows]
    except (OSError, ValueError, csv.Error):
        why = "it needs several finished trials with different values"
        return [Text(f"There are no importances: {why if study.is_complete else 'the search has not ended'}.")]
    text = ", ".join(f"{key} {share}" for key, share in shares)
    count, enough = len(study.valued), _TRIALS_PER_KEY * len(study.keys)
    blocks: list[Block] = [
        Text(f"Shares of the variation of {study.metric} between the {count} finished trials (fANOVA): {text}."),
        Table("Importance of each key", ("key", "share"), shares, ("share",)),
    ]
    if count < enough:
        few = (
            f"These shares rest on only {count} finished trials. As a rule of thumb, below {_TRIALS_PER_KEY} for "
            f"each searched key (here {enough}), they can change a lot with a few more trials."
        )
        blocks.insert(0, Notice(few))
    return blocks
