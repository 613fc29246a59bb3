"""`training.max_seconds`: runs that train for as many epochs as fit into a time budget."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.cli import Cli
from support.golden import Golden
from test_resume import Interruption

WORDS = (
    "data=digits", "data.limit=300", "model=linear", "training.batch_size=8", "aug=shift", "schedule=cosine",
    "tracking=none", "plots=false",
)  # fmt: skip
BUDGET = "training.max_seconds=3"


def saved_training(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text())["training"]
    return values


@pytest.mark.slow
def test_the_run_equals_one_with_that_number_of_epochs(cli: Cli):
    """The number is printed and saved, and `from` repeats it without measuring again."""
    done = cli(*WORDS, BUDGET)
    assert done.run is not None
    epochs = done.result["epochs"]
    assert re.search(rf"training.max_seconds=3: {epochs} epochs? (fits?, at|is trained, although)", done.out)
    assert done.result["planned_epochs"] == epochs
    assert saved_training(done.run)["epochs"] == epochs
    assert saved_training(done.run)["max_seconds"] == 3
    assert "training.max_seconds=3: " in (done.run / "run.log").read_text()
    plain = cli(*WORDS, f"training.epochs={epochs}")
    repeated = cli(f"from={done.run}", "tracking=none")
    for other in (plain, repeated):
        assert other.result["weights_sha256"] == done.result["weights_sha256"]
        assert other.result["fingerprint"] == plain.result["fingerprint"] != done.result["fingerprint"]
        assert "training.max_seconds" not in other.out
    longer = cli(f"from={done.run}", f"training.epochs={epochs + 1}", "tracking=none")
    assert longer.result["epochs"] == epochs + 1


@pytest.mark.slow
def test_a_resumed_run_keeps_its_number_of_epochs(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """It is not measured again, so the learning rates stay the same; more epochs need a new run."""
    Interruption(monkeypatch).after(1)
    run = cli(*WORDS, BUDGET, status=130).run
    assert run is not None
    epochs = saved_training(run)["epochs"]
    refused = cli("resume", f"run={run}", f"training.epochs={epochs + 1}", status=2).err
    assert f"trains for the {epochs} epochs that fit into training.max_seconds=3" in refused
    done = cli("resume", f"run={run}")
    assert done.result["epochs"] == epochs
    assert done.result["exact"]
    plain = cli(*WORDS, f"training.epochs={epochs}")
    assert done.result["weights_sha256"] == plain.result["weights_sha256"]


@pytest.mark.slow
def test_a_repeated_sweep_trains_nothing_again(cli: Cli):
    """Jobs are identified by their budget, however many epochs fitted."""
    sweep = ("-m", *WORDS, BUDGET, "seed=0,1", "sweep.name=budget")
    cli(*sweep)
    jobs = sorted(Path("outputs/sweeps").glob("*/seed-*"))
    before = [(job / "result.json").read_bytes() for job in jobs]
    assert "2 finished, 0 to resume, 0 to start" in cli(*sweep).out
    assert [(job / "result.json").read_bytes() for job in jobs] == before
    values = yaml.safe_load((jobs[1] / "config.yaml").read_text())
    values["training"]["epochs"] += 1  # as if one epoch more had fitted
    (jobs[1] / "config.yaml").write_text(yaml.safe_dump(values))
    groups = json.loads(cli("compare", "run=budget", "metric=val/accuracy", "format=json").out)["groups"]
    assert [len(group["runs"]) for group in groups] == [2]


def test_too_short_a_budget_trains_one_epoch(cli: Cli):
    """A warning says so."""
    done = cli(*WORDS, "training.max_seconds=1e-6")
    assert done.result["epochs"] == 1
    assert "training.max_seconds=1e-06: 1 epoch is trained, although it takes" in done.out


def test_contradictions_are_reported(cli: Cli, golden: Golden, tmp_path: Path):
    """The number of epochs is given twice, the warm-up is longer than training, or trials are pruned by epoch."""
    mine = tmp_path / "conf" / "experiment" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("# @package _global_\n# Mine.\ntraining: {max_seconds: 60}\n")
    folder = f"--config-dir={mine.parents[1]}"
    for words in (
        (BUDGET, "training.epochs=3"),
        (folder, "experiment=mine", "training.epochs=3"),
        ("training.max_seconds=1e-6", "schedule.warmup_epochs=2"),
        ("tune", BUDGET, "seed=1,2", "tune.trials=2"),
    ):
        verb = words[:1] if words[0] == "tune" else ()
        golden(cli(*verb, *WORDS, *words[len(verb) :], status=2).err)
    assert not Path("outputs").exists()
    cli("check", *WORDS, folder, "experiment=mine", "training.epochs=3", "training.max_seconds=null")
    cli("check", *WORDS, "experiment=none", BUDGET, "debug=overfit")
