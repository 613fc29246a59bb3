"""`mnist-exp tune`: a search over a space of configs, with Optuna.

Everything is checked before anything is created. Each trial is a run like any other, but for the test part, which
nobody looks at before the search has ended: then the best trial's saved model is scored on it, once.
"""

from __future__ import annotations

import csv
import io
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_exp.config.overrides import Request, key_of
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.engine.preparation import set_up
from mnist_exp.engine.results import PLOTS, draw_test, score_test
from mnist_exp.engine.resumption import check_resumption
from mnist_exp.engine.run import Job, TrainingRun
from mnist_exp.errors import Killed, MnistExpError, Pruned, RequestError, WorkError
from mnist_exp.runs.atomic import remove_folder, write_text
from mnist_exp.runs.directory import RunDirectory, RunSummary, summarize
from mnist_exp.runs.log import LOG, quiet, say, warn
from mnist_exp.runs.signals import held
from mnist_exp.runs.stopwatch import Stopwatch
from mnist_exp.sweeps.search import Search, check_search
from mnist_exp.sweeps.worker import load_source
from mnist_exp.text import display_path

if TYPE_CHECKING:
    from mnist_exp.sweeps.optuna_study import Claim, Study, Trial
    from mnist_exp.tracking.study_record import StudyRecord

TABLE = "trials.csv"
_SHOWN = 10  # of the best trials
_PATIENCE = 60  # seconds, for another process that concludes the search


def tune(request: Request, started: float) -> None:
    """Search, and score the best trial. Raises `RequestError` before anything is created, `WorkError` after."""
    search = check_search(request)
    from mnist_exp.sweeps.optuna_study import Study, open_study
    from mnist_exp.tracking.study_record import StudyRecord

    select, settings = search.config.training.select, search.tune
    with study_directory(search) as directory:
        storage = open_study(
            settings.storage, search.name, directory, search.definition,
            maximize=search.maximizes, pruner=settings.pruner, epochs=search.epochs,
        )  # fmt: skip
    with StudyRecord(directory, without_storage(request.overrides), search.config.tracking) as record:
        study = Study(storage, search.space, settings.sampler, search.seed, search.trials, directory, record.key)
        ended = [trial for trial in study.trials() if trial.state != "running"]
        before = f", {len(ended)} ended already" if ended else ""
        say(f"study   {display_path(directory)}: {search.trials} trials wanted{before}")
        say(f"space   {', '.join(search.space.keys)}")
        say(f"search  {settings.sampler} for the {select.mode}imum of {select.metric}; pruner {settings.pruner}")
        try:
            while (claim := next_claim(study)) is not None:
                with claim:
                    with held():
                        record.take()
                    run_trial(search, claim, directory)
                    with held():
                        tell_trial(search, study, claim.number, directory)
            conclude(search, study, record, directory)
        except (KeyboardInterrupt, Killed):
            say(f"{display_path(directory)}: interrupted; the same command goes on with it")
            raise
    say(f"{display_path(directory)}: done in {time.perf_counter() - started:.1f} s")
    if search.stands_in_for:
        warn(f"these figures are for {search.config.data.name}, which stood in for {search.stands_in_for}")


def next_claim(study: Study) -> Claim | None:
    """The next trial; a signal waits for it, which Python might drop in what is called between two lines."""
    with held():
        return study.claim()


def without_storage(overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides that can be told to everybody: a storage's URL may hold a password."""
    return tuple(text for text in overrides if key_of(text) != "tune.storage")


@contextmanager
def study_directory(search: Search) -> Iterator[Path]:
    """The study's directory; where it is new and the block fails, nothing is left of it. Raises `RequestError`."""
    directory = search.directory
    # An empty one is another process's, which begins the study at this moment.
    if directory.exists() and any(directory.iterdir()) and not (directory / ".claims").is_dir():
        raise RequestError(
            f"{display_path(directory)}: is there already, and is no study; tune.name=… gives it another name"
        )
    created = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        yield directory
    except (OSError, RequestError) as error:
        if created and not any(path.name != ".claims" for path in directory.glob("*")):
            remove_folder(directory)
            for folder in created[1:]:
                with suppress(OSError):
                    folder.rmdir()
        if isinstance(error, OSError):
            raise RequestError(
                f"outputs: {error.filename or directory} cannot be written: {error.strerror}"
            ) from error
        raise


def run_trial(search: Search, claim: Claim, directory: Path) -> None:
    """Run a trial, or go on with its run, and tell the study how it ended.

    Raises `WorkError` where the machine is to blame, not the trial: it goes on with that another time.
    """
    path = directory / trial_name(claim.number)
    stopwatch = Stopwatch(time.perf_counter())
    state, reason = "finished", ""
    try:
        summary = summarize(path)
        if summary is None or summary.status not in ("finished", "pruned"):
            with quiet():
                TrainingRun(job_of(search, claim, path, summary, stopwatch), stopwatch).execute()
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
    value, seconds = None, 0.0
    if (ended := summarize(path)) is not None:
        result = ended.result
        value = (result.best or {}).get(search.metric)
        seconds = (result.ended or time.time()) - result.started
    claim.end(state, value if state == "finished" else None, seconds, reason)


def trial_name(number: int) -> str:
    """Of the trial's run."""
    return f"trial-{number:03d}"


def job_of(search: Search, claim: Claim, path: Path, summary: RunSummary | None, stopwatch: Stopwatch) -> Job:
    """What is to be done for a trial: its run anew, or from the checkpoint of one that was ended."""
    request = replace(search.request, overrides=search.space.overrides(claim.values))
    job = None
    if summary is not None and summary.status in ("interrupted", "killed", "failed"):
        with suppress(RequestError):  # its code or device was another: from the beginning
            job = resumed(request, path, stopwatch)
    if job is None:
        remove_folder(path)
        config = compose_checked(request, TrainConfig)[0]
        computer = set_up(config)
        with stopwatch.phase("data"):
            source = load_source(config.data.as_found)
        job = Job(
            config, request.overrides, computer, source, path.parent, path.name, search.stands_in_for, path.parent,
            withholds_test=True,
        )  # fmt: skip
    return replace(job, observe=watch(job.config, claim))


def resumed(request: Request, path: Path, stopwatch: Stopwatch) -> Job:
    """What is to be done to go on with a trial's run. Raises `RequestError`."""
    directory = RunDirectory.open(path)
    try:
        return check_resumption(Request("train", (), request.config_dir), directory, stopwatch)
    except BaseException:
        directory.release()
        raise


def watch(config: TrainConfig, claim: Claim) -> Any:
    """What tells the study of a run's epochs, and ends the run that is behind."""
    from mnist_exp.training.early_stopping import better

    metric = config.training.select.metric

    def after_epoch(history: Sequence[Mapping[str, float]]) -> None:
        best: Mapping[str, float] = {}
        for row in history:
            best = row if not best or better(row, best, config) else best
            claim.report(int(row["epoch"]), best[metric])
        if best and len(history) < config.training.epochs and claim.is_behind():
            raise Pruned(f"after epoch {len(history)}: {metric} {best[metric]:.4g} is behind the other trials'")

    return after_epoch


def tell_trial(search: Search, study: Study, number: int, directory: Path) -> None:
    """Print how a trial ended, and which is the best so far."""
    trials = study.trials()
    trial = next((trial for trial in trials if trial.number == number), None)
    if trial is None:  # given up by others
        return
    values = "  ".join(f"{key}={short(value)}" for key, value in trial.values.items())
    value, seconds = search.format_value(trial.value), trial.seconds or 0.0
    line = f"trial {number:<4} {value:>9}  {trial.state:<8}  {seconds:6.1f} s  {values}"
    best = best_of(search, trials)
    say(line + (f"  best so far: trial {best.number}, {search.format_value(best.value)}" if best else ""))
    if trial.reason:
        log = directory / trial_name(number) / LOG
        say(f"  {trial.reason}{f' ({display_path(log)})' if log.is_file() else ''}")


def best_of(search: Search, trials: Sequence[Trial]) -> Trial | None:
    """The finished trial with the best value; the earliest wins a tie."""
    return next((trial for trial in ranked(search, trials) if trial.state == "finished"), None)


def ranked(search: Search, trials: Sequence[Trial]) -> list[Trial]:
    """The trials that have ended: the finished ones from the best on, then the pruned, then the failed."""
    order = ["finished", "pruned", "failed"]
    sign = -1 if search.maximizes else 1
    ended = [trial for trial in trials if trial.state in order]
    return sorted(ended, key=lambda trial: (order.index(trial.state), sign * (trial.value or 0.0), trial.number))


def short(value: str) -> str:
    """A number in four digits; what else, as it is."""
    try:
        return value if value.lstrip("+-").isdigit() else f"{float(value):.4g}"
    except ValueError:
        return value


def conclude(search: Search, study: Study, record: StudyRecord, directory: Path) -> None:
    """Where all trials have ended, score the best, and leave table and pictures. Raises `WorkError` for none."""
    trials = study.trials()
    running = [trial.number for trial in trials if trial.state == "running"]
    if not study.is_complete():
        numbers = ", ".join(map(str, running))
        say(f"nothing is left to begin; trial {numbers} is under way elsewhere, and who ends it scores the best")
        return
    order = ranked(search, trials)
    best = best_of(search, trials)
    if best is None:
        raise WorkError(
            f"none of {len(order)} trials finished; the last one: {order[-1].reason or order[-1].state}"
        )
    text = as_csv(search, order)
    # The table is written last: where it says the same, another process, or an earlier one, has done all.
    if not is_written(directory, text) and record.take(_PATIENCE) and not is_written(directory, text):
        test = score_best(search, best, directory)
        leave_results(search, study, record, directory, order, best, test)
        write_text(directory / TABLE, text)
        record.artifact(TABLE)
    print_results(search, study, order, best, directory)


def as_csv(search: Search, order: Sequence[Trial]) -> str:
    """The table of all trials."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", search.metric, *search.space.keys, "seconds", "reason"])
    for trial in sorted(order, key=lambda trial: trial.number):
        writer.writerow(
            [trial.number, trial.state, trial.value, *trial.values.values(), trial.seconds, trial.reason]
        )
    return text.getvalue()


def is_written(directory: Path, table: str) -> bool:
    """Whether the table of all trials is there, and says this."""
    file = directory / TABLE
    return file.exists() and file.read_text(encoding="utf-8") == table


def score_best(search: Search, best: Trial, directory: Path) -> dict[str, float] | None:
    """Score the best trial's saved model on the test part, unless that was done; its scores, if there is one."""
    from mnist_exp.data.load import prepare
    from mnist_exp.inference.scoring import load
    from mnist_exp.tracking.recorder import TestRecord

    path = directory / trial_name(best.number)
    summary = summarize(path)
    if summary is None or summary.status != "finished":
        warn(f"trial {best.number} is the best, and its run is not here but at {best.place}: start tune there")
        return None
    if summary.result.test:
        return dict(summary.result.test)
    data = prepare(load_source(search.config.data.as_found), search.config.data)
    if data.test is None:
        return None
    request = replace(search.request, overrides=search.space.overrides(list(best.values.values())))
    config = compose_checked(request, TrainConfig)[0]
    with RunDirectory.open(path) as run, TestRecord(run) as record:
        scores = score_test(load(path / "model.keras"), data.test, config, Stopwatch(time.perf_counter()))
        record.test(scores.metrics)
        draw_test(record, data.test, data.class_names, scores)
        for picture in ("confusion_matrix", "misclassified"):
            record.artifact(f"{PLOTS}/{picture}.png", PLOTS)
    return dict(scores.metrics)


def leave_results(
    search: Search,
    study: Study,
    record: StudyRecord,
    directory: Path,
    order: Sequence[Trial],
    best: Trial,
    test: Mapping[str, float] | None,
) -> None:
    """Draw the study, and give the tracker what came out."""
    from mnist_exp.sweeps.study_plots import draw_study

    for picture in draw_study(study.optuna, search.metric, directory / PLOTS):
        record.artifact(f"{PLOTS}/{picture.name}", PLOTS)
    header, rows = best_rows(search, order)
    lines = [header, ["---"] * len(header), *rows]
    record.note("\n".join(f"| {' | '.join(line)} |" for line in lines))
    assert best.value is not None
    values = {f"best/{search.metric}": best.value}
    values |= {f"test/{name}": value for name, value in (test or {}).items()}
    record.metrics(values, step=len(order))


def best_rows(search: Search, order: Sequence[Trial]) -> tuple[list[str], list[list[str]]]:
    """The table of the best trials."""
    header = ["trial", "state", search.metric, *search.space.keys, "seconds"]
    rows = [
        [
            str(trial.number), trial.state, search.format_value(trial.value), *map(short, trial.values.values()),
            "–" if trial.seconds is None else f"{trial.seconds:.1f}",
        ]
        for trial in order[:_SHOWN]
    ]  # fmt: skip
    return header, rows


def print_results(search: Search, study: Study, order: Sequence[Trial], best: Trial, directory: Path) -> None:
    """Print the best trials, how much each dimension matters, and how to train the best again."""
    from mnist_exp.report.tables import print_table
    from mnist_exp.sweeps.study_plots import importances

    header, rows = best_rows(search, order)
    print_table(header, rows, right=("trial", search.metric, "seconds"))
    counts = {state: sum(trial.state == state for trial in order) for state in ("finished", "pruned", "failed")}
    say(", ".join(f"{count} {state}" for state, count in counts.items() if count))
    if shares := importances(study.optuna):
        say("matters " + ", ".join(f"{key} {share:.0%}" for key, share in shares.items()))
    path = directory / trial_name(best.number)
    where = display_path(path) if path.is_dir() else best.place
    say(f"best    trial {best.number} with {search.metric} {search.format_value(best.value)}: {where}")
    summary = summarize(path)
    if summary is not None and (test := summary.result.test):
        images = summary.result.data.images["test"]
        say(f"test    accuracy {test['accuracy']:.2%}, loss {test['loss']:.4f}, on {images:,} images")
    overrides = search.space.overrides(list(best.values.values()))
    flag = ["--config-dir", search.request.config_dir] if search.request.config_dir else []
    say(f"again   mnist-exp {shlex.join([*flag, *overrides])}")
