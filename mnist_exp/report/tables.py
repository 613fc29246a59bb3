"""Print tables on the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mnist_exp.runs.directory import CLOCK_DRIFT, RunSummary
from mnist_exp.text import escape_controls, format_percent

_STYLES = {
    "finished": "green", "running": "cyan", "failed": "red", "killed": "red", "interrupted": "yellow",
    "pruned": "blue",
}  # fmt: skip

_WRAPPED = 16  # columns: longer texts may be wrapped to this width
_BETWEEN = 2  # columns between two columns of a table, and around it


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

    On a narrow terminal, only long texts are wrapped. If that is not enough, each row is printed as a short
    paragraph instead. If the output is not a terminal, lines are never wrapped.
    """
    console = _table_console()
    cells = [list(map(_cell, row)) for row in rows]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    least = 0
    for number, name in enumerate(header):
        texts = [name, *(row[number].plain for row in cells)]
        widest = max(map(cell_len, texts))
        narrowest = max(_WRAPPED, *(cell_len(word) for text in texts for word in text.split(" ")))
        # Never wrap the first column, which users copy from, nor figures.
        is_text = number > 0 and name not in right and widest > narrowest
        width = narrowest if is_text else widest
        least += width + _BETWEEN
        table.add_column(
            name,
            justify="right" if name in right else "left",
            overflow="fold",
            no_wrap=not is_text,
            min_width=width,
        )
    if least > console.width:
        _print_paragraphs(console, header, cells)
        return
    for row in cells:
        table.add_row(*row)
    console.print(table)


def _table_console() -> Console:
    console = Console(file=sys.stdout, highlight=False)
    return console if console.is_terminal else Console(file=sys.stdout, width=10_000)


def _print_paragraphs(console: Console, header: Sequence[str], rows: Sequence[Sequence[Text]]) -> None:
    """Print each row as its first cell, followed by the names and values of the others, wrapped between them."""
    for row in rows:
        if row[0].plain:
            console.print(row[0], soft_wrap=True)
        line = Text("")
        for name, cell in zip(header[1:], row[1:], strict=True):
            if not cell.plain:
                continue
            entry = Text.assemble((f"{name} " if name else "", "dim"), cell)
            if line.plain and line.cell_len + 2 + entry.cell_len > console.width:
                console.print(line)
                line = Text("")
            line = line.append("  ").append_text(entry)
        if line.plain:
            console.print(line)


def _cell(content: str | Text) -> Text:
    """Return a cell's content on one line, with control characters escaped and markup left uninterpreted."""
    plain, style = (content.plain, content.style) if isinstance(content, Text) else (content, "")
    return Text(escape_controls(plain, one_line=True), style=style)


def format_age(seconds: float) -> str:
    """Format a time span in its largest unit: `5 s`, `12 min`, `3 h`, `8 d`; `future` for a negative one."""
    if seconds < -CLOCK_DRIFT:
        return "future"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(max(seconds, 0))} s"
