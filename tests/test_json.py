"""`format=json`: one document on standard output that matches its published schema, also after a failure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from support.cli import SMALL, Cli, Outcome

from mnist_exp.cli import WITH_JSON
from mnist_exp.config.json_schema import GROUPS, config_schema, group_schema
from mnist_exp.report.documents import DOCUMENTS, EvaluateDocument, SweepDocument, TrainDocument, document_schema

CONF = Path(__file__).parents[1] / "conf"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an output folder with two runs on the built-in digits that differ in their seed."""
    from mnist_exp.cli import main

    outputs = tmp_path_factory.mktemp("trained") / "outputs"
    for seed in (0, 1):
        words = [*SMALL, "data=digits", f"seed={seed}", f"outputs={outputs}", f"name=seed{seed}", "format=json"]
        assert main(words) == 0
    return outputs


@pytest.fixture
def runs(trained: Path, use: Callable[[str], None]) -> Path:
    """Return the folder of the two runs, copied into `outputs`."""
    shutil.copytree(trained, "outputs")
    use("digits")
    return Path("outputs/runs")


def document_of(done: Outcome, name: str) -> dict[str, Any]:
    """Return the document that a command printed, which must match the schema of that name."""
    document: dict[str, Any] = json.loads(done.out)
    jsonschema.validate(document, document_schema(name))
    assert document["document"] == name
    return document


def test_a_training_prints_its_result(cli: Cli):
    """Progress goes to standard error, and the document has what a script needs to continue."""
    done = cli("format=json", "data=digits", small=True)
    document = document_of(done, "train")
    result = json.loads((Path(document["path"]) / "result.json").read_text())
    assert document["weights_sha256"] == result["weights_sha256"]
    assert document["test"] == result["test"]
    assert document["fallback_for"] is None
    assert "epoch 2/2" in done.err


def test_a_sweep_prints_its_jobs(cli: Cli):
    """The table of the jobs names the best by its path."""
    document = document_of(cli("-m", "seed=0,1", "data=digits", "format=json", small=True), "sweep")
    assert [job["values"] for job in document["jobs"]] == [{"seed": "0"}, {"seed": "1"}]
    best = max(document["jobs"], key=lambda job: job["val_accuracy"])
    assert document["best"] == best["path"]


def test_a_search_prints_its_trials(cli: Cli):
    """The best trial is named, with the test metrics of its model."""
    document = document_of(cli("tune", *SMALL, "seed=0,1", "data=digits", "tune.trials=1", "format=json"), "tune")
    assert [trial["status"] for trial in document["trials"]] == ["finished"]
    assert (document["best"], document["mode"]) == (0, "max")
    assert set(document["test"]) == {"accuracy", "loss"}


def test_a_range_test_has_its_curve(cli: Cli):
    """The override can be used as it is. Without a proposal, the document says why."""
    words = ("lr_find", "data=digits", "model=linear", "find.steps=50", "format=json")
    document = document_of(cli(*words), "lr_find")
    cli("check", "data=digits", "model=linear", document["override"])
    assert document["curve"][0]["learning_rate"] == 1e-6
    assert 20 < len(document["curve"]) <= document["planned_steps"] == 50
    assert (Path(document["folder"]) / "lr_find.png").is_file()
    failed = document_of(cli(*words, "find.high=1e-5", status=1), "lr_find")
    assert (failed["learning_rate"], failed["override"]) == (None, None)
    assert "find.high" in failed["message"]


def test_runs_are_listed(cli: Cli, runs: Path):
    """Each run has its path, its status and its metrics."""
    document = document_of(cli("runs", "format=json", "limit=1"), "runs")
    assert document["total"] == 2
    [entry] = document["runs"]
    assert Path(entry["path"]).is_dir()
    assert {"val/accuracy", "test/accuracy", "test/loss"} <= set(entry["metrics"])


def test_a_comparison_has_its_groups(cli: Cli, runs: Path):
    """The values of each seed are listed in addition to their mean."""
    document = document_of(cli("compare", "format=json"), "compare")
    [group] = document["groups"]
    assert group["seeds"] == [0, 1]
    assert group["mean"] == pytest.approx(np.mean(list(group["metrics"]["val/accuracy"].values())))
    assert Path(document["picture"]).is_file()


def test_an_evaluation_has_its_figures(cli: Cli, runs: Path):
    """They are those of the files that are written."""
    document = document_of(cli("evaluate", "run=latest", "format=json"), "evaluate")
    written = json.loads((Path(document["folder"]) / "evaluation.json").read_text())
    assert document["metrics"] == written["metrics"]
    assert document["confusion"] == written["confusion"]


def test_an_ensemble_has_its_members(cli: Cli, runs: Path):
    """The document is that of the file in the new folder."""
    document = document_of(cli("ensemble", "run=[seed0,seed1]", "format=json"), "ensemble")
    assert [member["run"].split("-")[0] for member in document["members"]] == ["seed0", "seed1"]
    assert json.loads((Path(document["folder"]) / "ensemble.json").read_text()) == document


def test_predictions_are_listed(cli: Cli, runs: Path):
    """Each image has its class, with the probability."""
    np.savez("images.npz", np.zeros((2, 28, 28), np.uint8))
    document = document_of(cli("predict", "run=latest", "inputs=images.npz", "format=json"), "predict")
    assert len(document["predictions"]) == 2
    wrong = cli("predict", "run=latest", "inputs=images.npz", "format=json", "output=x.csv", status=2)
    assert document_of(wrong, "error")["problems"][0]["path"] == "output"


def test_a_config_is_checked_and_shown(cli: Cli):
    """The document of `check` is the same for a wrong config, with the code and the place of each problem."""
    checked = document_of(cli("check", "model=linear", "data=digits", "format=json"), "check")
    assert checked["ok"]
    assert checked["models"] == [{"job": None, "model": "linear", "parameters": 7850, "shape": [28, 28, 1]}]
    done = cli("check", "model=linear", "data=digits", "seed=-1", "epochs=3", "format=json", status=2)
    wrong = document_of(done, "check")
    assert not wrong["ok"]
    assert {problem["code"] for problem in wrong["problems"]} == {"out-of-range", "unknown-key"}
    shown = document_of(cli("show", "model=linear", "data=digits", "format=json"), "show")
    assert shown["parameters"] == 7850
    assert [layer["type"] for layer in shown["layers"]][-1] == "Softmax"


def test_check_reports_what_keras_finds(cli: Cli):
    """Problems that need Keras are part of the document."""
    both = ("+optimizer.clipvalue=1", "optimizer.clipnorm=1", "seed=-1")
    document = document_of(cli("check", "data=digits", *both, "format=json", status=2), "check")
    assert [problem["path"] for problem in document["problems"]] == ["seed", "optimizer"]


def test_a_data_set_is_verified(cli: Cli):
    """The images of each class are counted."""
    document = document_of(cli("dataset", "verify", "data=digits", "format=json"), "verify")
    assert sum(document["images"]["train"]) == 1497
    assert len(document["sha256"]) == 64


def test_failures_are_documents(cli: Cli):
    """A wrong request lists its problems, with the exit status."""
    document = document_of(cli("runs", "limit=0", "format=json", status=2), "error")
    assert (document["exit_status"], document["problems"][0]["code"]) == (2, "out-of-range")
    assert document_of(cli("evaluate", "run=nope", "format=json", status=2), "error")["problems"]
    wrong = cli("train", "format=xml", status=2)
    assert "format=xml" in wrong.err


@pytest.mark.slow
def test_a_sweep_with_failed_jobs_prints_all(cli: Cli):
    """The exit status is 1, and the document has the reasons."""
    words = ("-m", *SMALL, "model=lenet5x5", "optimizer.learning_rate=0.001,1e38", "data=digits", "format=json")
    document = document_of(cli(*words, status=1), "sweep")
    assert [job["status"] for job in document["jobs"]] == ["finished", "failed"]
    assert document["jobs"][1]["reason"]


def test_a_fallback_is_named_or_refused(cli: Cli):
    """`fallback_for` names the requested data; `data.fallback=error` refuses the substitute."""
    absent = ("data=mnist", "data.mirrors=[]", "data.dir=null", "format=json")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MNIST_EXP_DATA", raising=False)
        document = document_of(cli(*absent, *SMALL), "train")
        assert (document["data"], document["fallback_for"]) == ("digits", "mnist")
        shutil.rmtree("outputs")
        assert document_of(cli(*absent, *SMALL, "data.fallback=error", status=2), "error")["exit_status"] == 2
    assert not Path("outputs").exists()


def test_values_that_json_lacks_are_null():
    """An infinite loss does not make the document unreadable."""
    fields: dict[str, Any] = dict.fromkeys(TrainDocument.model_fields)
    fields |= {"run": "a", "path": "/a", "status": "finished", "epochs": 1, "best": None, "exact": True}
    document = TrainDocument(
        **{**fields, "version": 1, "document": "train", "seconds": {}, "test": {"loss": np.inf}}
    )
    values = json.loads(document.as_json())
    jsonschema.validate(values, document_schema("train"))
    assert values["test"]["loss"] is None


def test_schemas_are_printed(cli: Cli):
    """There is a schema for every document; a wrong name is refused."""
    for name in DOCUMENTS:
        jsonschema.Draft202012Validator.check_schema(json.loads(cli("schema", f"output={name}").out))
    assert "did you mean 'runs'" in cli("schema", "output=run", status=2).err
    assert {SweepDocument, TrainDocument, EvaluateDocument} <= set(DOCUMENTS.values())
    assert set(WITH_JSON) - {"resume", "dataset"} <= set(DOCUMENTS)


def options(group: str) -> list[Path]:
    return sorted((CONF / group).glob("*.yaml"))


def test_schemas_are_written_where_our_own_files_refer_to_them(cli: Cli, tmp_path: Path):
    """`make schema` writes the schemas of all our options; a folder that cannot be written is reported."""
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    cli("schema", f"folder={tmp_path / 'build' / 'schema'}")
    for file in [conf / "train.yaml", *(file for group in GROUPS for file in (conf / group).glob("*.yaml"))]:
        head = file.read_text().splitlines()[:2]  # Hydra reads `@package` in the first line only
        line = next(line for line in head if not line.startswith("# @package"))
        schema = file.parent / line.removeprefix("# yaml-language-server: $schema=")
        assert schema.is_file(), (file, line)
        group = None if file.parent == conf else file.parent.name
        assert json.loads(schema.read_text()) == (group_schema(group) if group else config_schema())
    assert "cannot be written" in cli("schema", f"folder={conf / 'train.yaml' / 'schema'}", status=2).err
    assert "must not be given together" in cli("schema", "folder=schema", "group=aug", status=2).err


@pytest.mark.parametrize("group", GROUPS)
def test_our_own_options_match_the_schema_of_their_group(cli: Cli, group: str):
    """An editor marks none of them; a misspelled key or layer type is marked."""
    schema = json.loads(cli("schema", f"group={group}").out)
    validator = jsonschema.Draft7Validator(schema)
    for file in options(group):
        assert [error.message for error in validator.iter_errors(yaml.safe_load(file.read_text()) or {})] == [], (
            file
        )
    wrong = {"model": {"layers": ["Densee"]}, "optimizer": {"learning_rate": "fast"}}
    assert not validator.is_valid(wrong.get(group, {"nonsense": 1}))


def test_bounds_decide_the_exit_status(cli: Cli, runs: Path):
    """A bound that does not hold gives 1, with the figures; an unknown metric gives 2 before anything is written."""
    words = ("evaluate", "run=latest", "format=json")
    held = document_of(cli(*words, "require=val/accuracy>=0 and test/loss<99"), "evaluate")
    assert [entry["holds"] for entry in held["bounds"]] == [True, True]
    document = document_of(cli(*words, "require=[test/accuracy>=0.1,test/f1>0.999]", status=1), "evaluate")
    assert [entry["holds"] for entry in document["bounds"]] == [True, False]
    before = len(list(Path("outputs/evaluate").iterdir()))
    unknown = document_of(cli(*words, "require=test/acuracy>0", status=2), "error")
    assert "did you mean 'test/accuracy'" in unknown["problems"][0]["message"]
    assert len(list(Path("outputs/evaluate").iterdir())) == before
    assert document_of(cli(*words, "require=exit()", status=2), "error")["problems"][0]["path"] == "require"
