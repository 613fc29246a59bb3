"""Show training progress: one line per epoch, and a progress bar on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from mnist_exp.runs.log import is_quiet, say
from mnist_exp.text import escape_controls, format_loss, format_percent
from mnist_exp.training.callback import Callback

LINE_SECONDS = 5.0  # between lines of progress, if no bar is shown


class _Steps(MofNCompleteColumn):
    """The number of finished steps; empty while the number of steps is unknown."""

    def render(self, task: Task) -> Text:
        return Text() if task.total is None else super().render(task)


class TrainingDisplay(Callback):
    """Training callback and context manager that shows progress, from building the graph to the last epoch."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        console = Console(file=sys.stdout)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            _Steps(),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=is_quiet() or not console.is_terminal,
        )
        self._task = self._bar.add_task("building the graph", total=None, metrics="")

    def __enter__(self) -> TrainingDisplay:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def on_steps(self, epoch: int, done: int, steps: int, metrics: Mapping[str, float]) -> None:
        """Update the bar."""
        text = f"loss {format_loss(metrics['loss'])}  accuracy {format_percent(metrics['accuracy'])}"
        self._bar.update(
            self._task, description=f"epoch {epoch}/{self._epochs}", completed=done, total=steps, metrics=text
        )

    def on_epoch(self, row: Mapping[str, float], is_best: bool) -> None:
        """Print the epoch's metrics and reset the bar."""
        say(format_epoch(row, self._epochs, is_best))
        self._bar.reset(self._task, metrics="")


@contextmanager
def images_bar(
    description: str, total: int, tell: Callable[[str], None] = say, file: TextIO | None = None
) -> Iterator[Callable[[int], None]]:
    """Show the progress of a task: a bar on a terminal, otherwise a line every few seconds.

    Args:
        description: What is done with the images.
        total: The number of images.
        tell: Prints a line.
        file: The stream on which a bar is shown; None: standard output.

    Yields:
        A function that advances the progress by a number of images.
    """
    console = Console(file=file or sys.stdout)
    if is_quiet() or not console.is_terminal:
        yield _advance_by_lines(description, total, tell)
        return
    bar = Progress(
        TextColumn(description),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)


def _advance_by_lines(description: str, total: int, tell: Callable[[str], None]) -> Callable[[int], None]:
    done, last = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        if (now := time.monotonic()) - last >= LINE_SECONDS:
            last = now
            tell(f"{description}: {done:,} of {total:,} images")

    return advance


@contextmanager
def download_bar() -> Iterator[Callable[[str, int, int | None], None]]:
    """Show downloads on a terminal.

    Yields a function that takes a file's name, the bytes received so far, and the file's size, if known.
    """
    console = Console(file=sys.stdout)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=None)

        def show(name: str, done: int, size: int | None) -> None:
            bar.update(task, description=escape_controls(name, one_line=True), completed=done, total=size)

        yield show


def format_epoch(row: Mapping[str, float], epochs: int, is_best: bool) -> str:
    """Format an epoch's losses and accuracies as one line, of fewer than 80 columns unless there are 100 epochs.

    Example: `epoch  3/12  train 0.0512 98.41 %  val 0.0433 98.75 %  lr 9.1e-04  6.1 s  best`. `best` marks the
    best epoch so far, by validation.
    """
    width = len(str(epochs))
    parts = [f"epoch {row['epoch']:>{width}.0f}/{epochs}"]
    for part in ("train", "val"):
        if f"{part}/loss" in row:
            parts.append(f"{part} {format_loss(row[f'{part}/loss'])} {format_percent(row[f'{part}/accuracy']):>7}")
    parts.append(f"lr {row['learning_rate']:.1e}")
    parts.append(f"{row['seconds']:.1f} s")
    if is_best and "val/loss" in row:
        parts.append("best")
    return "  ".join(parts)
