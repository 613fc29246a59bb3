"""Tables on terminals of any width."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mnist_exp.report import tables

HEADER = ["run", "status", "group", "val/accuracy", "95 % interval", "seconds"]
RIGHT = ("val/accuracy", "95 % interval", "seconds")
GROUP = "model=lenet5x5 aug=rotate45_mild optimizer.learning_rate=0.001"
ROWS = [
    ["lenet5x5-none-20261129-101010", Text("finished", style="green"), GROUP, "99.12 %", "98.12 … 99.40", "35.2"],
    ["クラス", "failed", "model=linear", "–", "", "1,234.5"],
]
FIGURES = ("99.12 %", "98.12 … 99.40", "35.2", "1,234.5", "optimizer.learning_rate=0.001")


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[str]]:
    """Return a function that prints the table on a terminal of some width and returns its lines."""

    def show(width: int) -> list[str]:
        file = io.StringIO()
        console = Console(file=file, width=width, force_terminal=True, color_system=None, highlight=False)
        monkeypatch.setattr(tables, "Console", lambda **_: console)
        tables.print_table(HEADER, ROWS, RIGHT)
        return [line.rstrip() for line in file.getvalue().splitlines()]

    return show


@pytest.mark.parametrize("width", [200, 130, 110, 80, 60, 45])
def test_figures_are_never_wrapped(table: Callable[[int], list[str]], width: int):
    """Neither in columns nor in the lines that replace them on a narrow terminal; no line is too long."""
    lines = table(width)
    text = "\n".join(lines)
    assert all(figure in text for figure in FIGURES)
    assert max(map(cell_len, lines)) <= width
    assert "lenet5x5-none-20261129-101010" in text


def test_narrow_terminals_get_lines(table: Callable[[int], list[str]]):
    """Each row becomes its first cell and the names and values of the others; empty values are left out."""
    lines = table(60)
    assert lines[0] == ROWS[0][0]
    assert "val/accuracy 99.12 %  95 % interval 98.12 … 99.40" in "\n".join(lines)
    last = " ".join(lines[lines.index("クラス") :])
    assert re.sub(" +", " ", last) == "クラス status failed group model=linear val/accuracy – seconds 1,234.5"


def test_a_file_gets_the_whole_table(capsys: pytest.CaptureFixture[str]):
    """If the output is not a terminal, each row is one line."""
    tables.print_table(HEADER, ROWS, RIGHT)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert len(lines) == 2 + len(ROWS)
    assert GROUP in lines[2]
