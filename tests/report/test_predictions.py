"""Predictions as CSV."""

from __future__ import annotations

import csv
import io

import pytest

from mnist_exp.report.predictions import as_table


@pytest.mark.parametrize("name", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1"])
def test_names_that_a_spreadsheet_would_compute_are_harmless(name: str):
    """A file may be called so; the cell begins with an apostrophe."""
    [_, [image, value]] = csv.reader(io.StringIO(as_table(("input", "class"), [(name, name)]), newline=""))
    assert image.startswith("'")
    assert value.startswith("'")


@pytest.mark.parametrize(
    ("cell", "written"), [("-1.5", "-1.5"), ("+1e-5", "+1e-5"), (-1.5, "-1.5"), ("a=b", "a=b"), (None, "")]
)
def test_numbers_and_other_names_are_written_as_they_are(cell: object, written: str):
    """Only text that could be a formula is changed."""
    assert as_table(("x",), [(cell,)]).splitlines()[1].strip('"') == written
