"""`mnist-exp train`: train one model.

Everything is checked before anything is created; `engine.run.TrainingRun` is the run itself.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from threading import Thread

from mnist_exp.config.overrides import Request
from mnist_exp.engine.job import Job, run_training
from mnist_exp.engine.preparation import check_config, load_base_run, resolve_data
from mnist_exp.engine.store_permission import permit_store
from mnist_exp.report.documents import TrainDocument
from mnist_exp.report.run_documents import train_document
from mnist_exp.runs.directory import RUNS, add_timestamp
from mnist_exp.runs.stopwatch import Stopwatch
from mnist_exp.sweeps.reports import add_report


def train(request: Request, started: float) -> TrainDocument:
    """Check the request and train. Raises `RequestError` before anything is created, `WorkError` after."""
    stopwatch = Stopwatch(started)
    with stopwatch.phase("start"):
        request, config, computer = check_config(load_base_run(request))
        permit_store(request, config.tracking, Path(config.outputs))
    Thread(target=import_plots).start()  # while data is read and unpacked, which releases the GIL
    with stopwatch.phase("data"):
        request, config, source, stands_in_for = resolve_data(request, config)
    name = add_timestamp(config.name or f"{config.model.name}-{config.aug.shown_name}")
    job = Job(config, request.overrides, computer, source, Path(config.outputs) / RUNS, name, stands_in_for)
    result = run_training(job, stopwatch)
    add_report(job.parent / result.name, config)
    return train_document(result, job.parent / result.name)


def import_plots() -> None:
    """Import Matplotlib early, as the import takes a third of a second. The main thread reports a failure."""
    with suppress(Exception):
        from mnist_exp.report import plots  # noqa: F401
