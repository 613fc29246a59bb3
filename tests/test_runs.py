"""`mnist-exp runs`: select, sort, tag, annotate, remove and compare runs."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from support.cli import Cli

from mnist_exp.config.overrides import request_from
from mnist_exp.report.documents import document_schema
from mnist_exp.runs.directory import RunDirectory

RUNS = Path("outputs/runs")


def write_run(name: str, model: str, accuracy: float, *, status: str = "finished", **settings: Any) -> Path:
    """Write the files of a run that `runs` reads."""
    folder = RUNS / name
    folder.mkdir(parents=True)
    config = {"seed": 0, "name": name, "model": {"name": model, "width": 8}, "training": {"epochs": 3}, **settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    result = {
        "name": name, "status": status, "started": 1000.0 + len(list(RUNS.iterdir())), "data": {"name": "digits"},
        "epochs": 3, "best": {"epoch": 2, "val/accuracy": accuracy}, "test": {"accuracy": accuracy - 0.01},
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    return folder


@pytest.fixture(autouse=True)
def _three_runs() -> None:
    write_run("small", "mlp", 0.98)
    write_run("good", "pyramid", 0.995)
    write_run("better", "pyramid", 0.997, seed=1)


def test_a_condition_that_no_run_satisfies_is_reported(cli: Cli):
    """It is a frequent mistake to give accuracies in percent. The names of the table's columns are explained."""
    cli(small=True)
    assert "Accuracies are fractions: 0.9, not 90." in cli("runs", "where=val/accuracy>90").out
    assert cli("runs", "where=training.epochs>90").out == "No run satisfies the condition.\n"
    assert "did you mean 'val/accuracy'?" in cli("runs", "sort=-val", status=2).err


def listed(cli: Cli, words: str) -> list[str]:
    """Return the names that `runs` lists for a command line as typed in a shell."""
    document = json.loads(cli(*shlex.split(f"runs {words} format=json")).out)
    jsonschema.validate(document, document_schema("runs"))
    return [run["run"] for run in document["runs"]]


def test_runs_are_selected_and_sorted(cli: Cli):
    """The condition and the order are taken as typed."""
    both = """where="val/accuracy>0.99 and model.name=='pyramid'" """
    assert listed(cli, f"{both} sort=-test/accuracy limit=20") == ["better", "good"]
    assert listed(cli, f"{both} sort=test/accuracy limit=1") == ["good"]
    assert listed(cli, """where='model in ["mlp","linear"]'""") == ["small"]
    assert listed(cli, "where='seed!=1' sort=-training.epochs") == ["good", "small"]
    assert listed(cli, "where='val/accuracy>1'") == []


def test_differing_settings_are_columns(cli: Cli):
    """A key that is the same in all listed runs has no column."""
    [_, header, *_] = cli("runs", "sort=val/accuracy").out.splitlines()
    assert {"seed", "model.name"} <= set(header.split())
    [_, header, *_] = cli("runs", "where=model=='pyramid'").out.splitlines()
    assert "seed" in header.split()
    assert not {"model.name", "training.epochs"} & set(header.split())


def test_wrong_conditions_are_refused(cli: Cli):
    """An unknown name has a suggestion; code is not evaluated."""
    assert "did you mean 'val/accuracy'" in cli("runs", "where=val/acuracy>0.9", status=2).err
    assert "sort: nope" in cli("runs", "sort=nope", status=2).err
    cli("runs", "where=__import__('os').mkdir('x')", status=2)
    assert not Path("x").exists()


def test_tags_and_notes_are_kept(cli: Cli):
    """They replace earlier ones, may contain any character, and can be searched for."""
    cli("runs", "tag", "run=[good,better]", "tags=[paper, a=b]")
    cli("runs", "note", "run=good", """note=it's "fine": lr>0.1, 50 % {done}""")
    result = json.loads((RUNS / "good" / "result.json").read_text())
    assert result["tags"] == ["paper", "a=b"]
    assert result["note"] == """it's "fine": lr>0.1, 50 % {done}"""
    assert sorted(listed(cli, """where="'a=b' in tags" """)) == ["better", "good"]
    assert "paper, a=b" in cli("runs").out
    cli("runs", "tag", "run=good", "tags=[]")
    assert json.loads((RUNS / "good" / "result.json").read_text())["tags"] == []


def test_runs_are_removed(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """Without a terminal, `yes=true` is needed; a run in use keeps all of them from being removed."""
    cli("runs", "rm", "run=good", status=2)
    with RunDirectory.open(RUNS / "better"):
        cli("runs", "rm", "run=[good,better]", "yes=true", status=2)
    assert (RUNS / "good").exists()
    cli("runs", "rm", "run=[good,nope]", "yes=true", status=2)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: "n")
    cli("runs", "rm", "run=good")
    assert (RUNS / "good").exists()
    cli("runs", "rm", "run=good", "yes=true")
    assert {path.name for path in RUNS.iterdir()} == {"small", "better"}


def test_two_runs_are_compared(cli: Cli):
    """Settings and results are listed if they differ, also of unfinished runs."""
    write_run("begun", "mlp", 0.5, status="interrupted")
    document = json.loads(cli("runs", "diff", "run=[begun,good]", "format=json").out)
    jsonschema.validate(document, document_schema("diff"))
    assert document["settings"] == {"name": ["begun", "good"], "model.name": ["mlp", "pyramid"]}
    assert document["results"]["status"] == ["interrupted", "finished"]
    out = cli("runs", "diff", "run=[small,better]").out
    assert ["seed", "0", "1"] in [line.split() for line in out.splitlines()]


def test_a_layer_of_another_type_is_one_difference(cli: Cli):
    """Layers of the same type are compared by argument. All differences of a layer are listed together."""
    layers = {
        "small": [{"type": "Conv2D", "filters": 8}, "ReLU", {"type": "Dense", "units": 3}],
        "good": [{"type": "Conv2D", "filters": 9, "strides": 2}, {"type": "Dropout", "rate": 0.5},
                 {"type": "Dense", "units": 3}, "ReLU"],
    }  # fmt: skip
    for name, specs in layers.items():
        file = RUNS / name / "config.yaml"
        file.write_text(
            yaml.safe_dump({**yaml.safe_load(file.read_text()), "model": {"layers": specs, "width": 8}})
        )
    for name, optimizer in (("small", {"type": "Adam"}), ("good", {"type": "SGD", "momentum": 0.9})):
        file = RUNS / name / "config.yaml"
        augmented = [{"type": "Erase"}] if name == "good" else []
        values = {**yaml.safe_load(file.read_text()), "optimizer": optimizer, "aug": {"layers": augmented}}
        file.write_text(yaml.safe_dump(values))
    document = json.loads(cli("runs", "diff", "run=[small,good]", "format=json").out)
    assert [item for item in document["settings"].items() if item[0] != "name"] == [
        ("aug.layers", [[], [{"type": "Erase"}]]),
        ("model.layers.0.filters", [8, 9]),
        ("model.layers.0.strides", [None, 2]),
        ("model.layers.1", ["ReLU", {"type": "Dropout", "rate": 0.5}]),
        ("model.layers.3", [None, "ReLU"]),
        ("optimizer.type", ["Adam", "SGD"]),
        ("optimizer.momentum", [None, 0.9]),
    ]
    out = cli("runs", "diff", "run=[small,good]").out
    assert "{rate: 0.5, type: Dropout}" in out
    assert re.search(r"val/accuracy +98\.00 % +99\.50 %", out)


def test_only_the_first_of_many_differing_settings_are_printed(cli: Cli):
    """The results follow them, and the document has all."""
    for name, units, others in (("small", 4, "Flatten"), ("good", 3, "ReLU")):
        file = RUNS / name / "config.yaml"
        layers = [{"type": "Dense", "units": units}, *[others] * 3_000]
        file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "model": {"layers": layers}}))
    out = cli("runs", "diff", "run=[small,good]").out
    assert "Showing 100 of 3,002 differing settings; format=json lists all." in out
    assert "model.layers.98 " in out
    assert "model.layers.100 " not in out
    assert re.search(r"val/accuracy +98\.00 % +99\.50 %", out)
    settings = json.loads(cli("runs", "diff", "run=[small,good]", "format=json").out)["settings"]
    assert settings["model.layers.3000"] == ["Flatten", "ReLU"]


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (["tag", "run=good"], "tags"),
        (["note", "note=x"], "run"),
        (["diff", "run=good"], "run"),
        (["rm", "run=good", "tags=[a]"], "tags"),
        (["run=good"], "run"),
        (["tag", "run=good", "tags=[a]", "format=json"], "format"),
        (["tga", "run=good"], "action"),
    ],
)
def test_what_an_action_lacks_or_ignores_is_refused(cli: Cli, words: list[str], path: str):
    """Nothing is changed."""
    before = (RUNS / "good" / "result.json").read_bytes()
    assert f"{path}" in cli("runs", *words, status=2).err
    assert (RUNS / "good" / "result.json").read_bytes() == before


def test_verbatim_keys_are_not_parsed_by_hydra():
    """Quotes, braces and backslashes reach the verb as they were typed."""
    from mnist_exp.config.hydra_adapter import parse_override
    from mnist_exp.config.overrides import parse

    for text in ["a>1,b", "'x'", "${oc.env:HOME}", "{a", "back\\slash\\", "=", "null "]:
        [override] = request_from("runs", parse([f"note={text}"])).overrides
        assert parse_override(override).value() == text
