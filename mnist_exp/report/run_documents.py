"""Describe runs in JSON documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from mnist_exp.report.documents import DiffDocument, RunEntry, RunsDocument, TrainDocument
from mnist_exp.runs.directory import find_fault
from mnist_exp.runs.journal import is_nested_list
from mnist_exp.runs.result import RunResult
from mnist_exp.runs.selection import ListedRun, differing_settings, figures_of, metrics_of


def train_document(result: RunResult, path: Path) -> TrainDocument:
    """Return the document of a run, which `train` and `resume` print."""
    return TrainDocument(
        run=result.name,
        path=str(path.resolve()),
        status=result.status,
        data=result.data.name,
        data_sha256=result.data.sha256,
        fallback_for=result.data.stands_in_for,
        fingerprint=result.fingerprint,
        weights_sha256=result.weights_sha256,
        parameters=result.parameters,
        epochs=result.epochs,
        best=dict(result.best) if result.best else None,
        test=dict(result.test) if result.test else None,
        seconds=dict(result.seconds),
        mlflow_run_id=result.mlflow_run_id,
        exact=result.exact,
    )


def runs_document(shown: Sequence[ListedRun], total: int) -> RunsDocument:
    """Return the document of a list of runs; `total` is the number of runs before `limit` is applied."""
    differing = differing_settings(run.config for run in shown)
    return RunsDocument(runs=[_run_entry(run, differing) for run in shown], total=total)


def _run_entry(listed: ListedRun, differing: Sequence[str]) -> RunEntry:
    run, result = listed.summary, listed.summary.result
    return RunEntry(
        run=run.name,
        path=str(run.path.resolve()),
        status=run.status,
        started=result.started,
        epochs=result.epochs,
        planned_epochs=result.planned_epochs,
        data=result.data.name,
        data_sha256=result.data.sha256,
        fallback_for=result.data.stands_in_for,
        metrics=dict(metrics_of(result)),
        settings={key: listed.setting(key) for key in differing},
        tags=result.tags,
        note=result.note,
        fault=find_fault(run),
    )


def diff_document(first: ListedRun, second: ListedRun) -> DiffDocument:
    """Return the document of the differences between two runs."""
    pair = (first, second)
    figures = [figures_of(run.summary) for run in pair]
    names = [name for name in dict.fromkeys([*figures[0], *figures[1]]) if name not in ("run", "path", "started")]
    return DiffDocument(
        runs=(str(first.summary.path.resolve()), str(second.summary.path.resolve())),
        settings=dict(_differences(first.config, second.config)),
        results={name: (figures[0].get(name), figures[1].get(name)) for name in names},
    )


def _differences(
    first: Any, second: Any, key: str = "", *, are_layers: bool = False
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield the dotted keys at which two values of a config differ, with both values, in the order of the config.

    The layers of a list are compared by position. If two layers have different types, they differ as a whole.
    """
    are_mappings = isinstance(first, Mapping) and isinstance(second, Mapping)
    if are_mappings and not (are_layers and first.get("type") != second.get("type")):
        for name in dict.fromkeys([*first, *second]):
            yield from _differences(first.get(name), second.get(name), f"{key}.{name}" if key else str(name))
    elif is_nested_list(first) and is_nested_list(second):
        for number, pair in enumerate(zip_longest(first, second)):
            yield from _differences(*pair, f"{key}.{number}", are_layers=True)
    elif first != second:
        yield key, (first, second)
