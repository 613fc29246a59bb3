"""The leaderboard: a table of a sweep's jobs and their results."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mnist_exp.config.overrides import key_of
from mnist_exp.report.documents import JobEntry, SweepDocument
from mnist_exp.report.tables import print_table
from mnist_exp.runs.log import say
from mnist_exp.sweeps.grid import Grid
from mnist_exp.text import format_percent

METRIC = "val/accuracy"
"""The metric by which a sweep's jobs are compared."""


@dataclass(frozen=True)
class Outcome:
    """How a job of a sweep ended; `val` and `test` are accuracies from 0 to 1."""

    name: str
    overrides: tuple[str, ...]
    status: str
    reason: str
    log: str = ""
    epochs: int | None = None
    val: float | None = None
    test: float | None = None
    seconds: float | None = None
    remark: str = ""
    path: Path | None = None
    """The directory of the job's run; None if there is none."""


class Leaderboard:
    """All jobs in the order of the sweep, with the best by validation accuracy marked."""

    def __init__(self, outcomes: Sequence[Outcome], grid: Grid) -> None:
        self._outcomes, self._swept = outcomes, grid.swept
        self.best = max((outcome.val for outcome in outcomes if outcome.val is not None), default=None)
        """The highest validation accuracy."""

    def show(self) -> None:
        """Print the table."""
        print_table(self._header(), self._rows(), right=("epochs", "val", "test", "seconds"))
        if self.best is not None:
            say("* best validation accuracy")

    def as_csv(self) -> str:
        """Return the table as CSV. Accuracies range from 0 to 1; missing values are empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self._header())
        for outcome in self._outcomes:
            measured = [outcome.epochs, outcome.val, outcome.test, outcome.seconds]
            writer.writerow([*self._job(outcome), *measured])
        return text.getvalue()

    def as_markdown(self) -> str:
        """Return the table as Markdown, with values formatted as in `show`."""
        header = self._header()
        return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *self._rows()])

    def _header(self) -> list[str]:
        return [*self._swept, "status", "epochs", "val", "test", "seconds"]

    def _job(self, outcome: Outcome) -> list[str]:
        return [*swept_values(outcome, self._swept).values(), outcome.status]

    def _rows(self) -> list[list[str]]:
        rows = []
        for outcome in self._outcomes:
            mark = " *" if self.best is not None and outcome.val == self.best else ""
            epochs = "–" if outcome.epochs is None else str(outcome.epochs)
            seconds = "–" if outcome.seconds is None else f"{outcome.seconds:.1f}"
            accuracies = [format_percent(outcome.val) + mark, format_percent(outcome.test)]
            rows.append([*self._job(outcome), epochs, *accuracies, seconds])
        return rows


def swept_values(outcome: Outcome, swept: Sequence[str]) -> dict[str, str]:
    """Return a job's values of the swept keys, as written in overrides."""
    given = {key_of(text): text.split("=", 1)[1] for text in outcome.overrides if "=" in text}
    return {key: given[key] for key in swept}


def sweep_document(
    directory: Path, outcomes: Sequence[Outcome], swept: Sequence[str], stands_in_for: str | None
) -> SweepDocument:
    """Return the document of a sweep. `stands_in_for` is the data that the fallback replaced, if any."""
    jobs = [
        JobEntry(
            name=outcome.name,
            path=str(outcome.path.resolve()) if outcome.path else None,
            values=swept_values(outcome, swept),
            status=outcome.status,
            reason=outcome.reason,
            epochs=outcome.epochs,
            val_accuracy=outcome.val,
            test_accuracy=outcome.test,
            seconds=outcome.seconds,
        )
        for outcome in outcomes
    ]
    best = max(jobs, key=lambda job: -1.0 if job.val_accuracy is None else job.val_accuracy)
    return SweepDocument(
        sweep=directory.name,
        path=str(directory.resolve()),
        swept=list(swept),
        jobs=jobs,
        best=None if best.val_accuracy is None else best.path,
        fallback_for=stands_in_for,
    )
