"""Experiments and runs that were deleted in a store are reported before training."""

from __future__ import annotations

import json
import socket
import sqlite3
import ssl
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from http.client import HTTPMessage
from io import BytesIO
from pathlib import Path

import pytest
from support.cli import SMALL, Cli
from support.collector import Collector
from support.journals import write_sweep_run

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrackingConfig
from mnist_exp.engine.store_permission import permit_store
from mnist_exp.errors import RequestError
from mnist_exp.tracking import server
from mnist_exp.tracking.failure import describe_failure

TRACKING = TrackingConfig(enabled=True, uri=None, experiment="mine", wait_seconds=0)
OUTPUTS = Path("outputs")


@pytest.fixture
def store() -> Iterator[sqlite3.Connection]:
    """A store with MLflow's two tables: the experiment 'mine' and its run 'abc'."""
    OUTPUTS.mkdir()
    with closing(sqlite3.connect(OUTPUTS / "mlflow.db")) as connection, connection:
        connection.execute("create table experiments (experiment_id, name, lifecycle_stage)")
        connection.execute("create table runs (run_uuid, lifecycle_stage)")
        connection.execute("insert into experiments values (7, 'mine', 'active')")
        connection.execute("insert into runs values ('abc', 'active')")
        connection.commit()
        yield connection


def test_what_is_there_is_no_problem(store: sqlite3.Connection):
    """Nor is an experiment that does not exist yet."""
    permit_store(Request("train"), TRACKING, OUTPUTS, run_id="abc")
    permit_store(Request("train"), TRACKING.model_copy(update={"experiment": "new"}), OUTPUTS)


@pytest.mark.parametrize(
    ("table", "command"),
    [
        ("experiments", "mlflow experiments restore --experiment-id 7"),
        ("runs", "mlflow runs restore --run-id abc"),
    ],
)
def test_what_was_deleted_is_reported_with_the_command(store: sqlite3.Connection, table: str, command: str):
    """And the key that chooses another experiment. The UI opens nevertheless."""
    store.execute(f"update {table} set lifecycle_stage = 'deleted'")
    store.commit()
    with pytest.raises(RequestError) as caught:
        permit_store(Request("resume"), TRACKING, OUTPUTS, run_id="abc")
    [problem] = caught.value.problems
    assert (problem.code, problem.path) == ("unusable", "tracking.experiment")
    assert command in problem.message
    permit_store(Request("ui"), TRACKING, OUTPUTS)


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "seed=0,1", "sweep.name=mine"],
        ["tune", "optimizer.learning_rate=choice(0.1,0.2)", "tune.name=mine"],
    ],
)
def test_a_deleted_parent_is_reported(cli: Cli, store: sqlite3.Connection, words: list[str]):
    """Before a sweep or search trains what is missing."""
    store.execute("update runs set lifecycle_stage = 'deleted'")
    store.commit()
    parent = OUTPUTS / "sweeps/mine"
    (parent / ".claims").mkdir(parents=True)
    (parent / "sweep.json").write_text(json.dumps({"name": "mine"}))
    write_sweep_run(parent, None).close()
    (parent / "delivery.json").write_text(json.dumps({"outputs": {"run_id": "abc", "lines": 1}}))
    before = set(OUTPUTS.rglob("*"))
    found = cli(*words, *SMALL, "data=digits", "tracking=local", "tracking.experiment=mine", status=2)
    assert "mlflow runs restore --run-id abc" in found.err
    assert set(OUTPUTS.rglob("*")) == before


def test_a_server_that_deleted_the_run_is_reported_with_the_command():
    """When the delivery fails."""
    error = Exception("The run abc must be in the 'active' state. Current state is deleted.")
    said = describe_failure(error, "http://127.0.0.1:5000")
    assert "MLFLOW_TRACKING_URI=http://127.0.0.1:5000 mlflow runs restore --run-id abc" in said


@pytest.mark.parametrize(
    ("deleted", "command"),
    [
        ("experiment", "mlflow experiments restore --experiment-id 1"),
        ("run", f"mlflow runs restore --run-id {'a' * 32}"),
    ],
)
def test_a_server_is_asked_before_training(monkeypatch: pytest.MonkeyPatch, deleted: str, command: str):
    """With the user's credentials, which the message does not show."""
    with Collector(deleted) as store:
        uri = store.uri.replace("://", "://user:word@")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        tracking = TRACKING.model_copy(update={"uri": uri})
        with pytest.raises(RequestError, match=command) as caught:
            permit_store(Request("resume"), tracking, OUTPUTS, run_id="a" * 32)
    assert {authorization for _, authorization, _ in store.requests} == {"Basic dXNlcjp3b3Jk"}
    assert "word@" not in str(caught.value)
    permit_store(Request("resume"), tracking, OUTPUTS, run_id="a" * 32)  # it is gone


def test_a_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    """Training starts after two seconds."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        begun = time.monotonic()
        permit_store(Request("train"), TRACKING.model_copy(update={"uri": uri}), OUTPUTS)
    assert time.monotonic() - begun < 5


def test_credentials_are_not_sent_to_another_host():
    """To which a server may redirect."""
    given = urllib.request.Request("http://127.0.0.1:1/x", headers={"Authorization": "Basic x"})
    redirect = partial(server._SameHost().redirect_request, given, BytesIO(), 302, "", HTTPMessage())
    assert redirect("http://localhost:1/x") is None
    assert redirect("ftp://127.0.0.1/x") is None
    assert redirect("https://127.0.0.1/y") is not None


@pytest.mark.parametrize("insecure", [False, True])
def test_the_tls_settings_of_mlflow_are_used(monkeypatch: pytest.MonkeyPatch, insecure: bool):
    """A bundle of certificates, or none."""
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", str(insecure).lower())
    assert (server._tls().verify_mode == ssl.CERT_NONE) == insecure
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", "missing.pem")
    with pytest.raises(FileNotFoundError):
        server._tls()
