"""Training with a real MLflow server that dies, freezes, is missing, or comes back.

After `mnist-exp sync` it holds everything, once, with the original times: as if it had been well all the time.
"""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from support.cli import PATIENCE, start
from support.journals import expected, held, of_type, write_epoch, write_run
from support.servers import Server

from mnist_exp.runs.events import EndEvent, MetricsEvent
from mnist_exp.runs.journal import Journal, read
from mnist_exp.tracking.mlflow_upload import Delivery

pytestmark = pytest.mark.slow

EPOCHS = 120
TRAIN = (
    "model=linear",
    "data.limit=300",
    f"training.epochs={EPOCHS}",
    "tracking=server",
    "tracking.wait_seconds=6",
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture
def server(running: Server) -> Server:
    """Return the module's server in working order."""
    if running._process is None:
        running.start()
    return running


def train(uri: str, home_data: list[str], midway: Callable[[], None] | None = None) -> tuple[Path, str]:
    """Train, and return the directory and the output; `midway` is called once MLflow has a few epochs."""
    run = start(*TRAIN, *home_data, f"tracking.uri={uri}")
    if midway is not None:
        deadline = time.monotonic() + 60
        while not any(
            Delivery(file.parent).delivered().lines > 12 for file in Path().glob("outputs/*/*/journal.jsonl")
        ):
            assert run.poll() is None, run.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        midway()
    out, err = run.communicate(timeout=120 * PATIENCE)
    assert run.returncode == 0, err
    [folder] = Path().resolve().glob("outputs/runs/*")
    [end] = of_type(EndEvent, read(folder)[-1:])
    assert end.status == "FINISHED"
    return folder, out


def sync(*words: str, status: int = 0) -> str:
    process = start("sync", *words)
    out, err = process.communicate(timeout=120 * PATIENCE)
    assert process.returncode == status, err
    return out + err


def slowest(folder: Path) -> float:
    """Return the longest time between two epochs in the journal, in seconds."""
    times = [event.time for event in of_type(MetricsEvent, read(folder))][:EPOCHS]
    return max(after - before for before, after in pairwise(times)) / 1000


def waited(folder: Path) -> float:
    """Return the seconds from the end of a run's work to the end of its record."""
    return (folder / "result.json").stat().st_mtime - read(folder)[-1].time / 1000


def warnings_of_tracking(out: str) -> list[str]:
    """Return the warnings of a training, without those that its few validation images cause."""
    lines = [line for line in out.splitlines() if line.startswith("warning")]
    causes = ("the validation accuracy is based on", "the model is not clearly better")
    return [line for line in lines if not any(cause in line for cause in causes)]


def print_figures(what: str, folder: Path) -> None:
    print(f"\n{what}: slowest epoch {slowest(folder):.3f} s, waited {waited(folder):.1f} s at the end")


def test_a_working_server(server: Server, home_data: list[str], tmp_path: Path):
    """As a reference, everything is delivered during the run."""
    folder, out = train(server.uri, home_data)
    print_figures("well", folder)
    assert not warnings_of_tracking(out)
    assert held(folder, server.uri, tmp_path / "fetched") == expected(folder)
    assert sync() == "MLflow has everything.\n"


def test_a_server_that_is_killed_midway(server: Server, home_data: list[str], tmp_path: Path):
    """The run and `sync` report the failure; `sync` delivers when the server is back."""
    folder, out = train(server.uri, home_data, server.kill)
    print_figures("killed", folder)
    assert f"warning: not everything was delivered to the tracker: {server.uri}: Connection refused" in out
    assert "'mnist-exp sync' delivers it" in out
    assert f"not delivered: {server.uri}: Connection refused" in sync(status=1)
    server.start()
    sync()
    assert held(folder, server.uri, tmp_path / "fetched") == expected(folder)


def test_a_server_that_freezes_midway(server: Server, home_data: list[str], tmp_path: Path):
    """The run waits no longer than configured; late requests have no duplicate effect."""
    folder, out = train(server.uri, home_data, lambda: server.signal(signal.SIGSTOP))
    print_figures("frozen", folder)
    assert "warning: not everything was delivered to the tracker" in out
    assert waited(folder) < 6 + 4
    server.signal(signal.SIGCONT)
    sync()
    assert held(folder, server.uri, tmp_path / "fetched") == expected(folder)


def test_a_server_that_never_answers(home_data: list[str]):
    """A port accepts connections from the start but never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        folder, out = train(f"http://127.0.0.1:{silent.getsockname()[1]}", home_data)
    print_figures("silent", folder)
    assert "warning: not everything was delivered to the tracker" in out
    assert waited(folder) < 6 + 4


def test_a_server_that_comes_later_and_a_sync_that_is_killed(
    running: Server, home_data: list[str], tmp_path: Path
):
    """`sync` is killed at five points, then runs twice at once."""
    running.kill()
    folder, out = train(running.uri, home_data)
    print_figures("absent", folder)
    assert f"{running.uri}: Connection refused" in out
    running.start()
    count = len(read(folder))
    for lines in (1, 2, random.randrange(3, count - 20), count - 12, count - 3):
        process = start("sync")
        while Delivery(folder).delivered().lines < lines:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.kill()
        process.communicate()
    both = [start("sync"), start("sync")]
    assert [process.communicate(timeout=120 * PATIENCE) and process.returncode for process in both] == [0, 0]
    assert held(folder, running.uri, tmp_path / "fetched") == expected(folder)
    assert sync() == "MLflow has everything.\n"


def test_a_server_that_is_restarted_midway(server: Server, tmp_path: Path):
    """`sync` has nothing left to deliver."""
    folder = write_run(tmp_path / "run", server.uri, epochs=1, end=False)
    process = subprocess.Popen(
        [sys.executable, "-m", "mnist_exp.tracking.upload_loop", str(folder)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    lines = Journal(folder)
    for epoch in range(2, 32):
        write_epoch(lines, epoch)
        if epoch == 20:
            while Delivery(folder).delivered().lines < 10:
                time.sleep(0.01)
            server.kill()
            server.start()
    lines.write(EndEvent(status="FINISHED"))
    while Delivery(folder).missing():
        time.sleep(0.1)
        assert process.poll() is None
    _, err = process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 0, err
    assert held(folder, server.uri, tmp_path / "fetched") == expected(folder)


def test_a_sync_during_a_run(server: Server, home_data: list[str], tmp_path: Path):
    """Both deliver, and each event arrives once."""
    folder, _ = train(server.uri, home_data, sync)
    assert held(folder, server.uri, tmp_path / "fetched") == expected(folder)


@pytest.mark.soak  # minutes
def test_eight_runs_at_the_same_instant(home_data: list[str], tmp_path: Path):
    """They start on a fresh SQLite store; all finish and are delivered."""
    patient = f"tracking.wait_seconds={60 * PATIENCE}"  # eight uploaders share the machine with eight trainings
    runs = [start("model=linear", "data.limit=300", "training.epochs=1", patient, *home_data) for _ in range(8)]
    for run in runs:
        out, err = run.communicate(timeout=300 * PATIENCE)
        assert run.returncode == 0, err
        assert not warnings_of_tracking(out)
    folders = list(Path().resolve().glob("outputs/runs/*"))
    assert len(folders) == 8
    for folder in folders:
        uri = f"sqlite:///{Path('outputs/mlflow.db').resolve()}"
        assert held(folder, uri, tmp_path / "fetched") == expected(folder)
