"""Experiments and runs that were deleted in a local store are reported before training."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrackingConfig
from mnist_exp.engine.store_permission import permit_store
from mnist_exp.errors import RequestError
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


def test_a_server_that_deleted_the_run_is_reported_with_the_command():
    """When the delivery fails."""
    error = Exception("The run abc must be in the 'active' state. Current state is deleted.")
    said = describe_failure(error, "http://127.0.0.1:5000")
    assert "MLFLOW_TRACKING_URI=http://127.0.0.1:5000 mlflow runs restore --run-id abc" in said
