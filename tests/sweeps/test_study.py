"""The table of a search's trials, which shows whether its results have been written."""

from __future__ import annotations

import os
from pathlib import Path

from mnist_exp.sweeps.study import is_written


def test_the_results_are_written_if_the_table_is(tmp_path: Path):
    """A table of another content is not that table, whether or not it is text."""
    assert not is_written(tmp_path, "a,b\n")
    (tmp_path / "trials.csv").write_text("a,b\n")
    assert is_written(tmp_path, "a,b\n")
    assert not is_written(tmp_path, "a,b,c\n")
    (tmp_path / "trials.csv").write_bytes(b"\xff")
    assert not is_written(tmp_path, "a,b\n")


def test_only_a_regular_file_is_the_table(tmp_path: Path):
    """A link is not followed, and a pipe is not waited for."""
    (tmp_path / "other").write_text("a,b\n")
    (tmp_path / "trials.csv").symlink_to("other")
    assert not is_written(tmp_path, "a,b\n")
    (tmp_path / "trials.csv").unlink()
    os.mkfifo(tmp_path / "trials.csv")
    assert not is_written(tmp_path, "a,b\n")
