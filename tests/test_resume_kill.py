"""A run that is killed anywhere and resumed ends like an uninterrupted one."""

from __future__ import annotations

import csv
import io
import json
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
from support.cli import MNIST, PATIENCE, SMALL, Cli, soak, start

pytestmark = pytest.mark.slow

KILL_POINTS = Path(__file__).with_name("support") / "kill_points.py"

HOME_DATA = () if MNIST else ("data=digits",)
# Tiny, with dropout, augmentation and a schedule; checkpoints after every 20 steps.
TINY = (
    *SMALL, *HOME_DATA, "plots=all", "model=linear", "aug=rotate15", "training.epochs=3", "training.batch_size=8", "schedule=cosine",
    "optimizer.learning_rate=0.01", "training.checkpoint_seconds=1e-9",
    "model.layers=[{type: Dropout, rate: 0.2}, Flatten, {type: Dense, units: 10}, Softmax]",
)  # fmt: skip
# The batch-norm net with all that has state.
EVERYTHING = (
    "model=vgg_bn", "aug=rotate15", "data.limit=320", "training.epochs=8", "training.batch_size=8",
    "tracking=local", "schedule=reduce_on_plateau", "schedule.plateau={factor: 0.3, patience: 1, min_delta: 0.2}",
    "optimizer.learning_rate=0.003", "training.ema=0.9", "training.early_stopping={patience: 3, min_delta: 0.1}",
    "training.checkpoint_seconds=1e-9", "device.precision=float32",  # the same epochs on every processor
)  # fmt: skip

# Where, and at which time of being there: in the middle of the run.
CHOSEN = {
    "while a checkpoint is written": 5,
    "between its flush and its rename": 3,
    "when it has its name": 4,
    "while an old one is removed": 2,
    "inside an epoch": 4,
    "at an epoch's end": 1,
    "between checkpoint and journal": 2,
    "while the history is written": 1,
    "between history and journal": 2,
    "within a line of the journal": 2,
    "between journal and the next epoch": 1,
    "while models are saved": 1,
    "while a model is saved": 1,
    "during the final evaluation": 1,
    "between evaluation and journal": 1,
    "during plots": 1,
    "between the final result and the journal": 1,
    "after the end's line": 1,
}
# The run has finished, so there is nothing to resume. Its checkpoint and lock file remain, and its journal may lack the end.
AFTER_THE_RESULT = ("between the final result and the journal", "after the end's line")
# Those that are always tested; `make soak` tests all.
SAMPLE = ("while a checkpoint is written", "when it has its name", "between checkpoint and journal",
          "within a line of the journal", "while a model is saved", "between evaluation and journal")  # fmt: skip


def kill_at(place: str, count: int, *words: str) -> None:
    """Run a command line until it kills itself at a chosen point."""
    done = subprocess.run(
        [sys.executable, str(KILL_POINTS), place, str(count), *words],
        capture_output=True,
        text=True,
        timeout=120 * PATIENCE,
    )
    assert done.returncode == -signal.SIGKILL, (done.returncode, done.stdout, done.stderr)


def the_run() -> Path:
    [run] = Path("outputs/runs").iterdir()
    return run


def ended(run: Path) -> dict[str, Any]:
    """Return everything of a finished run that must be the same."""
    result = json.loads((run / "result.json").read_text())
    with (run / "history.csv").open() as file:
        history = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
    lines = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    assert result["status"] == "finished"
    assert lines[-1] == {"kind": "end", "time": lines[-1]["time"], "status": "FINISHED"}
    metrics = [
        (line["step"], name, None if name.startswith("time/") else value)
        for line in lines
        if line["kind"] == "metrics"
        for name, value in line["values"].items()
    ]
    assert len(set(metrics)) == len(metrics)
    notes = [line["text"] for line in lines if line["kind"] == "note"]
    assert notes.count(notes[0]) == 1  # the architecture card; the description at the end may be repeated
    return {
        **{key: result[key] for key in ("weights_sha256", "fingerprint", "best", "test", "epochs")},
        "history": history,
        "metrics": metrics,
        "once": {kind: sum(line["kind"] == kind for line in lines) for kind in ("run", "params", "dataset", "model")},
        "state": saved_arrays(run / "model.keras"),
    }  # fmt: skip


def leaves_nothing_behind(run: Path) -> None:
    """Assert that a run's directory has no checkpoint, no lock and no temporary file."""
    assert not (run / "checkpoint").exists()
    assert {path.name for path in run.rglob(".*")} <= {".delivery.lock"}


def saved_arrays(file: Path) -> dict[str, bytes]:
    """Return the weights of a `.keras` file and the state of its optimizer, by name."""
    state: dict[str, bytes] = {}
    with zipfile.ZipFile(file) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as found:
        found.visititems(
            lambda name, item: state.update({name: item[()].tobytes()}) if hasattr(item, "shape") else None
        )
    assert {name.split("/")[0] for name in state} == {"layers", "optimizer"}
    return state


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the end of the tiny run without a kill."""
    return undisturbed(tmp_path_factory.mktemp("straight"), *TINY)


def undisturbed(folder: Path, *words: str) -> dict[str, Any]:
    subprocess.run(
        [sys.executable, "-m", "mnist_exp", *words],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=200 * PATIENCE,
    )
    [run] = (folder / "outputs" / "runs").iterdir()
    leaves_nothing_behind(run)
    return ended(run)


@pytest.mark.parametrize("place", [place if place in SAMPLE else soak(place) for place in CHOSEN])
def test_a_killed_run_ends_as_an_uninterrupted_one(cli: Cli, straight: dict[str, Any], place: str):
    """Weights, optimizer, history, best epoch and test metrics are equal; each metric is delivered once."""
    kill_at(place, CHOSEN[place], *TINY)
    if place in AFTER_THE_RESULT:
        cli("sync")  # completes the journal
    else:
        assert cli("resume", "run=latest").run == the_run().resolve()
        leaves_nothing_behind(the_run())
    assert ended(the_run()) == straight


@pytest.mark.parametrize("share", [soak(0.2), 0.5, soak(0.8)])
def test_it_does_so_when_killed_at_any_instant(cli: Cli, straight: dict[str, Any], share: float):
    """The kill comes at random between its start and its end."""
    process = start(*TINY)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("device"):
            break
    time.sleep(share * 3 * random.random())
    process.kill()
    process.communicate()
    if json.loads((the_run() / "result.json").read_text())["status"] != "finished":
        cli("resume", "run=latest")
        leaves_nothing_behind(the_run())
    assert ended(the_run()) == straight


@pytest.fixture(scope="module")
def straight_everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the end of the run with all features, and what MLflow shows of it."""
    folder = tmp_path_factory.mktemp("everything")
    end = undisturbed(folder, *EVERYTHING)
    assert end["epochs"] < 8  # stopped early
    assert len({row["learning_rate"] for row in end["history"]}) > 2
    return end, in_mlflow(folder / "outputs")


def in_mlflow(outputs: Path) -> dict[str, Any]:
    """Return the status, parameters and metric histories (except times) of the only MLflow run."""
    code = (
        "import json, mlflow, sys\n"
        "client = mlflow.MlflowClient(sys.argv[1])\n"
        "[run] = client.search_runs([client.get_experiment_by_name('mnist-exp').experiment_id])\n"
        "metrics = {name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]\n"
        "           for name in run.data.metrics if not name.startswith('time/')}\n"
        "times = [m.step for m in client.get_metric_history(run.info.run_id, 'time/epoch')]\n"
        "params = {key: value for key, value in run.data.params.items()}\n"
        "models = len(client.search_logged_models([run.info.experiment_id]))\n"
        "print(json.dumps([run.info.status, params, metrics, times, models]))\n"
    )
    uri = f"sqlite:///{(outputs / 'mlflow.db').resolve()}"
    done = subprocess.run(
        [sys.executable, "-c", code, uri], capture_output=True, text=True, check=True, timeout=60 * PATIENCE
    )
    found = dict(zip(("status", "params", "metrics", "times", "models"), json.loads(done.stdout), strict=True))
    assert found["status"] == "FINISHED"
    assert found["models"] == 1
    return found


@pytest.mark.mnist
@pytest.mark.parametrize(
    "places",
    [
        [("inside an epoch", 3)],
        soak(
            [("inside an epoch", 5), ("while a checkpoint is written", 4), ("between checkpoint and journal", 1)]
        ),
        soak([("at an epoch's end", 2), ("while models are saved", 1), ("during plots", 1)]),
    ],
    ids=["once", "thrice", "thrice, late"],
)
def test_a_run_with_everything_is_killed_and_resumed(
    cli: Cli,
    straight_everything: tuple[dict[str, Any], dict[str, Any]],
    places: list[tuple[str, int]],
    use: Callable[[str], None],
):
    """It has batch norm, dropout, augmentation, early stopping, plateau and EMA; MLflow shows the same."""
    words = EVERYTHING
    for place, count in places:
        kill_at(place, count, *words)
        words = ("resume", "run=latest")
    done = cli(*words)
    assert len(done.result["resumed"]) == len(places)
    use(done.result["data"]["name"])
    leaves_nothing_behind(the_run())
    assert (ended(the_run()), in_mlflow(Path("outputs"))) == straight_everything
