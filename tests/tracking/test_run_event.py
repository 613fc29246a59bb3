"""The first event of a journal: the run's names, tags and source."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.errors import RequestError
from mnist_exp.tracking.run_event import new_run_event


def config(*overrides: str) -> TrainConfig:
    return compose_checked(Request("train", ("data=digits", *overrides)), TrainConfig)[0]


def tags(*overrides: str) -> dict[str, str]:
    return new_run_event("run", config(*overrides).tracking, {"data": "digits"}).tags


def git(*words: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *identity, *words], check=True, capture_output=True)


def test_mlflows_variables_are_obeyed(monkeypatch: pytest.MonkeyPatch):
    """The keys of the command line replace them."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    monkeypatch.setenv("MLFLOW_RUN_NAME", "17")
    assert (config().tracking.experiment, config().name) == ("theirs", "17")
    given = config("tracking.experiment=mine", "name=own", "tracking=none")
    assert (given.tracking.experiment, given.name) == ("mine", "own")


def test_the_users_tags_are_added():
    """They replace none of this package or of MLflow."""
    found = tags(
        "+tracking.tags.team=vision", "+tracking.tags.try=2", "+tracking.tags.data=x", "+tracking.tags.ok=true"
    )
    assert (found["team"], found["try"], found["ok"], found["data"]) == ("vision", "2", "true", "digits")
    for wrong in ("+tracking.tags.a=[1]", "tracking.tags={mlflow.user: someone}", "+tracking.tags.mlflow.user=x"):
        with pytest.raises(RequestError):
            config(wrong)


def test_the_commit_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And whether tracked files were changed; nothing outside of a repository, or without git."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert not {"mlflow.source.git.commit", "git_dirty"} & tags().keys()
    git("init")
    file = tmp_path / "file"
    file.write_text("1")
    git("add", "file")
    git("commit", "-m", "x")
    (tmp_path / "untracked").touch()
    found = tags()
    assert (len(found["mlflow.source.git.commit"]), found["git_dirty"]) == (40, "false")
    file.write_text("22")
    assert tags()["git_dirty"] == "true"
    monkeypatch.setenv("PATH", "")
    assert not {"mlflow.source.git.commit", "git_dirty"} & tags().keys()
