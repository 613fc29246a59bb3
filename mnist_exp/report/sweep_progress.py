"""Show the progress of a sweep's jobs.

Progress is read from the jobs' directories, so it does not matter which processes run them.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mnist_exp.errors import PREEMPTED, MnistExpError
from mnist_exp.runs.directory import RunSummary, read_history, summaries
from mnist_exp.text import escape_controls, format_percent, mask_credentials

_SECONDS = 0.5  # between polls
_CUT_SHORT = ("killed", "interrupted")  # such jobs can be resumed
_LATEST = 5  # epochs from which the time of the remaining ones is estimated


class Watch:
    """The progress of a sweep's jobs, read from their directories; a `rich` renderable."""

    def __init__(self, directory: Path, jobs: int, done: int) -> None:
        self._directory, self._jobs, self._done = directory, jobs, done
        self._begun = time.time()
        self._ended = 0
        self._reported: dict[Path, float] = {}  # end times of the jobs already reported
        self._running: list[RunSummary] = []

    def list_ended(self) -> list[str]:
        """Read the directories and return a line for each job that has ended since the last call."""
        runs = summaries(sorted(self._directory.iterdir()))
        self._running = [run for run in runs if run.status == "running"]
        lines = []
        for run in runs:
            ended = (run.result.ended or 0) if run.status != "running" else 0
            if ended >= self._begun and self._reported.get(run.path) != ended:
                self._reported[run.path] = ended
                lines.append(self._line(run))
        return lines

    def _line(self, run: RunSummary) -> str:
        if run.status in _CUT_SHORT:
            how = PREEMPTED if run.result.reason == PREEMPTED else "was interrupted"
            return f"{run.path.name}  {how}"
        self._ended += 1
        done = f"[{self._done + self._ended}/{self._jobs}] {run.path.name}"
        if run.status != "finished":
            return f"{done}  {run.status}: {run.result.reason.partition(chr(10))[0]}"
        result = run.result
        accuracies = f"val {format_percent(result.val_accuracy)}  test {format_percent(result.test_accuracy)}"
        epochs, seconds = result.epochs, result.training_seconds
        took = "resumed" if seconds is None else f"{seconds:.1f} s"
        return f"{done}  {epochs} epoch{'s' * (epochs != 1)}  {accuracies}  {took}"

    def __rich__(self) -> Group:
        """Render a line per running job and one for the whole sweep."""
        table = Table.grid(padding=(0, 2))
        table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)  # names give way to numbers
        for _ in range(4):
            table.add_column(no_wrap=True)
        for run in self._running:
            epochs, planned = run.result.epochs, run.result.planned_epochs or 0
            accuracy = format_percent(run.result.val_accuracy)
            left = _seconds_left(run, planned - epochs)
            bar = ProgressBar(total=max(planned, 1), completed=epochs, width=20)
            name = Text(escape_controls(run.path.name, one_line=True))
            table.add_row(name, f"epoch {epochs}/{planned}", bar, f"val {accuracy}", _duration(left))
        done = self._done + self._ended
        since = time.time() - self._begun
        left = since / self._ended * (self._jobs - done) if self._ended else None
        return Group(table, Text(f"{done} of {self._jobs} jobs done  {_duration(left)}"))


@contextmanager
def show_progress(directory: Path, jobs: int, done: int) -> Iterator[None]:
    """Show the progress of a sweep's jobs: a line for each job that ends and, on a terminal, a live display."""
    console = Console(file=sys.stdout, highlight=False)
    watch, stop = Watch(directory, jobs, done), Event()
    live = Live(watch, console=console, refresh_per_second=2, transient=True) if console.is_terminal else None

    def print_ended() -> None:
        for line in watch.list_ended():
            console.print(escape_controls(mask_credentials(line), one_line=True), markup=False, soft_wrap=True)

    def poll() -> None:
        while not stop.wait(_SECONDS):
            print_ended()

    thread = Thread(target=poll, daemon=True)
    if live is not None:
        live.start()
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        print_ended()
        if live is not None:
            live.stop()


def _seconds_left(run: RunSummary, epochs: int) -> float | None:
    """Estimate the seconds for `epochs` more epochs from the run's latest ones; None before its first epoch."""
    try:
        latest = [row["seconds"] for row in read_history(run.path)[-_LATEST:]]
    except (MnistExpError, KeyError):
        return None
    return statistics.mean(latest) * epochs if latest else None


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} left" if hours else f"{minutes}:{rest:02} left"
