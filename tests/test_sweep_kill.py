"""Sweeps that are killed, or whose workers are, end like uninterrupted ones, with every launcher."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from support.cli import PATIENCE, soak, start
from support.journals import free_port

pytestmark = pytest.mark.slow

EPOCHS = 3
TINY = ("data.limit=600", f"training.epochs={EPOCHS}", "aug=rotate15", "device.threads=1", "plots=false")
GRID = ("model=linear,mlp", "seed=range(6)")
RAY = str(Path(sys.executable).with_name("ray"))  # of this environment, which need not be the active one
# By name: the words that choose a launcher with two workers.
LAUNCHERS = {
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "submitit_local": ("hydra/launcher=submitit_local", "hydra.sweeper.max_batch_size=2"),
    "ray": ("hydra/launcher=ray",),
}


def results(sweep: Path) -> dict[str, dict[str, Any]]:
    """Return the jobs' `result.json`, by name."""
    return {file.parent.name: json.loads(file.read_text()) for file in sorted(sweep.glob("*/result.json"))}


def the_sweep() -> Path:
    [sweep] = Path("outputs/sweeps").iterdir()
    return sweep


def weights(sweep: Path) -> dict[str, str]:
    return {name: result["weights_sha256"] for name, result in results(sweep).items()}


def epochs_trained(sweep: Path) -> int:
    """Count epochs in the jobs' logs, which resumed jobs continue."""
    return sum(len(re.findall(r" epoch +\d+/\d+ ", log.read_text())) for log in sweep.glob("*/run.log"))


# Runs the command lines that it reads, one after the other.
ONE_BY_ONE = "import sys; from mnist_exp.cli import main; [main(line.split()) for line in sys.stdin]"
_ALONE: dict[str, str] = {}


@pytest.fixture
def alone(home_data: list[str]) -> dict[str, str]:
    """The weights of the grid's jobs when each is run alone; found once.

    In a process of its own, as all here: TensorFlow takes one number of threads per process.
    """
    if not _ALONE:
        jobs = [f"model={model} seed={seed}" for model in ("linear", "mlp") for seed in range(6)]
        common = " ".join((*TINY, *home_data, "tracking=none", "outputs=alone"))
        lines = "\n".join(f"{common} {job}" for job in jobs)
        subprocess.run(
            [sys.executable, "-c", ONE_BY_ONE],
            input=lines,
            text=True,
            check=True,
            capture_output=True,
            timeout=300 * PATIENCE,
        )
        for file in Path("alone/runs").glob("*/result.json"):
            result = json.loads(file.read_text())
            given = dict(text.split("=", 1) for text in result["overrides"])
            _ALONE[f"model-{given['model']}_seed-{given['seed']}"] = result["weights_sha256"]
    assert len(_ALONE) == 12
    return _ALONE


@pytest.fixture
def short() -> Iterator[Path]:
    """Return a folder with a short name, as socket paths may have at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextmanager
def ray_cluster(folder: Path) -> Iterator[None]:
    """Start a cluster that requires a token, as docs/sweeps.md does; ends its processes afterwards."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    token = folder / ".ray/auth_token"  # where Ray writes it if `folder` is the home
    here = {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    generate = [RAY, "get-auth-token", "--generate"]
    subprocess.run(generate, env=os.environ | {"HOME": str(folder)}, check=True, capture_output=True)
    process = subprocess.Popen(
        [RAY, "start", "--head", "--block", "--num-cpus=2", "--include-dashboard=false", f"--port={port}",
         "--node-ip-address=127.0.0.1", f"--temp-dir={folder}", "--disable-usage-stats"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=os.environ | here,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as environment:
        for name, value in here.items():
            environment.setenv(name, value)
        try:
            deadline = time.monotonic() + 90
            while subprocess.run([RAY, "health-check", f"--address={address}"], capture_output=True).returncode:
                assert time.monotonic() < deadline, "the cluster does not answer"
                time.sleep(1)
            yield
        finally:
            process.terminate()
            try:
                process.wait(40)
            finally:
                with suppress(ProcessLookupError):  # nothing is left of what it began
                    os.killpg(process.pid, signal.SIGKILL)


def finish(*words: str) -> str:
    """Run a command line in its own process to its end. Returns its output."""
    done = subprocess.run(
        [sys.executable, "-m", "mnist_exp", *words], capture_output=True, text=True, timeout=400 * PATIENCE
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


@contextmanager
def engine(name: str, folder: Path) -> Iterator[tuple[str, ...]]:
    """Return what a launcher needs in addition to its overrides."""
    if name == "ray":
        with ray_cluster(folder):
            yield LAUNCHERS[name]
    else:
        yield LAUNCHERS[name]


@pytest.mark.parametrize("times", [2, soak(5)])
def test_a_sweep_that_is_killed_again_and_again(home_data: list[str], alone: dict[str, str], times: int):
    """It ends with twelve finished children, the weights of single runs, and no repeated training."""
    chance = random.Random(0)
    words = ("-m", *TINY, *GRID, *home_data)
    kills = 0
    while kills < times:
        process = start(*words)
        target = kills * 2 + 1  # jobs that have begun: each start gets a little further
        deadline = time.monotonic() + 120 * PATIENCE
        while len(list(Path("outputs/sweeps").glob("*/*/result.json"))) < target:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 3))
        assert process.poll() is None, process.communicate()
        process.kill()
        process.communicate()
        kills += 1
    finish(*words)
    sweep = the_sweep()
    assert weights(sweep) == alone
    # A kill may come between an epoch's checkpoint and its line in the log.
    assert 12 * EPOCHS - kills <= epochs_trained(sweep) <= 12 * EPOCHS + kills
    before = epochs_trained(sweep)
    began = time.monotonic()
    other = (f"++training.epochs={EPOCHS}", "device.threads=1", "aug='rotate15'", "data.limit=600", "plots=false")
    told = finish("-m", "seed=5,4,3,2,1,0", *other, "model=mlp,linear", *home_data)
    assert "12 finished, 0 to resume, 0 to start" in told
    assert epochs_trained(sweep) == before
    assert time.monotonic() - began < 60

    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{Path('outputs/mlflow.db').resolve()}")
    [experiment] = client.search_experiments(filter_string="name = 'mnist-exp'")
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    [parent] = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(runs) == 13
    assert len(children) == 12
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_missing_cluster_is_reported(home_data: list[str]):
    """Nothing is created."""
    words = ("-m", *TINY, *home_data, "seed=0,1", "hydra/launcher=ray")
    done = subprocess.run(
        [sys.executable, "-m", "mnist_exp", *words], capture_output=True, text=True, timeout=120 * PATIENCE,
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
    )  # fmt: skip
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "hydra/launcher=ray: no Ray cluster at address auto: " in done.stderr
    assert not Path("outputs").exists()


def test_sigterm_while_ray_starts_ends_the_sweep():
    """Ray's own handler would end it with status 15."""
    process = start("-m", *TINY, "data=digits", "model=linear", "seed=0,1", "hydra/launcher=ray_local")
    sessions = Path(tempfile.gettempdir(), "ray")
    while not list(sessions.glob(f"session_*_{process.pid}")):
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(0.5)
    process.terminate()
    _, err = process.communicate(timeout=120 * PATIENCE)
    assert process.returncode == 143, err


def test_sigterm_is_seen_though_the_error_of_rays_handler_is_lost():
    """As it is if the signal arrives while Python calls a function that was registered for forks."""
    program = """
import os, signal, sys
from mnist_exp.__main__ import main

def send():
    if getattr(signal.getsignal(signal.SIGTERM), "__module__", "").startswith("ray."):
        print("sent", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGTERM)

os.register_at_fork(after_in_parent=send)
sys.exit(main())
"""
    words = ("-m", *TINY, "data=digits", "model=linear", "seed=0,1", "hydra/launcher=ray_local")
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=120 * PATIENCE
    )
    assert "sent\n" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 143, done.stderr


@pytest.mark.parametrize("name", ["joblib", soak("submitit_local"), soak("ray")])
def test_every_launcher_gives_the_same_weights(
    home_data: list[str], alone: dict[str, str], short: Path, name: str
):
    """They are those of single runs; a second start trains nothing."""
    with engine(name, short) as words:
        for told in ("12 of 12 jobs done", "12 finished"):
            assert told in finish("-m", *words, *TINY, *GRID, *home_data, "tracking=none")
            assert weights(the_sweep()) == alone
    assert epochs_trained(the_sweep()) == 12 * EPOCHS


class Killer(Thread):
    """Kills the process of a job, whose id is in the job's `result.json`, a number of times."""

    def __init__(self, job: str, times: int) -> None:
        super().__init__(daemon=True)
        self._job, self._times = job, times
        self.killed: set[int] = set()
        self.over = Event()

    def run(self) -> None:
        while len(self.killed) < self._times and not self.over.wait(0.05):
            for file in Path("outputs/sweeps").glob(f"*/{self._job}/result.json"):
                try:
                    result = json.loads(file.read_text())
                except ValueError:
                    continue
                if result["status"] == "running" and result["pid"] not in self.killed and result["epochs"] >= 1:
                    self.killed.add(result["pid"])
                    os.kill(result["pid"], signal.SIGKILL)


# One job of four raises, another's worker is killed.
FOUR = ("model=mlp", "optimizer.learning_rate=1e38,0.001", "seed=0,1", "data.limit=3000", "training.epochs=8",
        "training.batch_size=4", "device.threads=1", "tracking=none", "plots=false")  # fmt: skip
VICTIM = "learning_rate-0.001_seed-1"


@pytest.mark.parametrize("name", ["joblib", soak("submitit_local"), soak("ray")])
def test_a_worker_that_dies_costs_a_job_its_place_not_its_work(home_data: list[str], short: Path, name: str):
    """The job is resumed and finishes; a job that raises is reported; the others finish."""
    with engine(name, short) as words:
        done, killer = sweep_with_a_killer(1, *words, *FOUR, *home_data)
        assert done.returncode == 1, (done.stdout, done.stderr)
        assert len(killer.killed) == 1
        assert "2 of 4 jobs failed" in done.stderr
        assert re.search(r"1e\+38_seed-\d and 1 more: the loss is no longer a number", done.stderr)
        found = results(the_sweep())
        assert {name: result["status"] for name, result in found.items()} == {
            "learning_rate-1e+38_seed-0": "failed", "learning_rate-1e+38_seed-1": "failed",
            "learning_rate-0.001_seed-0": "finished", VICTIM: "finished",
        }  # fmt: skip
        assert len(found[VICTIM]["resumed"]) == 1


@pytest.mark.parametrize("name", ["joblib", soak("submitit_local"), soak("ray")])
def test_a_job_whose_workers_die_is_resumed_by_the_next_start(home_data: list[str], short: Path, name: str):
    """The other jobs finish first."""
    grid = [word for word in FOUR if not word.startswith("optimizer")]
    with engine(name, short) as words:
        done, killer = sweep_with_a_killer(2, *words, *grid, *home_data, job="seed-1")
        assert done.returncode == 1, (done.stdout, done.stderr)
        assert len(killer.killed) == 2
        assert "1 of 2 jobs failed\n  seed-1: its worker died 2 times" in done.stderr
        told = finish("-m", *words, *grid, *home_data)
    assert "1 finished, 1 to resume, 0 to start" in told
    found = results(the_sweep())
    assert {(result["status"], result["epochs"]) for result in found.values()} == {("finished", 8)}
    # A launcher may have taken the other job down with it, once.
    assert epochs_trained(the_sweep()) <= 16 + 4


def sweep_with_a_killer(
    times: int, *words: str, job: str = VICTIM
) -> tuple[subprocess.CompletedProcess[str], Killer]:
    """Run a sweep in its own process while another thread kills a job's worker."""
    killer = Killer(job, times)
    killer.start()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mnist_exp", "-m", *words],
            capture_output=True,
            text=True,
            timeout=400 * PATIENCE,
        )
    finally:
        killer.over.set()
        killer.join()
    assert "Traceback" not in done.stdout + done.stderr
    return done, killer


def running_job(sweep: Path, job: str, *, other_than: int = 0) -> int:
    """Wait until a job trains and has a checkpoint, in another process than a given one. Returns its process id."""
    deadline = time.monotonic() + 90 * PATIENCE
    while time.monotonic() < deadline:
        with suppress(OSError, ValueError):
            result = json.loads((sweep / job / "result.json").read_text())
            if result["status"] == "running" and result["epochs"] >= 1 and result["pid"] != other_than:
                return int(result["pid"])
        time.sleep(0.05)
    raise AssertionError(f"{job} does not train")


def test_a_preempted_job_is_queued_again_and_a_terminated_sweep_leaves_no_workers(home_data: list[str]):
    """The job resumes in a new worker. The next start of the sweep resumes all jobs, and ends like the others."""
    grid = [word for word in FOUR if not word.startswith("optimizer")]
    words = ("-m", *LAUNCHERS["submitit_local"], *grid, *home_data, "sweep.name=s")
    sweep = Path("outputs/sweeps/s")
    process = start(*words)
    first = running_job(sweep, "seed-1")
    os.kill(first, signal.SIGUSR2)
    second = running_job(sweep, "seed-1", other_than=first)
    assert len(results(sweep)["seed-1"]["resumed"]) == 1
    process.terminate()
    out, err = process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM, (out, err)
    assert "seed-1  preempted, queued again" in out
    assert "interrupted; run the same command again" in out
    assert not Path(f"/proc/{second}").exists()
    assert {result["status"] for result in results(sweep).values()} <= {"finished", "killed"}
    assert "2 of 2 jobs done" in finish(*words)
