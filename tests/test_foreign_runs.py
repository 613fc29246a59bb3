"""Run directories from elsewhere: no file outside them is sent, and no address in them is contacted."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import mlflow
import pytest
import yaml
from support.cli import Cli
from support.collector import Collector
from support.journals import expected, held, write_run

from mnist_exp.engine.evaluation import resolve_class_names
from mnist_exp.engine.resumption import check_journal
from mnist_exp.errors import RequestError
from mnist_exp.runs.events import ArtifactEvent, EndEvent, NoteEvent, ParamsEvent, RunEvent, TagsEvent
from mnist_exp.runs.journal import Journal
from mnist_exp.tracking.known_stores import read_known_stores, state_file
from mnist_exp.tracking.mlflow_upload import Delivery

RUN = Path("outputs/runs/shared")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        yield server


def forget() -> None:
    """Make every existing run look like another user's."""
    state_file().unlink(missing_ok=True)


def write_artifacts(folder: Path, *files: str, uri: str | None = None) -> None:
    """Write a run whose journal sends these files."""
    (folder / "journal.jsonl").unlink()
    lines = Journal(folder)
    lines.write(RunEvent(name="x", key="x", experiment="mnist-exp", tags={}, enabled=True, uri=uri, parent=None))
    for file in files:
        lines.write(ArtifactEvent(file=file))
    lines.write(EndEvent(status="FINISHED"))
    lines.close()


def raw_lines(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's journal, as parsed JSON."""
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "verb", [["sync"], ["sync", "run=shared"], ["runs"], ["compare"], ["export", "run=shared", "register=x"]]
)
@pytest.mark.parametrize("end", [True, False])
def test_the_address_in_a_journal_is_not_contacted(cli: Cli, collector: Collector, verb: list[str], end: bool):
    """It is shown with the command that allows it; a dead run is marked in its directory only."""
    write_run(RUN, collector.uri, end=end)
    forget()
    done = cli(*verb, status=None)
    assert collector.requests == []
    assert done.status == (1 if verb[0] == "sync" else 2 if verb[0] == "export" and not end else done.status)
    if verb[0] == "sync":
        command = f"'mnist-exp sync run=outputs/runs/shared tracking.uri={collector.uri}'"
        assert f"{collector.uri} is not a store that you have used; {command}" in done.out


def test_the_command_that_is_shown_allows_the_address(cli: Cli, collector: Collector):
    """It delivers that run, and later a plain `sync` works; the file that remembers the address is private."""
    write_run(RUN, collector.uri)
    forget()
    cli("sync", status=1)
    cli("sync", "run=outputs/runs/shared", f"tracking.uri={collector.uri}", status=None)
    assert collector.requests
    assert stat.S_IMODE(state_file().stat().st_mode) == 0o600
    assert read_known_stores() == {collector.uri}
    collector.requests.clear()
    cli("sync", status=None)
    assert collector.requests


def test_the_environment_allows_an_address(cli: Cli, collector: Collector, monkeypatch: pytest.MonkeyPatch):
    """It may contain credentials that the journal lacks."""
    write_run(RUN, collector.uri)
    forget()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:planted@{collector.host}/")
    cli("sync", status=None)
    assert {header for _, header, _ in collector.requests} == {"Basic bWU6cGxhbnRlZA=="}


def test_memory_that_others_can_write_to_is_not_used(cli: Cli, collector: Collector):
    """Another user could have added an address."""
    write_run(RUN, collector.uri)
    state_file().chmod(0o666)
    cli("sync", status=1)
    assert collector.requests == []


@pytest.mark.parametrize(
    "name", ["{secret}", "../../../secret.txt", "link.txt", "folder/secret.txt", "pipe", "plots"]
)
def test_only_files_of_the_run_are_sent(cli: Cli, tmp_path: Path, name: str):
    """Other files are reported with the reason, and the following files are sent."""
    secret = Path("secret.txt").resolve()
    secret.write_text("PLANTED")
    write_run(RUN)
    (RUN / "link.txt").symlink_to(secret)
    (RUN / "folder").symlink_to(secret.parent)
    os.mkfifo(RUN / "pipe")
    write_artifacts(RUN, name.format(secret=secret), "config.yaml")
    done = cli("sync", status=1)
    assert "not delivered: " in done.out
    run_id = Delivery(RUN).run_id()
    store = mlflow.MlflowClient(f"sqlite:///{Path('outputs/mlflow.db').resolve()}")
    assert [entry.path for entry in store.list_artifacts(run_id)] == ["config.yaml"]
    assert not any(
        "PLANTED" in file.read_text(errors="replace")
        for file in Path("outputs/mlartifacts").rglob("*")
        if file.is_file()
    )


def test_a_model_outside_the_run_is_not_sent(cli: Cli):
    """This holds even if its name is that of the run's model."""
    write_run(RUN)
    Path("other.keras").write_text("PLANTED")
    (RUN / "model.keras").unlink()
    (RUN / "model.keras").symlink_to(Path("other.keras").resolve())
    assert "model.keras is a symbolic link" in cli("sync", status=1).out
    assert not list(Path("outputs/mlartifacts").rglob("*.keras"))
    for verb in ("evaluate", "export", "predict"):
        more = {"export": ["format=h5"], "predict": ["inputs=x.png"]}.get(verb, [])
        assert "is a symbolic link" in cli(verb, "run=shared", *more, status=2).err


def test_a_folder_outside_the_runs_artifacts_is_refused(cli: Cli):
    """No file is written outside the run's part of the store."""
    write_run(RUN)
    lines = [line for line in raw_lines(RUN) if line["kind"] in ("run", "end")]
    lines.insert(1, {"kind": "artifact", "time": 1, "file": "config.yaml", "folder": "../../../.."})
    (RUN / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "is not inside the run's artifacts" in cli("sync", status=1).out


def test_a_delivery_does_not_continue_another_run(tmp_path: Path):
    """Although `delivery.json` names that run and says that it has the first lines."""
    mine, theirs = write_run(Path("outputs/runs/mine")), write_run(RUN)
    Delivery(mine).pending()
    uri = f"sqlite:///{Path('outputs/mlflow.db').resolve()}"
    before = held(mine, uri, tmp_path / "before")
    run_id = Delivery(mine).run_id()
    for lines in (1, 8):
        (theirs / "delivery.json").write_text(json.dumps({"outputs": {"run_id": run_id, "lines": lines}}))
        Delivery(theirs).pending()
        assert held(theirs, uri, tmp_path / f"theirs-{lines}") == expected(theirs)
    (theirs / "delivery.json").write_text(json.dumps({"outputs": {"run_id": run_id, "lines": 100}}))
    assert Delivery(theirs).run_id() != run_id
    assert held(mine, uri, tmp_path / "after") == before


def test_control_characters_do_not_reach_mlflow():
    """They are escaped in names, tags, parameters and notes."""
    RUN.mkdir(parents=True)
    lines, red = Journal(RUN), "a\x1b[31mb"
    lines.write(RunEvent(name=red, key="k", experiment=red, tags={"t": red}, enabled=True))
    lines.write(ParamsEvent(values={"p": red}))
    lines.write(NoteEvent(text=f"line\n{red}"))
    lines.write(TagsEvent(values={"t": red}))
    lines.close()
    delivery = Delivery(RUN)
    client = delivery._client = MagicMock()
    client.create_run.return_value.info.run_id = "id"
    client.search_runs.return_value = []
    delivery.pending()
    escaped = "a\\x1b[31mb"
    client.get_experiment_by_name.assert_called_with(escaped)
    assert client.create_run.call_args[1] == {"run_name": escaped}
    assert client.create_run.call_args[0][2]["t"] == escaped
    assert [param.value for param in client.log_batch.call_args[1]["params"]] == [escaped]
    assert [call[0][2] for call in client.set_tag.call_args_list] == [f"line\n{escaped}", escaped]


def test_a_key_is_no_part_of_a_search():
    """With a quote, it could select other runs of the store."""
    with pytest.raises(ValueError, match="key"):
        RunEvent(name="x", key="k' AND tags.x = 'y", experiment="x", tags={})


@pytest.mark.parametrize("file", ["result.json", "journal.jsonl", "config.yaml", "history.csv"])
def test_links_and_pipes_in_place_of_a_runs_files_are_not_read(cli: Cli, file: str):
    """No verb waits for a pipe, reads a linked file, or writes to it."""
    write_run(RUN, end=False)
    target = Path("target").resolve()
    target.write_text("PLANTED")
    (RUN / file).unlink(missing_ok=True)
    (RUN / file).symlink_to(target)
    for verb in (
        ["runs"],
        ["compare", "run=outputs/runs/shared"],
        ["resume", "run=outputs/runs/shared"],
        ["sync"],
    ):
        done = cli(*verb, status=None)
        assert "PLANTED" not in done.out + done.err
        assert "unexpected" not in done.err
        if verb[0] == "resume" and file != "result.json":  # before anything is trained
            assert (done.status, f"{file}: is a symbolic link" in done.err) == (2, True)
    assert target.read_text() == "PLANTED"
    (RUN / file).unlink()
    os.mkfifo(RUN / file)
    for verb in (["runs"], ["resume", "run=outputs/runs/shared"], ["sync"]):
        assert "unexpected" not in cli(*verb, status=None).err


def test_a_folder_in_place_of_the_journal_is_reported(cli: Cli):
    """By `sync` and before a run is resumed."""
    write_run(RUN)
    (RUN / "journal.jsonl").unlink()
    (RUN / "journal.jsonl").mkdir()
    with pytest.raises(RequestError, match=r"outputs/runs/shared/journal\.jsonl: cannot be read: Is a directory"):
        check_journal(RUN)
    assert "outputs/runs/shared/journal.jsonl: Is a directory" in cli("sync", status=1).out


def interrupted(cli: Cli, uri: str) -> Path:
    """Return an interrupted run with this address in its config."""
    path = cli("data=digits", "training.keep_checkpoint=true", small=True).run
    assert path is not None
    config = yaml.safe_load((path / "config.yaml").read_text())
    config["tracking"] |= {"enabled": True, "uri": uri}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    lines = raw_lines(path)
    lines[0] |= {"enabled": True, "uri": uri}
    (path / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.slow
def test_resume_does_not_contact_the_address_of_a_config(cli: Cli, collector: Collector):
    """The message says how to allow the address and how to train without it; both work."""
    path = interrupted(cli, collector.uri)
    done = cli("resume", f"run={path}", "training.epochs=3", status=2)
    assert f"{collector.uri} is not a store that you have used" in done.err
    assert "config.yaml" in done.err
    assert collector.requests == []
    cli("resume", f"run={path}", "training.epochs=3", "tracking.enabled=false")
    assert collector.requests == []
    cli("resume", f"run={path}", "training.epochs=4", f"tracking.uri={collector.uri}", status=None)
    assert collector.requests


def test_an_option_file_cannot_name_an_address(cli: Cli, collector: Collector):
    """Only the command line and the environment can."""
    folder = Path("theirs/tracking")
    folder.mkdir(parents=True)
    (folder / "theirs.yaml").write_text(f"enabled: true\nuri: {collector.uri}\nexperiment: x\nwait_seconds: 5\n")
    words = ["--config-dir=theirs", "data=digits", "model=linear", "data.limit=300", "training.epochs=1"]
    done = cli(*words, "tracking=theirs", status=2)
    assert "is not a store that you have used" in done.err
    assert "is not a store that you have used" in cli(*words, "tracking=theirs", "-m", "seed=1,2", status=2).err
    assert not Path("outputs").exists()
    assert collector.requests == []


@pytest.mark.parametrize("names", [None, ["a"], ["a", "b", "c"]])
def test_class_names_of_another_number_are_not_used(names: list[str] | None):
    """A result may name fewer or more classes than its model has."""
    saved: Any = SimpleNamespace(run=None, result=SimpleNamespace(data=SimpleNamespace(class_names=names)))
    data: Any = SimpleNamespace(class_names=("0", "1"))
    assert resolve_class_names(saved, 2, data, MagicMock()) == ("0", "1")
    saved.result.data.class_names = ["a", "b"]
    assert resolve_class_names(saved, 2, data, MagicMock()) == ("a", "b")
