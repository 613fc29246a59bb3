"""Describe runs in JSON documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mnist_exp.report.documents import DiffDocument, RunEntry, RunsDocument, TrainDocument
from mnist_exp.runs.directory import find_fault
from mnist_exp.runs.journal import flatten
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
    flat = [flatten(dict(run.config)) for run in pair]
    keys = [key for key in dict.fromkeys([*flat[0], *flat[1]]) if key and flat[0].get(key) != flat[1].get(key)]
    keys = list(dict.fromkeys(_differing_part(key, pair) for key in keys))
    keys = [key for key in keys if not any(key.startswith(f"{other}.") for other in keys)]
    sections = list(dict.fromkeys(prefix for key in keys for prefix in _sections(key)))
    keys.sort(key=lambda key: [sections.index(prefix) for prefix in _sections(key)])
    return DiffDocument(
        runs=(str(first.summary.path.resolve()), str(second.summary.path.resolve())),
        settings={key: (first.setting(key), second.setting(key)) for key in keys},
        results={name: (figures[0].get(name), figures[1].get(name)) for name in names},
    )


def _differing_part(key: str, runs: Sequence[ListedRun]) -> str:
    """Return the first part of a dotted key that differs as a whole, such as a layer's position; else the key.

    A list item differs as a whole if its type does; any value, if only one of the two is a mapping or a list.
    """
    for part in _sections(key)[:-1]:
        first, second = (run.setting(part) for run in runs)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            if part.rpartition(".")[2].isdigit() and first.get("type") != second.get("type"):
                return part
        elif not (isinstance(first, list) and isinstance(second, list)):
            return part
    return key


def _sections(key: str) -> list[str]:
    """Return a key and the sections of the config that contain it, such as `model`, `model.layers`, …"""
    parts = key.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
