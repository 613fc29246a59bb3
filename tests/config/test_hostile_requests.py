"""Requests that once failed unexpectedly, and addresses of stores that do not work."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mnist_exp.config.command_schemas import ExportConfig
from mnist_exp.config.overrides import parse, request_from
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import check_request, compose_checked
from mnist_exp.engine.resumption import with_saved_config
from mnist_exp.errors import Problem, RequestError
from mnist_exp.runs.lookup import read_config
from mnist_exp.runs.result import DAMAGED


def problems(*words: str) -> tuple[Problem, ...]:
    return check_request(request_from("train", parse(list(words))), TrainConfig).problems


@pytest.mark.parametrize(
    ("word", "path"),
    [(f"aug={'x' * 5000}", "aug"), (f"aug.{'x' * 5000}=1", ""), (f"device.kind={'x' * 5000}", "device.kind")],
    ids=["option", "key", "value"],
)
def test_a_very_long_word_is_refused_and_shortened(word: str, path: str):
    """The message stays readable."""
    [found] = problems(word)
    assert found.path.startswith(path)
    assert len(found.message) < 1000


@pytest.mark.parametrize("mode", [[], ["-m"]])
def test_values_for_hydras_sweeper_are_refused(mode: list[str]):
    """They belong into the command line itself."""
    [found] = problems("hydra.sweeper.params={seed: '0,1'}", *mode)
    assert (found.code, found.path) == ("invalid-override", "hydra.sweeper.params")
    assert "seed=0,1" in found.message


@pytest.mark.parametrize(
    ("lines", "line", "advice"),
    [
        (["# @package _global_", "defaults:", "  - /model: pyramid", "seed: 1"], 3, "override /model: pyramid"),
        (["# @package _global_", "defaults:", "  - model: pyramid"], 3, "override /model: pyramid"),
        (["# @package _global_", "defaults:", "  - override model: pyramid"], 3, "override /model: pyramid"),
        (["defaults:", "  - override /model: pyramid", "training:", "  epochs: 2"], 1, "# @package _global_"),
        (["# Mine.", "# @package _global_", "defaults:", "  - override /model: pyramid"], 1, "must begin with"),
        (["training:", "  epochs: 2"], 1, "# @package _global_"),
        (["# @package _global_", "defaults:", "  - {a: {b: 1}}"], 3, "override /<group>: <option>"),
        (["# @package _global_", "defaults:", "  - override /model: {a: b}"], 3, "override /<group>: <option>"),
        (["# @package _global_", "defaults:", "  - {[a]: b}"], 3, "not valid YAML"),
        (["# @package _global_", "defaults:", "  - override /model: '[('"], 3, "model=[("),
    ],
)
def test_an_experiment_that_is_no_preset_is_explained(tmp_path: Path, lines: list[str], line: int, advice: str):
    """With the line, and what it must be."""
    file = tmp_path / "experiment" / "mine.yaml"
    file.parent.mkdir()
    file.write_text("\n".join(lines))
    found = problems(f"--config-dir={tmp_path}", "experiment=mine")
    assert {problem.place.rpartition(":")[2] for problem in found} == {str(line)}
    assert any(advice in problem.message for problem in found)


@pytest.mark.parametrize("value", ["2024", "007", "true", "1e3"])
def test_names_that_look_like_numbers_are_text(value: str):
    """Runs, sweeps and aliases may be called so."""
    words = [f"name={value}", f"sweep.name={value}", f"tracking.experiment={value}"]
    config, _ = compose_checked(request_from("train", parse(words)), TrainConfig)
    assert (config.name, config.sweep.name, config.tracking.experiment) == (value, value, value)
    words = ["run=latest", f"register={value}", f"alias={value}"]
    export, _ = compose_checked(request_from("export", parse(words)), ExportConfig)
    assert (export.name, export.alias) == (value, value)


@pytest.mark.parametrize(
    "uri",
    ["ftp://127.0.0.1/x", "mysql+nothing://u:word@h/x", "sqlite:///x.db?timeout=20", "sqlite:///:memory:",
     "sqlite://", "sqlite:///", ":memory:", "mlruns", "file:///tmp/x"],
)  # fmt: skip
def test_a_store_that_cannot_work_is_refused(uri: str, monkeypatch: pytest.MonkeyPatch):
    """On the command line and in the environment; the password is not shown."""
    assert {problem.path for problem in problems(f"tracking.uri='{uri}'")} == {"tracking.uri"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert {problem.path for problem in problems()} == {"tracking.uri"}


def test_a_runs_config_that_lacks_a_group_cannot_be_resumed(tmp_path: Path):
    """As one that was cut."""
    with pytest.raises(RequestError, match=r"config\.yaml: damaged: training must be a mapping"):
        with_saved_config(
            request_from("train", parse([])), tmp_path, {"device": {}, "training": None}, DAMAGED, None
        )


def test_a_runs_config_sets_nothing_of_hydra(tmp_path: Path):
    """Which could name code to run."""
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"seed": 1, "hydra": {"launcher": {"_target_": "os.abort"}}})
    )
    with pytest.raises(RequestError, match="hydra"):
        read_config(tmp_path)
