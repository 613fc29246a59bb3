"""`mnist-exp tune`: a search over a space of configs, with Optuna.

Everything is checked before anything is created. Each trial is an ordinary run that is not scored on the test set;
when the search has ended, the best trial's saved model is scored on it, once.
"""

from __future__ import annotations

import csv
import io
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_exp.config.overrides import Request, key_of
from mnist_exp.engine.results import PLOTS
from mnist_exp.engine.store_permission import permit_store
from mnist_exp.errors import Killed, RequestError, WorkError
from mnist_exp.runs.atomic import remove_folder, write_text
from mnist_exp.runs.directory import summarize
from mnist_exp.runs.log import LOG, say, warn
from mnist_exp.runs.signals import check, held
from mnist_exp.sweeps.search import Search, check_search
from mnist_exp.sweeps.trials import run_trial, score_best, trial_name
from mnist_exp.text import display_path

if TYPE_CHECKING:
    from mnist_exp.sweeps.optuna_study import Claim, Study, Trial
    from mnist_exp.tracking.study_record import StudyRecord

TABLE = "trials.csv"
_SHOWN = 10  # best trials in the printed table
_PATIENCE = 60  # seconds to wait for another process that finishes the search


def tune(request: Request, started: float) -> None:
    """Search, and score the best trial. Raises `RequestError` before anything is created, `WorkError` after."""
    search = check_search(request)
    permit_store(request, search.config.tracking, Path(search.config.outputs))
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
        before = f", {len(ended)} already ended" if ended else ""
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
            say(f"{display_path(directory)}: interrupted; run the same command again to resume it")
            raise
    say(f"{display_path(directory)}: done in {time.perf_counter() - started:.1f} s")
    if search.stands_in_for:
        warn(f"these figures are for {search.config.data.name}, the fallback for {search.stands_in_for}")


def next_claim(study: Study) -> Claim | None:
    """Claim the next trial. A signal waits until then: Python drops exceptions in weak-reference callbacks."""
    check()
    with held():
        return study.claim()


def without_storage(overrides: Sequence[str]) -> tuple[str, ...]:
    """Return the overrides without the storage, whose URL may contain a password."""
    return tuple(text for text in overrides if key_of(text) != "tune.storage")


@contextmanager
def study_directory(search: Search) -> Iterator[Path]:
    """Create or open the study's directory. A new one is removed if the block fails. Raises `RequestError`."""
    directory = search.directory
    # An empty directory belongs to another process that is just creating the study.
    if directory.exists() and any(directory.iterdir()) and not (directory / ".claims").is_dir():
        raise RequestError(
            f"{display_path(directory)}: already exists, and is not a study; tune.name=… gives it another name"
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


def tell_trial(search: Search, study: Study, number: int, directory: Path) -> None:
    """Print how a trial ended, and the best one so far."""
    trials = study.trials()
    trial = next((trial for trial in trials if trial.number == number), None)
    if trial is None:  # marked as lost by another process
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
    """Return the finished trial with the best value, the earliest of equal ones."""
    return next((trial for trial in ranked(search, trials) if trial.state == "finished"), None)


def ranked(search: Search, trials: Sequence[Trial]) -> list[Trial]:
    """Return the ended trials: finished ones by value, best first, then pruned, then failed ones."""
    order = ["finished", "pruned", "failed"]
    sign = -1 if search.maximizes else 1
    ended = [trial for trial in trials if trial.state in order]
    return sorted(ended, key=lambda trial: (order.index(trial.state), sign * (trial.value or 0.0), trial.number))


def short(value: str) -> str:
    """Shorten a number to four significant digits; return other text unchanged."""
    try:
        return value if value.lstrip("+-").isdigit() else f"{float(value):.4g}"
    except ValueError:
        return value


def conclude(search: Search, study: Study, record: StudyRecord, directory: Path) -> None:
    """If all trials have ended, score the best and write table and pictures.

    Raises `WorkError` if none finished.
    """
    trials = study.trials()
    running = [trial.number for trial in trials if trial.state == "running"]
    if not study.is_complete():
        numbers = ", ".join(map(str, running))
        say(f"nothing left to start; another process runs trial {numbers} and will score the best trial")
        return
    order = ranked(search, trials)
    best = best_of(search, trials)
    if best is None:
        raise WorkError(
            f"none of {len(order)} trials finished; the last one: {order[-1].reason or order[-1].state}"
        )
    text = as_csv(search, order)
    # The table is written last: if it is up to date, another or an earlier process has done everything.
    if not is_written(directory, text) and record.take(_PATIENCE) and not is_written(directory, text):
        test = score_best(search, best, directory)
        leave_results(search, study, record, directory, order, best, test)
        write_text(directory / TABLE, text)
        record.artifact(TABLE)
    print_results(search, study, order, best, directory)


def as_csv(search: Search, order: Sequence[Trial]) -> str:
    """Return the table of all trials as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", search.metric, *search.space.keys, "seconds", "reason"])
    for trial in sorted(order, key=lambda trial: trial.number):
        writer.writerow(
            [trial.number, trial.state, trial.value, *trial.values.values(), trial.seconds, trial.reason]
        )
    return text.getvalue()


def is_written(directory: Path, table: str) -> bool:
    """Whether the table of all trials exists with this content."""
    file = directory / TABLE
    return file.exists() and file.read_text(encoding="utf-8") == table


def leave_results(
    search: Search,
    study: Study,
    record: StudyRecord,
    directory: Path,
    order: Sequence[Trial],
    best: Trial,
    test: Mapping[str, float] | None,
) -> None:
    """Plot the study, and send the results to the tracker."""
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
    """Return the header and rows of the table of the best trials."""
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
    """Print the best trials, the importance of each dimension, and the command that repeats the best trial."""
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
