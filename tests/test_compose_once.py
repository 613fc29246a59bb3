"""A process composes each config once, parses each layer once, and makes nothing twice for one purpose."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.cli import Cli

from mnist_exp.config import validation
from mnist_exp.config.compose import Complete, Composition
from mnist_exp.config.overrides import Request
from mnist_exp.keras_spec import layer_specs

TINY = ("data=digits", "model=linear", "tracking=none", "training.epochs=1")


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> Counter[Request]:
    """Count how often each request is composed."""
    counts: Counter[Request] = Counter()
    compose = validation.compose

    def counting(request: Request, complete: Complete | None = None) -> Composition:
        counts[request] += 1
        return compose(request, complete)

    monkeypatch.setattr(validation, "compose", counting)
    return counts


def test_resume_composes_once(cli: Cli, composed: Counter[Request]):
    """Only the saved config is composed, however many steps check it."""
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
    """Jobs are composed when all are checked; a worker takes the config from the plan."""
    cli("-m", *TINY, "seed=1,2")
    assert len(list(Path("outputs/sweeps").glob("*/*/model.keras"))) == 2
    assert list(composed.values()) == [1, 1]


def test_a_run_parses_each_layer_once(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """Checking, building, watching and saving share the specs in the config."""
    parsed: Counter[str] = Counter()
    parse = layer_specs._parse_layer

    def counting(entry: Any, place: str, *rest: Any) -> layer_specs.Spec:
        parsed[place] += 1
        return parse(entry, place, *rest)

    monkeypatch.setattr(layer_specs, "_parse_layer", counting)
    cli("data=digits", "model=lenet5x5", "tracking=none", "training.epochs=1", "training.watch=[0]", "aug=erasing")
    assert parsed.pop("aug.layers.0") == 1
    assert parsed == {f"model.layers.{index}": 1 for index in range(11)}


def test_a_run_makes_optimizer_loss_and_metrics_once_for_each_purpose(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """The purposes are checking, training, and the saved model, which has its own optimizer."""
    import keras

    from mnist_exp.engine import keras_check
    from mnist_exp.model import build

    made: Counter[tuple[str, str]] = Counter()

    def count(module: Any, name: str) -> None:
        make: Callable[..., Any] = getattr(module, name)

        def counting(*arguments: Any) -> Any:
            made[module.__name__.rpartition(".")[2], name] += 1
            return make(*arguments)

        monkeypatch.setattr(module, name, counting)

    names = ("make_optimizer", "make_loss", "make_metrics")
    for name in names:
        count(keras_check, name)
        count(build, name)
    cli(*TINY, "training.watch=[1]")
    keras.utils.clear_session()
    assert made == {("keras_check", name): 1 for name in names} | {("build", name): 2 for name in names}
