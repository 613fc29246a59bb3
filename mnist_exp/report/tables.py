"""Print tables on the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mnist_exp.runs.directory import CLOCK_DRIFT, RunSummary
from mnist_exp.text import escape_controls

_STYLES = {
    "finished": "green", "running": "cyan", "failed": "red", "killed": "red", "interrupted": "yellow",
    "pruned": "blue",
}  # fmt: skip


def print_runs(runs: Sequence[RunSummary], settings: Mapping[str, Sequence[str]] | None = None) -> None:
    """Print a table of runs: name, status, data, epochs, accuracy, age.

    Args:
        runs: The runs.
        settings: Additional columns: the values of a key, for each run.
    """
    settings = dict(settings or {})
    if any(run.result.tags for run in runs):
        settings["tags"] = [", ".join(run.result.tags) for run in runs]
    rows: list[list[str | Text]] = []
    for number, run in enumerate(runs):
        result = run.result
        epochs = "–" if result.planned_epochs is None else f"{result.epochs}/{result.planned_epochs}"
        rows.append(
            [
                run.name,
                Text(run.status, style=_STYLES.get(run.status, "")),
                result.data.name or "–",
                epochs,
                format_percent(result.val_accuracy),
                format_percent(result.test_accuracy),
                format_age(time.time() - result.started) if run.status != "damaged" else "–",
                *(values[number] for values in settings.values()),
            ]
        )
    print_table(
        ["run", "status", "data", "epochs", "val", "test", "age", *settings],
        rows,
        right=("epochs", "val", "test", "age"),
    )


def print_table(header: Sequence[str], rows: Sequence[Sequence[str | Text]], right: Sequence[str] = ()) -> None:
    """Print a table as wide as its content, with the columns in `right` aligned to the right.

    If the output is not a terminal, lines are never wrapped.
    """
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=10_000)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for number, name in enumerate(header):
        # Never wrap the first column: users copy from it.
        table.add_column(name, justify="right" if name in right else "left", overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*map(_cell, row))
    console.print(table)


def _cell(content: str | Text) -> Text:
    """Return a cell's content on one line, with control characters escaped and markup left uninterpreted."""
    plain, style = (content.plain, content.style) if isinstance(content, Text) else (content, "")
    return Text(escape_controls(plain, one_line=True), style=style)


def format_percent(value: float | None) -> str:
    """Format a share as `99.12 %`, or None as a dash."""
    return "–" if value is None else f"{value:.2%}".replace("%", " %")


def format_age(seconds: float) -> str:
    """Format a time span in its largest unit: `5 s`, `12 min`, `3 h`, `8 d`; `future` for a negative one."""
    if seconds < -CLOCK_DRIFT:
        return "future"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(max(seconds, 0))} s"
