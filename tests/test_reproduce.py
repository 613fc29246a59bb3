"""`make reproduce` finds every row of README's table of results, and says where runs differ from it."""

from __future__ import annotations

import sys

import pytest
from support.documents import REPOSITORY

from mnist_exp.runs.result import RunResult

sys.path.insert(0, str(REPOSITORY / "tests" / "benchmarks"))

import reproduce

CLAIM = reproduce.Claim("experiment=fast", parameters=100, epochs=2, accuracy=99.0, seeds=2)


def test_every_row_of_the_table_is_found():
    """The table's rows are those that begin with a command."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    table = text.split("| command | parameters |")[1].split("\n\n")[0]
    words = [
        line.split("`")[1].removeprefix("mnist-exp ") for line in table.splitlines() if line.startswith("| `")
    ]
    assert words
    assert [claim.words for claim in reproduce.read_claims(text)] == words


@pytest.mark.parametrize(
    ("parameters", "epochs", "interval", "found"),
    [
        (100, 2, (98.9, 99.1), []),
        (100, 2, (99.1, 99.3), ["99.00 % is outside"]),
        (99, 3, (98.9, 99.1), ["parameters: 100 in README, {99} here", "epochs: 2 in README, {3} here"]),
    ],
)
def test_differences_are_named(parameters: int, epochs: int, interval: tuple[float, float], found: list[str]):
    """README's mean must lie in the interval of the repeated runs."""
    result = RunResult.model_construct(parameters=parameters)
    runs = [reproduce.Repeated(result, epochs, seconds=1.0)]
    assert reproduce.disagreements(CLAIM, runs, *interval) == found
