"""`mnist-exp runs`: list, tag, annotate, remove and compare the runs of an output folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from mnist_exp.config.command_schemas import RunsConfig
from mnist_exp.config.overrides import Request
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.config.validation import compose_checked
from mnist_exp.errors import Problem, RequestError, WorkError
from mnist_exp.report.documents import Document
from mnist_exp.report.run_documents import diff_document, runs_document
from mnist_exp.report.tables import print_runs, print_table
from mnist_exp.runs.atomic import remove_folder
from mnist_exp.runs.directory import RunDirectory, RunSummary, find_fault, list_runs
from mnist_exp.runs.lookup import find_runs, refuse_irregular
from mnist_exp.runs.selection import ListedRun, differing_settings, select_runs
from mnist_exp.text import display_path, format_percent, format_value, printable, shorten
from mnist_exp.tracking.recorder import annotate
from mnist_exp.tracking.removal import delete_run

_MOST_COLUMNS = 6  # maximum number of differing settings in the printed table
_MOST_SETTINGS = 100  # maximum number of settings that `runs diff` prints
_WAIT_SECONDS = 5.0  # maximum wait for the tracker


def runs(request: Request, started: float) -> Document | None:
    """List the newest runs, or perform the requested action. Raises `RequestError` or `WorkError`."""
    config, _ = compose_checked(request, RunsConfig)
    if config.action == "list":
        return list_selected(config)
    chosen = choose_runs(config)
    if config.action == "diff":
        return print_difference(chosen)
    if config.action == "rm":
        remove_runs(chosen, config)
    else:
        annotate_runs(chosen, config)
    return None


def list_selected(config: RunsConfig) -> Document | None:
    """Print the runs that satisfy the condition as a table. Returns their document if it was requested."""
    summaries = list_runs(Path(config.outputs))
    if not summaries:
        print(f"There are no runs in {config.outputs}. 'mnist-exp' trains one.")
    reads = config.where is not None or config.sort is not None
    listed = [ListedRun.read(run) if reads else ListedRun(run, {}) for run in summaries]
    selected = select_runs(listed, config.where, config.sort)
    shown = selected[: config.limit]
    if selected:
        _print_table(shown)
    elif summaries:
        is_accuracy = config.where is not None and any("accuracy" in name for name in config.where.names)
        print("No run satisfies the condition." + " Accuracies are fractions: 0.9, not 90." * is_accuracy)
    if omitted := len(selected) - len(shown):
        print(f"{omitted} {'more' if reads else 'older'} runs: limit=null shows them.")
    if config.format != "json":
        return None
    return runs_document([run if reads else ListedRun.read(run.summary) for run in shown], len(selected))


def _print_table(shown: Sequence[ListedRun]) -> None:
    """Print runs with the settings in which they differ, and the faults of damaged runs."""
    differing = differing_settings(run.config for run in shown)[:_MOST_COLUMNS]
    settings = {key: [format_value(run.setting(key)) for run in shown] for key in differing}
    print_runs([run.summary for run in shown], settings)
    for run in shown:
        if fault := find_fault(run.summary):
            print(printable(fault))


def choose_runs(config: RunsConfig) -> list[RunSummary]:
    """Find the requested runs. Raises `RequestError` with every name that matches no run."""
    problems: list[Problem] = []
    chosen: dict[Path, RunSummary] = {}
    for wanted in config.run or ():
        try:
            chosen |= {run.path.resolve(): run for run in find_runs(wanted, Path(config.outputs))}
        except RequestError as error:
            problems.append(Problem("not-found", COMMAND_LINE, f"run={error}", "run"))
    if config.action == "diff" and not problems and len(chosen) != 2:
        message = f"run: must be two runs for 'runs diff', found {len(chosen)}"
        problems.append(Problem("invalid-value", COMMAND_LINE, message, "run"))
    if problems:
        raise RequestError(problems, "this request")
    return list(chosen.values())


def annotate_runs(chosen: Sequence[RunSummary], config: RunsConfig) -> None:
    """Set the tags or the note of runs. Raises `RequestError` for a run that is in use or damaged."""
    for run in chosen:
        refuse_irregular(run.path)
        with RunDirectory.open(run.path) as directory:
            try:
                annotate(directory, config.tags, config.note, _WAIT_SECONDS)
            except (OSError, ValueError) as error:
                raise RequestError(f"{display_path(run.path)}: {error}") from error
        print(printable(f"{display_path(run.path)}: {'tags' if config.action == 'tag' else 'note'} set"))


def remove_runs(chosen: Sequence[RunSummary], config: RunsConfig) -> None:
    """Remove runs, after asking. Raises `RequestError` for a run in use, before any is removed."""
    directories = []
    try:
        for run in chosen:
            refuse_irregular(run.path)
            directories.append(RunDirectory.open(run.path))
        if not config.yes and not _confirms(chosen):
            return
        for run, directory in zip(chosen, directories, strict=True):
            if config.from_mlflow:
                _remove_from_mlflow(run)
            try:
                remove_folder(directory.path)
            except OSError as error:
                raise WorkError(f"{display_path(run.path)}: cannot be removed: {error.strerror}") from error
            print(printable(f"{display_path(run.path)}: removed"))
    finally:
        for directory in directories:
            directory.release()


def _confirms(chosen: Sequence[RunSummary]) -> bool:
    """Ask the user whether to remove the runs. Raises `RequestError` if there is no terminal to ask on."""
    if not sys.stdin.isatty():
        message = "yes: must be true to remove runs when there is no terminal to ask on"
        raise RequestError([Problem("missing-value", COMMAND_LINE, message, "yes")], "this request")
    for run in chosen:
        print(printable(f"  {display_path(run.path)}"))
    return input(f"Remove {len(chosen)} run{'s' * (len(chosen) > 1)}? [y/N] ").strip().lower() in ("y", "yes")


def _remove_from_mlflow(run: RunSummary) -> None:
    try:
        delete_run(run.path, run.result.mlflow_run_id)
    except Exception as error:  # MLflow raises errors of many types
        raise WorkError(f"{display_path(run.path)}: not removed: {error}") from error


def print_difference(chosen: Sequence[RunSummary]) -> Document:
    """Print the settings and results in which two runs differ, and return them as a document."""
    document = diff_document(*map(ListedRun.read, chosen))
    settings = islice(document.settings.items(), _MOST_SETTINGS)
    rows = [[key, *map(format_value, pair)] for key, pair in settings]
    for name, pair in document.results.items():
        if pair[0] != pair[1]:
            show = format_percent if name.endswith("accuracy") else format_value
            rows.append([name, *map(show, pair)])
    if rows:
        print_table(["", *(run.name for run in chosen)], [[shorten(cell, 60) for cell in row] for row in rows])
    else:
        print("These runs have the same settings and results.")
    if len(document.settings) > _MOST_SETTINGS:
        print(f"Showing {_MOST_SETTINGS} of {len(document.settings):,} differing settings; format=json lists all.")
    return document
