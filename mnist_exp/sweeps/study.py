"""Run a search: run its trials one after another, then score the best one and report the results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mnist_exp.config.overrides import key_of
from mnist_exp.errors import Killed, RequestError, WorkError
from mnist_exp.runs import signals
from mnist_exp.runs.atomic import remove_folder, write_text
from mnist_exp.runs.log import LOG, say
from mnist_exp.runs.regular_files import read_text
from mnist_exp.sweeps.optuna_study import Claim, Study, Trial, open_study
from mnist_exp.sweeps.search import Search
from mnist_exp.sweeps.trial_table import TABLE, best_trial, format_csv, rank_trials, shorten
from mnist_exp.sweeps.trials import run_trial, score_best, trial_name
from mnist_exp.text import display_path
from mnist_exp.tracking.study_record import StudyRecord

_PATIENCE = 60  # seconds to wait for another process that is finishing the search


def run_search(search: Search, overrides: Sequence[str]) -> tuple[Path, list[Trial]]:
    """Run the trials that are missing, and score the best one. Returns the study's directory and trials.

    Args:
        search: The search.
        overrides: The overrides of the command line, for the record.

    Raises:
        RequestError: The study's directory or storage cannot be used.
        WorkError: No trial finished, or the machine is at fault (for example, its disk is full).
    """
    select, settings = search.config.training.select, search.tune
    with study_directory(search) as directory:
        storage = open_study(
            settings.storage, search.name, directory, search.definition,
            maximize=search.maximizes, pruner=settings.pruner, epochs=search.epochs,
        )  # fmt: skip
    given = without_storage(overrides)
    with StudyRecord(directory, given, search.config.tracking, search.space.texts) as record:
        study = Study(storage, search.space, settings.sampler, search.seed, search.trials, directory, record.key)
        ended = [trial for trial in study.trials() if trial.state != "running"]
        before = f", {len(ended)} already ended" if ended else ""
        say(f"study   {display_path(directory)}: {search.trials} trials requested{before}")
        say(f"space   {', '.join(search.space.keys)}")
        say(f"search  {settings.sampler} for the {select.mode}imum of {select.metric}; pruner {settings.pruner}")
        try:
            while (claim := next_claim(study)) is not None:
                with claim:
                    with signals.held():
                        record.take()
                    run_trial(search, claim, directory)
                    with signals.held():
                        print_trial(search, study, claim.number, directory)
            finish_study(search, study, record, directory)
        except (KeyboardInterrupt, Killed):
            say(f"{display_path(directory)}: interrupted; run the same command again to resume it")
            raise
        return directory, study.trials()


@contextmanager
def study_directory(search: Search) -> Iterator[Path]:
    """Create or open the study's directory. A new one is removed if the block fails. Raises `RequestError`."""
    directory = search.directory
    # An empty directory belongs to another process that is creating the study right now.
    if directory.exists() and any(directory.iterdir()) and not (directory / ".claims").is_dir():
        raise RequestError(
            f"{display_path(directory)}: already exists and is not a study; choose another name with tune.name=…"
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


def without_storage(overrides: Sequence[str]) -> tuple[str, ...]:
    """Return the overrides without the storage, whose URL may contain a password."""
    return tuple(text for text in overrides if key_of(text) != "tune.storage")


def next_claim(study: Study) -> Claim | None:
    """Claim the next trial, holding signals back: Python drops exceptions raised in weak-reference callbacks."""
    signals.check()
    with signals.held():
        return study.claim()


def print_trial(search: Search, study: Study, number: int, directory: Path) -> None:
    """Print how a trial ended, and the best one so far."""
    trials = study.trials()
    trial = next((trial for trial in trials if trial.number == number), None)
    if trial is None:  # marked as lost by another process
        return
    values = "  ".join(f"{key}={shorten(value)}" for key, value in trial.values.items())
    value, seconds = search.format_value(trial.value), trial.seconds or 0.0
    line = f"trial {number:<4} {value:>9}  {trial.state:<8}  {seconds:6.1f} s  {values}"
    best = best_trial(search, trials)
    say(line + (f"  best so far: trial {best.number}, {search.format_value(best.value)}" if best else ""))
    if trial.reason:
        log = directory / trial_name(number) / LOG
        say(f"  {trial.reason}{f' ({display_path(log)})' if log.is_file() else ''}")


def finish_study(search: Search, study: Study, record: StudyRecord, directory: Path) -> None:
    """If all trials have ended, score the best one and write the table and the plots.

    Raises `WorkError` if none finished.
    """
    trials = study.trials()
    record.failed = any(trial.state == "failed" for trial in trials)
    running = [trial.number for trial in trials if trial.state == "running"]
    if not study.is_complete():
        numbers = ", ".join(map(str, running))
        say(
            f"no trials left to start; another process is running trial{'s' * (len(running) > 1)} {numbers} "
            "and will score the best trial"
        )
        return
    order = rank_trials(search, trials)
    best = best_trial(search, trials)
    if best is None:
        raise WorkError(
            f"none of {len(order)} trials finished; the last one failed: {order[-1].reason or order[-1].state}"
        )
    from mnist_exp.sweeps.study_results import print_results, write_results  # imports Matplotlib

    text = format_csv(search, order)
    # The table is written last: if it is up to date, another process or an earlier one has done everything.
    if not is_written(directory, text) and record.take(_PATIENCE) and not is_written(directory, text):
        test = score_best(search, best, directory)
        write_results(search, study, record, directory, order, best, test)
        write_text(directory / TABLE, text)
        record.artifact(TABLE)
    print_results(search, study, order, best, directory)


def is_written(directory: Path, table: str) -> bool:
    """Return whether the table of all trials exists with this content."""
    try:
        return read_text(directory / TABLE) == table
    except (OSError, UnicodeDecodeError):
        return False
