"""The report of a run: what was asked, what came out, how certain it is, and how to repeat and use it."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mnist_exp.data.quality import remarks
from mnist_exp.engine.beyond_defaults import name_of, settings_beyond_defaults
from mnist_exp.engine.model_report import model_sections
from mnist_exp.engine.report_subject import ReportSubject
from mnist_exp.inference.metrics import wilson
from mnist_exp.report import charts, plots
from mnist_exp.report.html_page import (
    Block,
    Bullets,
    Chart,
    Code,
    Facts,
    Notice,
    Page,
    Picture,
    Section,
    Table,
    Text,
    drawn,
)
from mnist_exp.runs.directory import RunSummary
from mnist_exp.runs.journal import flatten
from mnist_exp.runs.log import LOG
from mnist_exp.runs.regular_files import read_text
from mnist_exp.runs.result import RunResult
from mnist_exp.text import display_path, format_loss, format_percent, format_shape, format_value
from mnist_exp.tracking.run_description import CARD, loading_lines, plugin_flags, repeating_command

_MOST_WARNINGS = 20
_ALL_EPOCHS = "history.csv in the run's directory has all"
TIME_NOTE = ", without start-up and reading data"
"""Follows the name of a duration, and says which times it excludes."""
_STATUSES = {
    "running": "is running",
    "finished": "has finished",
    "failed": "failed",
    "killed": "was killed",
    "interrupted": "was interrupted",
    "pruned": "was pruned by the search",
    "damaged": "has a damaged result.json",
}


def run_page(subject: ReportSubject) -> Page:
    """Return the report of a run, finished or not."""
    run, result = subject.summary, subject.summary.result
    architecture, others = model_sections(subject)
    return Page(
        title=run.name,
        subject="Report of a run",
        summary=summarize_result(subject),
        notices=_notices(subject),
        facts=_headline(subject),
        sections=[
            Section("question", "Question", _question(subject)),
            Section("curves", "Training curves", curves_of(subject.history, subject.summary.result.best_epoch)),
            *others,
            Section("architecture", "Architecture", architecture or _card(run.path)),
            Section("data", "Data", _data(subject)),
            Section("environment", "Environment and time", _environment(result)),
            Section("repeat", "Repeat and use", repeat_and_use(subject)),
            Section("config", "Complete config", _config(subject.values)),
        ],
    )


# ── The answer ───────────────────────────────────────────────────────────────────────────────────────────────────


def summarize_result(subject: ReportSubject) -> str:
    """Return the result in words, with its interval."""
    run, result = subject.summary, subject.summary.result
    what = f"{name_of(subject.values, 'model')} on {result.data.title}"
    if (test := result.test_accuracy) is not None:
        answer = f"{format_percent(test)} of the test images are classified correctly{_interval(result, 'test')}"
    elif result.val_accuracy is not None:
        answer = f"the validation accuracy is {format_percent(result.val_accuracy)}{_interval(result, 'val')}"
    else:
        answer = "it has no accuracy"
    if run.status != "finished":
        finished = f"{result.epochs} of {result.planned_epochs or '?'} epochs are finished"
        answer += f". The run {describe_status(run.status)}; {finished}"
    chosen = f"; the model is that of epoch {result.best_epoch}" if result.best_epoch else ""
    return f"{what}: {answer}{chosen}."


def describe_status(status: str) -> str:
    """Return the predicate of a sentence about a run with this status: `was killed`."""
    return _STATUSES.get(status, f"has the status {status}")


def accuracy_rows(result: RunResult, part: str, label: str) -> list[tuple[str, str]]:
    """Return a run's test or validation accuracy, and its 95 % interval if the number of images is known."""
    accuracy = result.test_accuracy if part == "test" else result.val_accuracy
    rows = [] if accuracy is None else [(label, format_percent(accuracy))]
    if bounds := accuracy_interval(result, part):
        rows.append((f"95 % interval ({part})", f"{100 * bounds[0]:.2f} … {100 * bounds[1]:.2f} %"))
    return rows


def _interval(result: RunResult, part: str) -> str:
    """Return the 95 % interval of an accuracy in words; empty if the number of images is not known."""
    bounds = accuracy_interval(result, part)
    if bounds is None:
        return ""
    low, high = (f"{100 * bound:.2f}" for bound in bounds)
    return f" (95 % interval {low} … {high} %, on {result.data.images[part]:,} images)"


def accuracy_interval(result: RunResult, part: str) -> tuple[float, float] | None:
    """Return the 95 % Wilson interval of a run's test or validation accuracy; None if there is none."""
    accuracy = result.test_accuracy if part == "test" else result.val_accuracy
    images = result.data.images.get(part, 0)
    if accuracy is None or images <= 0 or not 0 <= accuracy <= 1:
        return None
    return wilson(round(accuracy * images), images)


def _notices(subject: ReportSubject) -> list[str]:
    run, result = subject.summary, subject.summary.result
    notices = []
    if instead := result.data.stands_in_for:
        notices.append(f"These results are for {result.data.name}, the fallback for {instead}.")
    if run.status != "finished":
        reason = f": {result.reason}" if result.reason else "."
        notices.append(f"This run {describe_status(run.status)}{reason}")
    if not result.exact:
        notices.append("This run was resumed in another environment: its weights do not depend on the seed alone.")
    if seen := result.validation_images_seen:
        notices.append(
            f"Its initial weights or its teacher were trained on {seen:,} of its validation images, so "
            "validation results are too optimistic."
        )
    if subject.data is not None and result.data.sha256 not in (None, subject.data.sha256):
        notices.append("The data has changed since this run: results below the curves are for the present data.")
    notices += [f"This report lacks {reason}" for reason in subject.missing]
    return notices


def _headline(subject: ReportSubject) -> list[tuple[str, str]]:
    result = subject.summary.result
    rows = [*accuracy_rows(result, "test", "Test accuracy"), *accuracy_rows(result, "val", "Validation accuracy")]
    rows += [
        (f"{part} {name}", format_loss(float(value)))
        for part, metrics in (("Test", result.test or {}), ("Validation", _validated(result)))
        for name, value in metrics.items()
        if name != "accuracy"
    ]
    rows.append(
        ("Epochs", f"{result.epochs} of {result.planned_epochs or '?'}" + ", stopped early" * result.stopped_early)
    )
    if result.parameters is not None:
        rows.append(("Parameters", f"{result.parameters:,}"))
    if (seconds := result.training_seconds) is not None:
        rows.append((f"Time{TIME_NOTE}", format_duration(seconds)))
    if "seed" in subject.values:
        rows.append(("Seeds", f"1 (seed={subject.values['seed']})"))
    return rows


def _validated(result: RunResult) -> dict[str, float]:
    best = result.best or {}
    return {name.removeprefix("val/"): value for name, value in best.items() if name.startswith("val/")}


def format_duration(seconds: float) -> str:
    """Format a duration as `12.3 s`, `4 min 5 s` or `2 h 3 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


# ── The question ─────────────────────────────────────────────────────────────────────────────────────────────────


def _question(subject: ReportSubject) -> list[Block]:
    """Return what differs from the defaults, and the overrides of the command line."""
    result = subject.summary.result
    blocks: list[Block] = []
    if result.note:
        blocks.append(Text(result.note))
    if result.tags:
        blocks.append(Text(f"Tags: {', '.join(result.tags)}."))
    if subject.values:
        rows = settings_beyond_defaults(subject.values)
        blocks.append(
            Table("What differs from the defaults", ("key", "this run", "default"), rows)
            if rows
            else Text("Nothing differs from the defaults.")
        )
    if origin := result.init_from:
        blocks.append(Text(f"The weights start from {origin.run}: {', '.join(origin.taken) or 'no layer fits'}."))
    if result.teacher:
        blocks.append(Text(f"Its teacher is {result.teacher.run}."))
    blocks.append(
        Text(
            "One run with one seed: the interval covers other images of the same kind, but not other seeds. "
            "'mnist-exp compare' judges differences between configs over several seeds."
        )
    )
    return blocks


# ── Curves ───────────────────────────────────────────────────────────────────────────────────────────────────────


def curves_of(history: Sequence[Mapping[str, float]], best_epoch: int | None) -> list[Block]:
    """Return the curves of a run and the table of its epochs."""
    if not history:
        return [Notice("No epoch is finished yet, so there are no curves.")]
    blocks: list[Block] = []
    columns = list(history[0])
    metrics = dict.fromkeys(key.partition("/")[2] for key in columns if key.startswith(("train/", "val/")))
    for metric in sorted(metrics, key=lambda name: name != "accuracy"):
        saved = f" The dashed line marks the saved epoch, {best_epoch}." if best_epoch else ""
        values = ", ".join(
            f"{label} {_format_metric(metric, history[-1][f'{part}/{metric}'])}"
            for part, label in (("train", "training"), ("val", "validation"))
            if f"{part}/{metric}" in columns
        )
        alt = f"{metric} by epoch, up to epoch {history[-1]['epoch']:g}; at the end: {values}."
        png = drawn(partial(plots.curve, history, metric, metric, best_epoch=best_epoch))
        picture = Picture(png, alt, f"{metric.capitalize()} by epoch.{saved}")
        blocks.append(Chart(charts.curves(history, metric, best_epoch), picture))
    if len({row.get("learning_rate") for row in history}) > 1:
        alt = "Learning rate at the end of each epoch; the table below has the values."
        png = drawn(
            lambda path: plots.comparison([("learning rate", [history])], "learning_rate", "learning rate", path)
        )
        item = charts.steps(history, "learning_rate", "learning rate")
        blocks.append(Chart(item, Picture(png, alt, "Learning rate at the end of each epoch.")))
    rows = [[_format_metric(key, row[key]) for key in columns] for row in history]
    last = history[-1]["epoch"]
    is_cut = len(history) < last
    caption = f"{len(history)} of {last:g} epochs, evenly spaced" if is_cut else f"All {len(history)} epochs"
    table = Table(caption, columns, rows, columns, interactive=True, folded=True, elsewhere=_ALL_EPOCHS)
    blocks += [table, Text(f"{_ALL_EPOCHS}.")] if is_cut else [table]
    return blocks


def _format_metric(name: str, value: float) -> str:
    if name == "epoch":
        return f"{value:g}"
    if "accuracy" in name:
        return format_percent(value)
    return f"{value:.3g}" if name in ("learning_rate", "seconds") else format_loss(value)


# ── Architecture, data, environment ──────────────────────────────────────────────────────────────────────────────


def _card(run: Path) -> list[Block]:
    """Return the card that the run wrote at its start, for a run without a model."""
    try:
        return [Code("The architecture as the run recorded it", read_text(run / CARD))]
    except (OSError, ValueError):
        return []


def _data(subject: ReportSubject) -> list[Block]:
    data = subject.summary.result.data
    rows = [
        ("Data set", data.title),
        ("Origin", data.origin or "unknown"),
        ("Images", ", ".join(f"{count:,} {part}" for part, count in data.images.items()) or "unknown"),
        ("Size", format_shape(data.shape) if data.shape else "unknown"),
        ("SHA-256 of images and labels", data.sha256 or "unknown"),
    ]
    if data.distinct_training_images is not None:
        rows.append(("Distinct training images before balancing", f"{data.distinct_training_images:,}"))
    blocks: list[Block] = [Facts(rows)]
    if data.skipped:
        blocks.append(Notice(f"{len(data.skipped)} damaged files were left out: {', '.join(data.skipped[:10])}"))
    config, source = subject.config, subject.source
    if source is not None and config is not None and config.data.dir is not None and not config.data.mirrors:
        blocks += [Notice(remark) for remark in remarks(source)]
    if source is not None:
        blocks.append(_class_counts(subject))
    return blocks


def _class_counts(subject: ReportSubject) -> Table:
    """Return the number of images of each class, by part."""
    assert subject.data is not None
    parts = {"train": subject.data.train, "val": subject.data.val, "test": subject.data.test}
    there = {name: part.labels.tolist() for name, part in parts.items() if part is not None}
    rows = [
        [name, *(f"{labels.count(number):,}" for labels in there.values())]
        for number, name in enumerate(subject.data.class_names)
    ]
    return Table(
        "Images of each class",
        ["class", *there],
        rows,
        tuple(there),
        interactive=True,
        folded=True,
        elsewhere="'mnist-exp dataset verify' prints all",
    )


def describe_data(runs: Sequence[RunSummary]) -> list[Block]:
    """Return the data sets that runs were trained on."""
    sets: dict[str | None, list[RunSummary]] = {}
    for run in runs:
        sets.setdefault(run.result.data.sha256, []).append(run)
    blocks: list[Block] = []
    for digest, same in sets.items():
        data = same[0].result.data
        images = ", ".join(f"{count:,} {part}" for part, count in data.images.items())
        rows = [
            ("Data set", data.title),
            ("Origin", data.origin or "unknown"),
            ("Images", images or "unknown"),
            ("Size", format_shape(data.shape or ()) or "unknown"),
            ("Runs", f"{len(same)}"),
            ("SHA-256 of images and labels", digest or "unknown"),
        ]
        blocks.append(Facts(rows))
    return blocks


def describe_environments(runs: Sequence[RunSummary]) -> list[Block]:
    """Return the computers, devices and versions that runs used, and when they ran."""
    kinds = Counter(_environment_of(run.result) for run in runs)
    rows = [(*key, str(count)) for key, count in kinds.items()]
    header = ("computer", "device", "threads", "precision", "versions", "runs")
    started = min((run.result.started for run in runs if run.result.started), default=None)
    ended = max((run.result.ended for run in runs if run.result.ended), default=None)
    seconds = [run.result.training_seconds for run in runs if run.result.training_seconds is not None]
    facts = [("Started", _format_time(started)), ("Ended", _format_time(ended))]
    if seconds:
        facts.append((f"Time of all runs{TIME_NOTE}", format_duration(sum(seconds))))
        facts.append(
            (f"Time of a run{TIME_NOTE}", f"{format_duration(min(seconds))} … {format_duration(max(seconds))}")
        )
    return [Facts(facts), Table("Computers and versions", header, rows, ("threads", "runs"))]


def _environment_of(result: RunResult) -> tuple[str, ...]:
    """Return the computer, device, threads, precision and versions of a run."""
    device = result.device
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    values = (result.host, device.device or device.kind, device.threads, device.precision, versions)
    return tuple(str(value or "–") for value in values)


def using_lines(run: RunSummary, what: str) -> list[Block]:
    """Return the command that repeats a run, and those that show and use its model."""
    path = display_path(run.path)
    words = (["report"], ["evaluate"], ["predict", "inputs=digit.png"])
    flags = plugin_flags(run.result.plugins)
    commands = [shlex.join(["mnist-exp", verb, *flags, f"run={path}", *more]) for verb, *more in words]
    return [
        Code(f"Repeat {what}", repeating_command(path, run.result)),
        Code(f"Report on, evaluate and use {what}", "\n".join(commands)),
        Code(
            f"Use {what} in Python", f"import mnist_exp\nrun = mnist_exp.load({str(path)!r})\nrun.predict(images)"
        ),
    ]


def _environment(result: RunResult) -> list[Block]:
    device = result.device
    rows = [
        ("Computer", result.host or "unknown"),
        ("Device", f"{device.device or device.kind}, {device.threads or '?'} thread{'s' * (device.threads != 1)}"),
        ("Precision", device.precision or "unknown"),
        ("Deterministic", format_value(device.deterministic)),
        ("Started", _format_time(result.started)),
        ("Ended", _format_time(result.ended)),
    ]
    if device.cpu_features:
        rows.append(("CPU instructions", ", ".join(device.cpu_features)))
    rows += [(f"Resumed at epoch {one.epochs}", _format_time(one.at)) for one in result.resumed]
    rows += [(name, version) for name, version in result.versions.items()]
    rows += [("Fingerprint of the run", result.fingerprint or "unknown")]
    rows += [("SHA-256 of the weights", result.weights_sha256 or "unknown")]
    phases = [[name, f"{seconds:.2f}"] for name, seconds in result.seconds.items()]
    return [
        Facts(rows),
        Table("Duration of each phase, and of all of them", ("phase", "seconds"), phases, ("seconds",)),
    ]


def _format_time(seconds: float | None) -> str:
    if not seconds:
        return "–"
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g}"


# ── Repeating and using it ───────────────────────────────────────────────────────────────────────────────────────


def repeat_and_use(subject: ReportSubject) -> list[Block]:
    """Return the command that repeats a run and the Python code that loads its model."""
    run, result = display_path(subject.summary.path), subject.summary.result
    blocks: list[Block] = [Code("Repeat this run", repeating_command(run, result))]
    if result.overrides:
        blocks.append(Code("Original command", original_command(result)))
    if subject.config is not None:
        blocks.append(Code("Use the model in Python", loading_lines(run, subject.config)))
    predict = ["mnist-exp", "predict", *plugin_flags(result.plugins), f"run={run}", "inputs=digit.png"]
    blocks.append(Code("Use the model on image files", shlex.join(predict)))
    if warnings := _logged_warnings(subject.summary.path):
        blocks += [Text("Warnings in the run's log:"), Bullets(warnings)]
    return blocks


def original_command(result: RunResult) -> str:
    """Return the command that started a run."""
    return shlex.join(["mnist-exp", *plugin_flags(result.plugins), *result.overrides])


def _logged_warnings(run: Path) -> list[str]:
    """Return the warnings in a run's log, each once."""
    try:
        lines = read_text(run / LOG).splitlines()
    except (OSError, ValueError):
        return []
    found = [line.split(" WARNING ", 1)[1] for line in lines if " WARNING " in line]
    return list(dict.fromkeys(found))[:_MOST_WARNINGS]


def _config(values: Mapping[str, Any]) -> list[Block]:
    rows = sorted(flatten(dict(values)).items())
    return (
        [Table("Every key and its value", ("key", "value"), rows, interactive=True, folded=True)] if rows else []
    )
