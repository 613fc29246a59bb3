"""A process composes each config once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from support.cli import Cli

from mnist_exp.config import validation
from mnist_exp.config.compose import Composition
from mnist_exp.config.overrides import Request

TINY = ("data=digits", "model=linear", "tracking=none", "training.epochs=1")


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> Counter[Request]:
    """How often each request was composed."""
    counts: Counter[Request] = Counter()
    compose = validation.compose

    def counting(request: Request) -> Composition:
        counts[request] += 1
        return compose(request)

    monkeypatch.setattr(validation, "compose", counting)
    return counts


def test_resume_composes_once(cli: Cli, composed: Counter[Request]):
    """The config that was saved, however many steps check it."""
    done = cli(*TINY, "training.keep_checkpoint=true")
    assert done.run is not None
    assert composed.total() == 1
    result = done.run / "result.json"
    values = json.loads(result.read_text())
    result.write_text(json.dumps({**values, "status": "interrupted"}))
    composed.clear()
    cli("resume", "run=latest")
    assert json.loads(result.read_text())["status"] == "finished"
    assert composed.total() == 1


def test_a_sweep_composes_each_job_once(cli: Cli, composed: Counter[Request]):
    """When all jobs are checked; a worker takes the config from the plan."""
    cli("-m", *TINY, "seed=1,2")
    assert len(list(Path("outputs/sweeps").glob("*/*/model.keras"))) == 2
    assert list(composed.values()) == [1, 1]
