"""Runs, sweeps and studies that an earlier version wrote (`samples/`, made by `samples/make.py`) stay readable."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.cli import Cli
from support.device import set_up_tensorflow

from mnist_exp.text import format_percent

SAMPLES = Path(__file__).parent / "samples" / "outputs"


@pytest.fixture(scope="module", autouse=True)
def _tensorflow() -> None:
    set_up_tensorflow()  # `compare` computes without choosing a number of threads, and `show` comes after it


@pytest.fixture(autouse=True)
def outputs(use: Callable[[str], None]) -> Path:
    """The samples, copied into the working directory's output folder."""
    shutil.copytree(SAMPLES, "outputs")
    use("digits")
    return Path("outputs")


def test_old_runs_are_listed(cli: Cli):
    """`runs` lists each with its status."""
    out = cli("runs").out
    for name in ("finished-", "interrupted-", "optimizer-adam", "optimizer-sgd", "trial-000"):
        assert name in out


def test_old_runs_are_compared(cli: Cli):
    """`compare` groups a sweep's jobs by what differs."""
    out = cli("compare", "run=outputs/sweeps/sweep", "output=compare.png").out
    assert "optimizer" in out
    assert Path("compare.png").is_file()


def test_old_models_are_shown_evaluated_and_exported(cli: Cli):
    """`show`, `evaluate`, `predict` and `export` take an old run's directory, a job's and a trial's."""
    [run] = Path("outputs/runs").glob("finished-*")
    assert "AveragePooling2D" in cli("show", f"run={run}").out
    tested = json.loads((run / "result.json").read_text(encoding="utf-8"))["test"]["accuracy"]
    assert format_percent(tested) in cli("evaluate", f"run={run}", "output=scores").out
    pixels = ",".join(["0"] * 784)
    Path("images.csv").write_text(f"{pixels}\n{pixels}\n", encoding="utf-8")
    for directory in (run, Path("outputs/sweeps/sweep/optimizer-sgd"), Path("outputs/sweeps/study/trial-000")):
        target = Path(f"{directory.name}.csv")
        cli("predict", f"run={directory}", "inputs=[images.csv]", f"output={target}")
        assert len(target.read_text(encoding="utf-8").splitlines()) == 3
    cli("export", f"run={run}", "format=h5", "output=exported.h5")
    assert Path("exported.h5").is_file()


def test_an_old_run_is_not_resumed_by_other_code(cli: Cli):
    """`resume` refuses it and names the change; nothing is touched."""
    [run] = Path("outputs/runs").glob("interrupted-*")
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    outcome = cli("resume", f"run={run}", status=2)
    assert "code" in outcome.err
    assert before == {file: file.read_bytes() for file in before}
