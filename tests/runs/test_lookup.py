"""Runs are found by what users call them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.journals import write_run

from mnist_exp.errors import RequestError
from mnist_exp.runs.lookup import find_run, find_runs


def test_a_folder_with_the_name_of_a_run_does_not_hide_it():
    """A folder of images called `leaves`, and a run with `name=leaves`."""
    write_run(Path("outputs/runs/leaves-20260101-000000"))
    Path("leaves").mkdir()
    (Path("leaves") / "a.png").touch()
    assert find_run("leaves", Path("outputs")).path.name == "leaves-20260101-000000"
    assert [run.path.name for run in find_runs("leaves", Path("outputs"))] == ["leaves-20260101-000000"]


def test_a_folder_that_is_no_run_is_reported_as_such():
    """If no run has its name either."""
    Path("empty").mkdir()
    with pytest.raises(RequestError, match=r"not a run's directory: it has no result\.json"):
        find_run("empty", Path("outputs"))
    with pytest.raises(RequestError, match="neither a run's directory nor a folder of runs"):
        find_runs("empty", Path("outputs"))
