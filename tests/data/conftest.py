"""Fixtures for tests of data formats."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.cli import Cli

Refused = Callable[..., str]


@pytest.fixture
def refused(cli: Cli) -> Refused:
    """Return the error message of `dataset verify` for a data set in the working directory (exit status 2)."""

    def run(source: str, *words: str, shape: str = "[2,3,1]", classes: int = 2) -> str:
        done = cli(
            "dataset", "verify", f"data={source}", "data.dir=.", f"data.shape={shape}", f"data.classes={classes}",
            *words, status=2,
        )  # fmt: skip
        assert done.out == ""
        return done.err

    return run
