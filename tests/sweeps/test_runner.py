"""Workers that die: only jobs that they had begun are charged."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, cast

import pytest
from omegaconf import OmegaConf
from support.journals import write_run

from mnist_exp.commands.sweep import describe_failures
from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.runs.journal import read
from mnist_exp.sweeps import launchers, runner
from mnist_exp.sweeps.grid import Grid
from mnist_exp.sweeps.leaderboard import Outcome
from mnist_exp.sweeps.worker import Plan, PlannedJob, note_start

REQUEST, GRID = Request("train"), Grid((), (), ())


def plan(tmp_path: Path, jobs: int) -> Plan:
    config = cast(TrainConfig, None)
    planned = tuple(PlannedJob(f"job-{number}", REQUEST, config, f"{number:016d}" * 4) for number in range(jobs))
    return Plan(tmp_path, planned, None, tmp_path, {})


def launcher(kills: Callable[[int, PlannedJob], bool]) -> Callable[..., Iterator[list[Any]]]:
    """A launcher with two workers, which are lost together with all jobs if one of theirs is killed."""
    rounds = []

    def launch(request: Request, directory: Path, jobs: int, function: Any, at_once: int | None) -> Any:
        rounds.append(directory)
        [planned] = function.args
        for job in planned.jobs[:2]:
            note_start(directory, job)
        if any(kills(len(rounds), job) for job in planned.jobs[:2]):
            raise RuntimeError("a worker process was terminated")
        yield [Outcome(job.name, (), "finished", "") for job in planned.jobs]

    return launch


@pytest.fixture(autouse=True)
def no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "show_progress", lambda *_: nullcontext())


def test_killed_workers_do_not_fail_jobs_that_never_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two are killed, twice, while they import TensorFlow."""
    monkeypatch.setattr(runner, "launch", launcher(lambda number, job: number <= 2))
    jobs = plan(tmp_path, 12)
    ended = runner.run_jobs(jobs, REQUEST, GRID, jobs.jobs)
    assert [ended[job].status for job in jobs.jobs] == ["finished"] * 12
    assert not list(tmp_path.glob("*.starts"))


def test_a_job_that_kills_its_worker_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """After its second try."""
    monkeypatch.setattr(runner, "launch", launcher(lambda number, job: job.name == "job-1"))
    jobs = plan(tmp_path, 5)
    ended = runner.run_jobs(jobs, REQUEST, GRID, jobs.jobs)
    assert {job.name for job in jobs.jobs if ended[job].status != "finished"} == {"job-1"}
    assert "terminated" in ended[jobs.jobs[1]].reason


def test_a_launcher_that_starts_nothing_ends_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With its error for each job, printed once."""

    def launch(*_: Any) -> Any:
        raise RuntimeError("no queue")
        yield

    monkeypatch.setattr(runner, "launch", launch)
    jobs = plan(tmp_path, 3)
    ended = runner.run_jobs(jobs, REQUEST, GRID, jobs.jobs)
    said = describe_failures(list(ended.values()), 3)
    assert said.count("no queue") == 1
    assert "job-0 and 2 more" in said


@pytest.mark.parametrize(("workers", "warnings"), [(3, 1), (2, 0), (-1, 0), (None, 0)])
def test_more_joblib_workers_than_cores_are_warned_about(
    monkeypatch: pytest.MonkeyPatch, workers: int | None, warnings: int
):
    """They would only take memory."""
    target = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
    launcher = {"_target_": target, "n_jobs": workers}
    master = OmegaConf.create(
        {"hydra": {"launcher": launcher, "runtime": {"choices": {"hydra/launcher": "joblib"}}}}
    )
    said: list[str] = []
    monkeypatch.setattr(launchers, "_composed_launcher", lambda _: nullcontext((None, master)))
    monkeypatch.setattr(launchers, "available_cores", lambda: 2)
    monkeypatch.setattr(launchers, "warn", said.append)
    launchers.refuse_unusable(REQUEST, launcher)
    assert len(said) == warnings
    assert all("n_jobs=3" in text for text in said)


def test_a_stale_ray_address_is_reported_at_once(monkeypatch: pytest.MonkeyPatch):
    """Ray would try for minutes."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        stale = f"127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", stale)
    assert launchers._ray_address({"address": None}) == stale
    assert launchers._ray_address({"address": "auto"}) == stale
    assert launchers._ray_address({"address": "local"}) is None
    begun = time.monotonic()
    with pytest.raises(OSError, match="refused"):
        launchers._connect(f"ray://{stale}")
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n"])
def test_an_address_without_ray_is_reported(monkeypatch: pytest.MonkeyPatch, answer: bytes):
    """The process that listens there never answers, or it is not a cluster."""
    monkeypatch.setattr(launchers, "_RAY_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as other:

        def serve() -> None:
            connection, _ = other.accept()
            with connection, suppress(ConnectionError):
                connection.sendall(answer)
                connection.recv(100)  # what the client sends
                connection.recv(100)  # until the client gives up

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(OSError, match="not Ray" if answer else "timed out"):
            launchers._connect(f"127.0.0.1:{other.getsockname()[1]}")
        thread.join()


def test_a_server_of_rays_kind_is_accepted():
    """It speaks gRPC."""
    grpc = pytest.importorskip("grpc")
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    launchers._connect(f"127.0.0.1:{port}")
    server.stop(None).wait()


def test_a_sweep_can_keep_the_best_model_only(tmp_path: Path):
    """The other finished jobs lose their model files; only the best model is sent to the tracker."""
    outcomes = []
    for name, status, val in (("a", "finished", 0.8), ("b", "finished", 0.9), ("c", "failed", None)):
        run = write_run(tmp_path / name, enabled=False)
        lines = [line for line in (run / "journal.jsonl").read_text().splitlines() if '"model"' not in line]
        (run / "journal.jsonl").write_text("\n".join(lines) + "\n")
        for file in ("model.h5", "model.weights.h5", "architecture.yaml"):
            (run / file).write_bytes(b"x")
        outcomes.append(Outcome(name, (), status, "", val=val, path=run))
    config = compose_checked(Request("train", ("data=digits", "model=linear")), TrainConfig)[0]
    for _ in range(2):
        runner.keep_best_model(outcomes, config)
        models = {path.parent.name for path in tmp_path.glob("*/model.*")}
        assert models == {"b", "c"}
        assert len(list(tmp_path.glob("*/architecture.yaml"))) == 3
        sent = {name: sum(event.kind == "model" for event in read(tmp_path / name)) for name in "abc"}
        assert sent == {"a": 0, "b": 1, "c": 0}
