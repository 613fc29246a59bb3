"""The uploader survives every failure and detects when the run has died."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support.cli import PATIENCE
from support.journals import expected, held, write_run, write_sweep_run

from mnist_exp.runs.events import EndEvent
from mnist_exp.runs.journal import read
from mnist_exp.runs.locks import LOCK, lock
from mnist_exp.tracking import upload_loop as module
from mnist_exp.tracking.failure import describe_failure
from mnist_exp.tracking.mlflow_upload import Delivery
from mnist_exp.tracking.store import connect
from mnist_exp.tracking.upload_loop import deliver_until_closed
from mnist_exp.tracking.upload_process import Sender


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def start(*roots: Path) -> subprocess.Popen[str]:
    """Start the uploader as a training run does."""
    return subprocess.Popen(
        [sys.executable, "-m", "mnist_exp.tracking.upload_loop", *map(str, roots)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds * PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@pytest.mark.slow
def test_modules_in_the_users_folder_are_not_executed(tmp_path: Path, uri: str):
    """They may have the names of needed modules."""
    for name in ("mlflow", "random"):
        Path(f"{name}.py").write_text("open('executed', 'w')")
    folder = write_run(tmp_path / "run", uri)
    assert Sender(folder, uri).finish(60 * PATIENCE) is None
    assert not Path("executed").exists()
    assert held(folder, uri, tmp_path / "fetched") == expected(folder)


class Nonsense(BaseHTTPRequestHandler):
    """A server that is not MLflow, or is faulty."""

    answers = cycle(
        [(200, b"<html>Welcome!</html>"), (500, b"oops"), (403, b"{}"), (200, b"[1]"), (404, b""), (None, b"")]
    )
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, body = next(self.answers)
        if status is None:
            return  # closes the connection without a word
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def nonsense() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Nonsense)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_a_faulty_server_is_retried(tmp_path: Path, nonsense: str):
    """It is retried after growing pauses, without harm; the reason is one line."""
    Nonsense.asked.clear()
    process = start(write_run(tmp_path / "run", nonsense))
    wait_for(lambda: len(Nonsense.asked) >= 4)
    time.sleep(2)
    assert len(Nonsense.asked) <= 6
    assert process.poll() is None
    _, err = process.communicate(timeout=30 * PATIENCE)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert err.strip()


@pytest.mark.slow
def test_every_error_is_retried(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch):
    """Events arrive in order and once after errors of MLflow, its libraries or any other type."""
    import requests
    import sqlalchemy
    from mlflow.exceptions import MlflowException

    raised = [
        MlflowException("INTERNAL_ERROR"),
        requests.exceptions.ChunkedEncodingError("cut off"),
        sqlalchemy.exc.OperationalError("insert", {}, sqlite3.OperationalError("database is locked")),
        sqlite3.OperationalError("attempt to write a readonly database"),
        KeyError("experiments"),
        OSError(28, "No space left on device"),
    ]
    folder = write_run(tmp_path / "run", uri)
    reading, writing = os.pipe()
    real = Delivery._deliver_metrics

    def deliver(self: Delivery, run_id: str, line: dict[str, Any]) -> None:
        if raised:
            real(self, run_id, line)  # it may have been carried out
            raise raised.pop()
        real(self, run_id, line)

    monkeypatch.setattr(Delivery, "_deliver_metrics", deliver)
    monkeypatch.setattr(module, "_POLL", 0.01)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    with open(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        threading.Timer(6 * PATIENCE, os.close, [writing]).start()
        assert deliver_until_closed([folder]) == 0
    assert not raised
    assert held(folder, uri, tmp_path / "fetched") == expected(folder)


@pytest.mark.slow
def test_a_database_that_is_locked(tmp_path: Path, uri: str):
    """Another program locks it for longer than SQLite waits; everything is delivered afterwards."""
    Delivery(write_run(tmp_path / "first", uri)).pending()
    folder = write_run(tmp_path / "run", uri)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as other:
        other.execute("begin exclusive")
        process = start(folder)
        time.sleep(8)
        assert process.poll() is None
        assert not (folder / "delivery.json").exists()
    wait_for(lambda: not Delivery(folder).missing())
    _, err = process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 0, err
    assert held(folder, uri, tmp_path / "fetched") == expected(folder)


@pytest.mark.slow
def test_a_store_is_created_atomically(tmp_path: Path, uri: str):
    """If the process dies, MLflow finds no store with only some of its tables."""
    folder = write_run(tmp_path / "run", uri)
    for pause in (0.0, 0.3):
        process = start(folder)
        wait_for(lambda pid=process.pid: (tmp_path / f".{pid}.mlflow.db").exists())
        time.sleep(pause)
        process.kill()
        process.communicate()
    process = start(folder)
    _, err = process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 0, err
    assert held(folder, uri, tmp_path / "fetched") == expected(folder)
    assert {path.name for path in tmp_path.glob("*mlflow.db*")} == {"mlflow.db", ".mlflow.db.lock"}


def test_a_store_that_cannot_be_opened_is_reported_at_once(tmp_path: Path):
    """MLflow would try for 104 seconds."""
    (tmp_path / "file").write_text("")
    (tmp_path / "text.db").write_text("no database, but a text that is long enough to look like none" * 10)
    for place, why in (("file/mlflow.db", "exists"), ("text.db", "not a database"), ("", "unable to open")):
        folder = write_run(tmp_path / f"run-{why[:3]}", f"sqlite:///{tmp_path / place}")
        begun = time.monotonic()
        with pytest.raises((OSError, sqlite3.Error)) as raised:
            Delivery(folder).pending()
        assert why in describe_failure(raised.value)
        assert time.monotonic() - begun < 5


def test_a_disk_that_fills_while_the_store_is_created(tmp_path: Path, uri: str):
    """It is reported as such, and no half of a store is left."""
    from sqlalchemy import event
    from sqlalchemy.pool import Pool

    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("pragma max_page_count = 20")  # SQLite then fails as on a full disk

    event.listen(Pool, "connect", limit)
    try:
        with pytest.raises(Exception) as raised:  # noqa: PT011 - SQLAlchemy's, or MLflow's
            connect(uri)
    finally:
        event.remove(Pool, "connect", limit)
    assert describe_failure(raised.value, uri) == f"{tmp_path}/mlflow.db: database or disk is full"
    assert [file.name for file in tmp_path.glob("*mlflow.db*")] == [".mlflow.db.lock"]


@contextmanager
def another_user() -> Iterator[None]:
    """Work as a user who shares only the group; needs root."""
    os.seteuid(12345)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_two_users_share_an_output_folder(monkeypatch: pytest.MonkeyPatch):
    """The second one gets the command that the first one has to run; then the second one's runs arrive."""
    with tempfile.TemporaryDirectory() as shared:
        os.chmod(shared, 0o777)
        monkeypatch.chdir(shared)
        assert not Delivery(write_run(Path("outputs/runs/first"))).pending()
        second = write_run(Path("outputs/runs/second"))
        command = "chmod -R g+w outputs"
        with another_user():
            with pytest.raises(PermissionError) as raised:
                Delivery(second).pending()
            assert command in describe_failure(raised.value, Delivery(second).uri)
        subprocess.run(command, shell=True, check=True)
        with another_user():
            assert not Delivery(second).pending()


@pytest.mark.slow
def test_a_sweep_with_its_jobs_is_delivered_by_one(tmp_path: Path, uri: str):
    """One uploader delivers the sweep first and its jobs as its children; all ids are recorded."""
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    lines = write_sweep_run(sweep, uri)
    process = start(sweep)
    jobs = [write_run(sweep / name, uri, parent=str(sweep)) for name in ("a", "b")]
    wait_for(lambda: not any(Delivery(job).missing() for job in jobs))
    jobs.append(write_run(sweep / "c", uri, parent="/where/it/was/before"))
    lines.write(EndEvent(status="FINISHED"))
    _, err = process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 0, err
    parent = held(sweep, uri, tmp_path / "fetched")
    assert (parent["status"], parent["runs"]) == ("FINISHED", 1)
    import mlflow

    for job in jobs:
        assert held(job, uri, tmp_path / "fetched") == expected(job)
        run_id = json.loads((job / "result.json").read_text())["mlflow_run_id"]
        tags = mlflow.MlflowClient(uri).get_run(run_id).data.tags
        assert tags["mlflow.parentRunId"] == Delivery(sweep).run_id()


@pytest.mark.slow
def test_a_job_that_cannot_be_delivered_does_not_delay_others(tmp_path: Path, uri: str):
    """The obstacle is reported."""
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    lines = write_sweep_run(sweep, uri)
    lines.write(EndEvent(status="FINISHED"))
    bad = write_run(sweep / "a", uri, parent=str(sweep))
    (bad / "journal.jsonl").write_bytes(b"\0\0\0\n")
    good = write_run(sweep / "b", uri, parent=str(sweep))
    process = start(sweep)
    _, err = process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 1
    assert f"{bad / 'journal.jsonl'}:1: damaged" in err
    assert held(good, uri, tmp_path / "fetched") == expected(good)


@pytest.mark.slow
def test_a_run_that_dies_is_marked_and_delivered(tmp_path: Path, uri: str):
    """The directory and MLflow have the time of its last write as its end."""
    sweep = tmp_path / "sweep"
    done = write_run(sweep / "a", uri, parent=str(sweep))
    died = write_run(sweep / "b", uri, parent=str(sweep), end=False)
    alive = write_run(sweep / "c", uri, parent=str(sweep), end=False)
    last_write = int(time.time()) + 5  # a time that only this file has
    os.utime(died / "journal.jsonl", (last_write, last_write))
    held_by_us = lock(alive)
    write_sweep_run(sweep, uri)
    process = start(sweep)
    _, err = process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 0, err
    found = {folder: held(folder, uri, tmp_path / "fetched") for folder in (sweep, done, died, alive)}
    assert [found[folder]["status"] for folder in found] == ["KILLED", "FINISHED", "KILLED", "RUNNING"]
    assert found[died]["times"][1] == last_write * 1000
    result = json.loads((died / "result.json").read_text())
    assert (result["status"], result["ended"]) == ("killed", last_write)
    assert result["mlflow_run_id"] == Delivery(died).run_id()
    assert json.loads((alive / "result.json").read_text())["status"] == "running"
    assert not any(isinstance(event, EndEvent) for event in read(alive))
    os.close(held_by_us)
    assert (alive / LOCK).exists()
