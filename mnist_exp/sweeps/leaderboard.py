"""The table of a sweep's jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mnist_exp.config.grid import Grid
from mnist_exp.config.request import key_of
from mnist_exp.report.tables import percent, print_table
from mnist_exp.runs.log import say


@dataclass(frozen=True)
class Outcome:
    """How a job of a sweep ended; `val` and `test` are accuracies."""

    name: str
    overrides: tuple[str, ...]
    status: str
    reason: str
    log: str
    epochs: int | None
    val: float | None
    test: float | None
    seconds: float


def leaderboard(outcomes: Sequence[Outcome], grid: Grid) -> tuple[list[str], list[list[str]], list[list[object]]]:
    """Print all jobs, the best by validation accuracy marked.

    Returns the header, the rows as printed, and the rows as values: accuracies from 0 to 1, None if there is none.
    """
    best = best_accuracy(outcomes)
    rows: list[list[str]] = []
    values: list[list[object]] = []
    for outcome in outcomes:
        given = {key_of(text): text.split("=", 1)[1] for text in outcome.overrides if "=" in text}
        job = [*(given[key] for key in grid.swept), outcome.status]
        mark = " *" if best is not None and outcome.val == best else ""
        epochs = "–" if outcome.epochs is None else str(outcome.epochs)
        accuracies = [percent(outcome.val) + mark, percent(outcome.test)]
        rows.append([*job, epochs, *accuracies, f"{outcome.seconds:.1f}"])
        values.append([*job, outcome.epochs, outcome.val, outcome.test, outcome.seconds])
    header = [*grid.swept, "status", "epochs", "val", "test", "seconds"]
    print_table(header, rows, right=("epochs", "val", "test", "seconds"))
    if best is not None:
        say("* best validation accuracy")
    return header, rows, values


def best_accuracy(outcomes: Sequence[Outcome]) -> float | None:
    """The highest validation accuracy of the jobs that have one."""
    return max((outcome.val for outcome in outcomes if outcome.val is not None), default=None)
