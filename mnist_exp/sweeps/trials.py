"""Run the trials of a search, and score the best one's model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.data.formats import prepare
from mnist_exp.engine.job import Job, run_training
from mnist_exp.engine.preparation import complete_data, set_up
from mnist_exp.engine.results import score_test
from mnist_exp.engine.resumption import check_resumption
from mnist_exp.errors import MnistExpError, Pruned, RequestError, WorkError
from mnist_exp.inference.scoring import load
from mnist_exp.runs.atomic import remove_folder
from mnist_exp.runs.directory import PLOTS, RunDirectory, RunSummary, summarize
from mnist_exp.runs.log import quiet, warn
from mnist_exp.runs.result import DAMAGED
from mnist_exp.runs.stopwatch import Stopwatch
from mnist_exp.sweeps.optuna_study import Claim, Trial
from mnist_exp.sweeps.search import Search
from mnist_exp.sweeps.worker import load_source
from mnist_exp.tracking.recorder import ReopenedRecording
from mnist_exp.tracking.run_description import describe_run
from mnist_exp.training.early_stopping import is_better


def run_trial(search: Search, claim: Claim, directory: Path) -> None:
    """Run or resume a trial, and report its end to the study.

    Raises `WorkError` if the machine is at fault (for example, its disk is full); the trial can be resumed later.
    """
    path = directory / trial_name(claim.number)
    stopwatch = Stopwatch(time.perf_counter())
    state, reason = "finished", ""
    try:
        summary = summarize(path)
        if summary is None or summary.status not in ("finished", "pruned"):
            with quiet():
                run_training(prepare_trial(search, claim, path, summary, stopwatch), stopwatch)
        elif summary.status == "pruned":
            state = "pruned"
    except Pruned:
        state = "pruned"
    except Exception as error:
        if isinstance(error.__cause__, OSError):
            raise WorkError(f"trial {claim.number}: {error}") from error
        state, reason = (
            "failed",
            str(error) if isinstance(error, MnistExpError) else f"{type(error).__name__}: {error}",
        )
    value, seconds = read_figures(path, search.metric)
    claim.end(state, value if state == "finished" else None, seconds, reason)


def read_figures(run: Path, metric: str) -> tuple[float | None, float]:
    """Return a trial's value of a metric at its best epoch, and the seconds spent on the trial.

    An unknown value is None; unknown seconds are 0.
    """
    summary = summarize(run)
    if summary is None or summary.status == DAMAGED.status:
        return None, 0.0
    result = summary.result
    return (result.best or {}).get(metric), result.training_seconds or 0.0


def trial_name(number: int) -> str:
    """Return the name of a trial's run."""
    return f"trial-{number:03d}"


def prepare_trial(
    search: Search, claim: Claim, path: Path, summary: RunSummary | None, stopwatch: Stopwatch
) -> Job:
    """Prepare a trial: a new run, or the resumption of an interrupted one."""
    request = replace(search.request, overrides=search.space.overrides(claim.values))
    job = None
    if summary is not None and summary.status in ("interrupted", "killed", "failed"):
        with suppress(RequestError):  # code or device changed: start over
            job = prepare_resumption(request, path, stopwatch)
    if job is None:
        remove_folder(path)
        config = compose_checked(request, TrainConfig, complete_data)[0]
        computer = set_up(config)
        with stopwatch.phase("data"):
            source = load_source(config.data.as_found)
        job = Job(
            config, request.overrides, computer, source, path.parent, path.name, search.stands_in_for, path.parent,
            withholds_test=True,
        )  # fmt: skip
    return replace(job, observe=make_observer(job.config, claim))


def prepare_resumption(request: Request, path: Path, stopwatch: Stopwatch) -> Job:
    """Prepare the resumption of a trial's run. Raises `RequestError`."""
    directory = RunDirectory.open(path)
    try:
        return check_resumption(Request("train", (), request.config_dir), directory, stopwatch)
    except BaseException:
        directory.release()
        raise


def make_observer(config: TrainConfig, claim: Claim) -> Any:
    """Return an observer that reports a run's epochs to the study, and prunes the run if it is behind."""
    metric = config.training.select.metric

    def after_epoch(history: Sequence[Mapping[str, float]]) -> None:
        best: Mapping[str, float] = {}
        for row in history:
            best = row if not best or is_better(row, best, config) else best
            claim.report(int(row["epoch"]), best[metric])
        if best and len(history) < config.training.epochs and claim.is_behind():
            raise Pruned(
                f"after epoch {len(history)}: {metric} {best[metric]:.4g} is worse than that of other trials"
            )

    return after_epoch


def score_best(search: Search, best: Trial, directory: Path) -> dict[str, float] | None:
    """Score the best trial's saved model on the test set, if not done yet. Returns the metrics, if any."""
    path = directory / trial_name(best.number)
    summary = summarize(path)
    if summary is None or summary.status != "finished":
        warn(
            f"trial {best.number} is the best, but its run is at {best.place}; "
            "run the same command there to score it"
        )
        return None
    if summary.result.test:
        return dict(summary.result.test)
    data = prepare(load_source(search.config.data.as_found), search.config.data)
    if data.test is None:
        return None
    from mnist_exp.engine.run_plots import draw_test  # imports Matplotlib

    request = replace(search.request, overrides=search.space.overrides(list(best.values.values())))
    config = compose_checked(request, TrainConfig, complete_data)[0]
    with RunDirectory.open(path) as run, ReopenedRecording(run) as record:
        scores = score_test(load(path / "model.keras"), data.test, config, Stopwatch(time.perf_counter()))
        record.test(scores.metrics)
        if config.drawn_plots:
            for picture in draw_test(record, config, data.test, data.class_names, scores):
                record.artifact(f"{PLOTS}/{picture}.png", PLOTS)
        record.note(describe_run(run.path, record.result, config))
    return dict(scores.metrics)
