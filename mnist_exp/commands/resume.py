"""`mnist-exp resume`: continue an interrupted run exactly, or train a finished one longer.

All obstacles are reported before anything is changed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mnist_exp.config.overrides import Request, key_of, override_value
from mnist_exp.engine.job import run_training
from mnist_exp.engine.resumption import check_resumption
from mnist_exp.engine.store_permission import permit_store
from mnist_exp.errors import RequestError
from mnist_exp.report.documents import TrainDocument
from mnist_exp.report.run_documents import train_document
from mnist_exp.runs.directory import RunDirectory, RunSummary
from mnist_exp.runs.lookup import find_run
from mnist_exp.runs.stopwatch import Stopwatch
from mnist_exp.suggest import nearest
from mnist_exp.sweeps.reports import add_report
from mnist_exp.text import display_path


def resume(request: Request, started: float) -> TrainDocument:
    """Resume a run. Raises `RequestError` before anything is changed, `WorkError` after."""
    stopwatch = Stopwatch(started)
    wanted = override_value(request, "from")
    if not isinstance(wanted, str):
        typo = next((key_of(text) for text in request.overrides if nearest(key_of(text), ["run"])), None)
        meant = f" ({typo}: did you mean 'run'?)" if typo else ""
        raise RequestError(f"run: missing; give run=latest, a run's directory or name{meant}")
    run = find_run(wanted, Path(override_value(request, "outputs") or "outputs"), is_resumable)
    with RunDirectory.open(run.path) as directory:
        request = replace(request, overrides=tuple(t for t in request.overrides if key_of(t) != "from"))
        job = check_resumption(request, directory, stopwatch)
        config = job.config
        place, run_id = f"{display_path(run.path)}/config.yaml", run.result.mlflow_run_id
        tracking = permit_store(request, config.tracking, Path(config.outputs), place, run_id)
        job = replace(job, config=config.model_copy(update={"tracking": tracking}))
        result = run_training(job, stopwatch)
    add_report(run.path, job.config)
    return train_document(result, run.path)


def is_resumable(run: RunSummary) -> bool:
    """Return whether `run=latest` may select a run: it was interrupted or killed, or failed after a checkpoint."""
    return run.status in ("interrupted", "killed") or (
        run.status == "failed" and (run.path / "checkpoint").is_dir()
    )
