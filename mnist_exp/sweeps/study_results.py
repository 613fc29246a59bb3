"""Write and print the results of a search that has ended."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from mnist_exp.report.documents import TrialEntry, TuneDocument
from mnist_exp.report.tables import print_table
from mnist_exp.runs.atomic import write_text
from mnist_exp.runs.directory import PLOTS, summarize
from mnist_exp.runs.log import say
from mnist_exp.sweeps.optuna_study import Study, Trial
from mnist_exp.sweeps.report_target import IMPORTANCES
from mnist_exp.sweeps.search import Search
from mnist_exp.sweeps.study_plots import draw_study, importances
from mnist_exp.sweeps.trial_table import best_trial, format_best_trials
from mnist_exp.sweeps.trials import trial_name
from mnist_exp.text import display_path, format_loss, format_percent
from mnist_exp.tracking.study_record import StudyRecord


def write_results(
    search: Search,
    study: Study,
    record: StudyRecord,
    directory: Path,
    order: Sequence[Trial],
    best: Trial,
    test: Mapping[str, float] | None,
) -> None:
    """Plot the study, and send the results to the tracker."""
    for picture in draw_study(search, study, order, directory / PLOTS):
        record.artifact(f"{PLOTS}/{picture.name}", PLOTS)
    if shares := importances(study.optuna):
        rows_of_keys = (f"{key},{share}\n" for key, share in shares.items())
        write_text(directory / IMPORTANCES, "key,share\n" + "".join(rows_of_keys))
        record.artifact(IMPORTANCES)
    header, rows = format_best_trials(search, order)
    lines = [header, ["---"] * len(header), *rows]
    record.note("\n".join(f"| {' | '.join(line)} |" for line in lines))
    assert best.value is not None
    values = {f"best/{search.metric}": best.value}
    values |= {f"test/{name}": value for name, value in (test or {}).items()}
    record.metrics(values, step=len(order))


def print_results(search: Search, study: Study, order: Sequence[Trial], best: Trial, directory: Path) -> None:
    """Print the best trials, the importance of each dimension, and the command that repeats the best trial."""
    header, rows = format_best_trials(search, order)
    print_table(header, rows, right=("trial", search.metric, "seconds"))
    counts = {state: sum(trial.state == state for trial in order) for state in ("finished", "pruned", "failed")}
    say(", ".join(f"{count} {state}" for state, count in counts.items() if count))
    if shares := importances(study.optuna):
        say("matters " + ", ".join(f"{key} {format_percent(share, 0)}" for key, share in shares.items()))
    path = directory / trial_name(best.number)
    where = display_path(path) if path.is_dir() else best.place
    say(f"best    trial {best.number} with {search.metric} {search.format_value(best.value)}: {where}")
    summary = summarize(path)
    if summary is not None and (test := summary.result.test):
        images = summary.result.data.images["test"]
        accuracy, loss = format_percent(test["accuracy"]), format_loss(test["loss"])
        say(f"test    accuracy {accuracy}, loss {loss}, on {images:,} images")
    overrides = search.space.overrides(list(best.values.values()))
    flag = ["--config-dir", search.request.config_dir] if search.request.config_dir else []
    say(f"again   mnist-exp {shlex.join([*flag, *overrides])}")


def tune_document(search: Search, trials: Sequence[Trial], directory: Path) -> TuneDocument:
    """Return the document of a search."""
    is_complete = all(trial.state != "running" for trial in trials)
    best = best_trial(search, trials) if is_complete else None
    summary = summarize(directory / trial_name(best.number)) if best else None
    return TuneDocument(
        study=directory.name,
        path=str(directory.resolve()),
        metric=search.metric,
        mode="max" if search.maximizes else "min",
        trials=[
            TrialEntry(
                number=trial.number,
                status=trial.state,
                value=trial.value,
                values=dict(trial.values),
                seconds=trial.seconds,
                reason=trial.reason,
            )
            for trial in trials
        ],
        best=best.number if best else None,
        best_run=str(summary.path.resolve()) if summary else None,
        test=dict(summary.result.test) if summary and summary.result.test else None,
        fallback_for=search.stands_in_for,
    )
