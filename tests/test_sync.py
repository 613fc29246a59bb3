"""`mnist-exp sync`: deliver pending events of all runs and sweeps, or of one."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.cli import PATIENCE, Cli, start
from support.journals import expected, free_port, held, write_run, write_sweep_run

from mnist_exp.runs.events import EndEvent
from mnist_exp.runs.journal import read
from mnist_exp.runs.locks import lock
from mnist_exp.tracking.mlflow_upload import Delivery

RUNS, SWEEPS = Path("outputs/runs"), Path("outputs/sweeps")


@pytest.fixture
def here() -> str:
    """Return the store of the output folder."""
    return f"sqlite:///{Path('outputs/mlflow.db').resolve()}"


@pytest.fixture
def nobody() -> str:
    """Return the address of a server that does not exist."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def silent() -> Iterator[str]:
    """Yield the address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def write_sweep(name: str, *jobs: str) -> list[Path]:
    """Write a finished sweep with its jobs."""
    sweep = SWEEPS / name
    sweep.mkdir(parents=True)
    folders = [write_run(sweep / job, parent=str(sweep.resolve()), key=f"{name}/{job}") for job in jobs]
    lines = write_sweep_run(sweep, None)
    lines.write(EndEvent(status="FINISHED"))
    lines.close()
    return [sweep, *folders]


def test_pending_events_of_runs_and_sweeps_are_delivered(cli: Cli, here: str, tmp_path: Path):
    """Each run or sweep with pending events has a line of output, and none the next time."""
    folders = [write_run(RUNS / "a"), write_run(RUNS / "b"), *write_sweep("s", "x", "y")]
    Delivery(folders[0]).pending()
    done = cli("sync")
    assert done.out.splitlines() == [
        "outputs/runs/b: delivered 14 entries",
        "outputs/sweeps/s: delivered 2 entries",
        "outputs/sweeps/s/x: delivered 14 entries",
        "outputs/sweeps/s/y: delivered 14 entries",
        "4 journals brought up to date.",
    ]
    for folder in folders:
        assert held(folder, here, tmp_path / "fetched") == expected(folder)
    assert json.loads((folders[1] / "result.json").read_text())["mlflow_run_id"] == Delivery(folders[1]).run_id()
    assert cli("sync").out == "MLflow has everything.\n"


@pytest.mark.slow
def test_an_error_of_the_database_during_a_delivery_takes_one_line(cli: Cli):
    """MLflow would print its traceback. A column is missing."""
    write_run(RUNS / "a")
    cli("sync")
    with closing(sqlite3.connect("outputs/mlflow.db")) as store, store:
        store.execute("alter table params rename column value to lost")
    write_run(RUNS / "b")
    process = start("sync")
    out, err = process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 1
    assert out == "outputs/runs/b: not delivered: outputs/mlflow.db: no such column: params.value\n"
    assert "Traceback" not in err


def test_a_single_run_or_sweep_is_delivered(cli: Cli):
    """A run is given by its name, a sweep by its name or path."""
    write_run(RUNS / "a")
    write_run(RUNS / "b")
    write_sweep("s", "x")
    assert cli("sync", "run=a").out.splitlines()[0] == "outputs/runs/a: delivered 14 entries"
    assert len(cli("sync", "run=s").out.splitlines()) == 3
    assert cli("sync", "run=outputs/sweeps/s").out == "MLflow has everything.\n"
    assert "c: there is no such run" in cli("sync", "run=c", status=2).err


def test_failed_deliveries_are_reported(cli: Cli, nobody: str, here: str, tmp_path: Path):
    """Each has a reason and the exit status is 1; the other runs are delivered."""
    bad, good = write_run(RUNS / "a", nobody), write_run(RUNS / "b")
    (write_run(RUNS / "c") / "journal.jsonl").write_bytes(b"\0\n")
    (write_run(RUNS / "d") / "plots" / "loss.png").unlink()
    done = cli("sync", status=1)
    assert done.out.splitlines() == [
        f"outputs/runs/a: not delivered: {nobody}: Connection refused",
        "outputs/runs/b: delivered 14 entries",
        "outputs/runs/c: not delivered: outputs/runs/c/journal.jsonl:1: damaged: '\\x00'",
        "outputs/runs/d: not delivered: plots/loss.png no longer exists",
    ]
    assert "3 journals not delivered, 1 delivered" in done.err
    assert held(good, here, tmp_path / "fetched") == expected(good)
    assert not (bad / "delivery.json").exists()


def test_a_silent_server_is_waited_for_once(cli: Cli, silent: str, monkeypatch: pytest.MonkeyPatch):
    """Sync does not wait again for each of its runs."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    for name in "abcde":
        write_run(RUNS / name, silent)
    begun = time.monotonic()
    assert cli("sync", status=1).out.count("not delivered: " + silent + ": no answer") == 5
    assert time.monotonic() - begun < 2 * 2 + 3


def test_runs_are_delivered_to_another_store(cli: Cli, nobody: str, tmp_path: Path):
    """The progress of delivery is recorded for each store separately."""
    folder = write_run(RUNS / "a", nobody)
    other = f"sqlite:///{tmp_path / 'other.db'}"
    assert "1 journal brought up to date" in cli("sync", f"tracking.uri={other}").out
    assert held(folder, other, tmp_path / "fetched") == expected(folder)
    assert "Connection refused" in cli("sync", status=1).out
    assert cli("sync", f"tracking.uri={other}").out == "MLflow has everything.\n"
    assert json.loads((folder / "result.json").read_text())["mlflow_run_id"] is None  # that of its own store


def test_a_run_without_a_tracker_is_delivered_on_request(cli: Cli, here: str, tmp_path: Path):
    """The request must name the run and a store."""
    folder = write_run(RUNS / "a", enabled=False)
    write_run(RUNS / "b", enabled=False)
    assert cli("sync").out == "MLflow has everything.\n"
    assert "tracking.uri=…" in cli("sync", "run=a", status=2).err
    assert cli("sync", f"tracking.uri={here}").out == "MLflow has everything.\n"
    assert cli("sync", "run=a", f"tracking.uri={here}").out.startswith("outputs/runs/a: delivered 14 entries\n")
    assert held(folder, here, tmp_path / "fetched") == expected(folder)


def test_running_and_dead_runs_are_delivered(cli: Cli, here: str, tmp_path: Path):
    """The events so far of a running one; a dead one is marked as killed."""
    alive, died = write_run(RUNS / "a", end=False), write_run(RUNS / "b", end=False)
    write_sweep("s")
    (SWEEPS / "s" / "journal.jsonl").write_text(
        (SWEEPS / "s" / "journal.jsonl").read_text().splitlines(keepends=True)[0]
    )
    with open(lock(alive)):
        cli("sync")
    found = [held(folder, here, tmp_path / "fetched") for folder in (alive, died, SWEEPS / "s")]
    assert [run["status"] for run in found] == ["RUNNING", "KILLED", "KILLED"]
    assert json.loads((died / "result.json").read_text())["status"] == "killed"


def test_a_moved_output_folder_keeps_its_store(cli: Cli, tmp_path: Path):
    """Its runs are delivered to the store that moved with it; delivered events are not repeated."""
    write_run(RUNS / "a")
    Delivery(RUNS / "a").pending()
    Path("outputs").rename("archive")
    folder = write_run(Path("archive/runs/b"))
    done = cli("sync", "outputs=archive")
    assert done.out.splitlines()[0] == "archive/runs/b: delivered 14 entries"
    uri = f"sqlite:///{Path('archive/mlflow.db').resolve()}"
    assert held(folder, uri, tmp_path / "fetched") | {"artifacts": {}} == expected(folder) | {"artifacts": {}}
    assert not Path("outputs/mlflow.db").exists()


def test_an_empty_folder_has_nothing_to_deliver(cli: Cli):
    """Nothing is created."""
    assert "There are no runs in outputs" in cli("sync").out
    assert not list(Path().iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_sweep_is_delivered(cli: Cli, home_data: list[str], here: str, tmp_path: Path, number: int):
    """The sweep and its current job are marked as killed, the previous job has finished; likewise after Ctrl-C."""
    sweep = start("-m", "seed=0,1", "model=linear", "data.limit=300", "training.epochs=200", *home_data)
    deadline = time.monotonic() + 120 * PATIENCE
    while not any(len(read(file.parent)) > 20 for file in SWEEPS.glob("*/seed-1/journal.jsonl")):
        assert sweep.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    sweep.send_signal(number)
    sweep.communicate(timeout=60 * PATIENCE)
    [directory] = SWEEPS.glob("*")
    folders = [directory, directory / "seed-0", directory / "seed-1"]
    cli("runs")
    while any(Delivery(folder).missing() or not isinstance(read(folder)[-1], EndEvent) for folder in folders):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    found = [held(folder, here, tmp_path / "fetched") for folder in folders]
    assert found == [expected(folder) for folder in folders]
    assert [run["status"] for run in found] == ["KILLED", "FINISHED", "KILLED"]
    status = json.loads((folders[2] / "result.json").read_text())["status"]
    assert status == ("killed" if number == signal.SIGKILL else "interrupted")


def test_an_invalid_store_is_refused(cli: Cli):
    """Nothing is delivered."""
    write_run(RUNS / "a")
    assert "tracking.uri=xx: " in cli("sync", "tracking.uri=xx", status=2).err
