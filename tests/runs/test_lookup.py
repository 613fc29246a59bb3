"""Runs are found by path and name."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest
from support.journals import write_run

from mnist_exp.errors import RequestError
from mnist_exp.report.tables import format_age
from mnist_exp.runs.lookup import find_run, find_runs


def test_a_folder_with_the_name_of_a_run_does_not_hide_it():
    """A folder of images may have the same name as a run."""
    write_run(Path("outputs/runs/leaves-20260101-000000"))
    Path("leaves").mkdir()
    (Path("leaves") / "a.png").touch()
    assert find_run("leaves", Path("outputs")).path.name == "leaves-20260101-000000"
    assert [run.path.name for run in find_runs("leaves", Path("outputs"))] == ["leaves-20260101-000000"]
    write_run(Path("outputs/runs/leaves-20260102-000000"))
    for find in (find_run, find_runs):
        with pytest.raises(RequestError, match="leaves: 2 runs match"):
            find("leaves", Path("outputs"))


def test_a_folder_that_is_no_run_is_reported_as_such():
    """It is reported if no run has its name either."""
    Path("empty").mkdir()
    with pytest.raises(RequestError, match=r"not a run directory: it has no result\.json"):
        find_run("empty", Path("outputs"))
    with pytest.raises(RequestError, match="neither a run directory nor a folder of runs"):
        find_runs("empty", Path("outputs"))


def test_latest_is_not_silently_a_run_of_the_future(caplog: pytest.LogCaptureFixture):
    """A clock was wrong, for example; the age of such a run is not a number."""
    for name, ahead in (("now", 0), ("later", 86_400)):
        run = write_run(Path(f"outputs/runs/{name}"))
        result = json.loads((run / "result.json").read_text())
        (run / "result.json").write_text(json.dumps({**result, "started": time.time() + ahead}))
    with caplog.at_level(logging.WARNING):
        assert find_run("latest", Path("outputs")).name == "later"
    assert "future" in caplog.text
    assert format_age(-86_400) == "future"
    assert format_age(-1) == "0 s"


def test_a_misspelt_name_suggests_a_run_or_a_sweep():
    """Time stamps do not count."""
    write_run(Path("outputs/runs/photos-20260101-000000"))
    write_run(Path("outputs/sweeps/depth/seed-0"))
    for find in (find_run, find_runs):
        with pytest.raises(RequestError, match="did you mean 'photos'"):
            find("phots", Path("outputs"))
    with pytest.raises(RequestError, match=r"no such run or sweep .*did you mean 'depth'"):
        find_runs("detph", Path("outputs"))
