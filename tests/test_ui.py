"""`mnist-exp ui`, seen through a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import PATIENCE, Cli, start

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def start_ui(*words: str) -> tuple[subprocess.Popen[str], str]:
    """Start the UI; returns the process and the printed address."""
    ui = start("ui", "open=false", *words)
    assert ui.stdout is not None
    for line in ui.stdout:
        if line.startswith("http"):
            return ui, line.strip()
    raise AssertionError(ui.communicate())


def end(ui: subprocess.Popen[str]) -> None:
    """Press Ctrl-C and wait."""
    if ui.returncode is None:
        ui.send_signal(signal.SIGINT)
        ui.communicate(timeout=30 * PATIENCE)


@pytest.fixture
def served(cli: Cli, home_data: list[str]) -> Iterator[tuple[str, str, subprocess.Popen[str]]]:
    """Yield a run's name, and the address and process of a UI that shows it."""
    done = cli("debug=one_batch", "model=linear", *home_data, "tracking=local")
    ui, address = start_ui()
    yield done.result["name"], address, ui
    end(ui)


def test_modules_in_the_users_folder_are_not_executed(cli: Cli, home_data: list[str]):
    """Neither the server nor its worker imports them."""
    cli("debug=one_batch", "model=linear", *home_data, "tracking=local")
    Path("mlflow.py").write_text("open('executed', 'w')")
    ui, address = start_ui()
    assert "#/experiments/" in address
    end(ui)
    assert not Path("executed").exists()


def page(address: str, profile: Path) -> str:
    """Return a page after a browser has run its scripts."""
    assert CHROMIUM, "this test needs Debian's chromium"
    return subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", f"--user-data-dir={profile}", "--window-size=1440,900",
         "--virtual-time-budget=30000", "--dump-dom", address],
        capture_output=True, text=True, timeout=120 * PATIENCE, check=True,
    ).stdout  # fmt: skip


def test_the_ui_opens_at_the_runs(served: tuple[str, str, subprocess.Popen[str]], tmp_path: Path):
    """The table shows the run's name; Ctrl-C ends the server with all its processes."""
    name, address, ui = served
    assert name in page(address, tmp_path / "profile")
    base = address.split("/#")[0]
    end(ui)
    assert ui.returncode == 0
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{base}/health", timeout=2)


def test_a_fresh_browser_shows_the_results(cli: Cli):
    """Without a click: the accuracies, the model, the augmentation, the swept values and the seconds, best first."""
    done = cli("-m", "data=digits", "model=linear", "data.limit=300", "training.epochs=1", "seed=11,12")
    ui, address = start_ui()
    shown = page(address, Path("profile"))
    end(ui)
    for column in ("test/accuracy", "best/val/accuracy", "model.name", "aug.name", "seed", "time/total"):
        assert f">{column}<" in shown
    results = [json.loads(file.read_text()) for file in Path("outputs/sweeps").glob("*/*/result.json")]
    places = [shown.index(f">{result['name']}<") for result in sorted(results, key=_validation, reverse=True)]
    assert places == sorted(places)
    for value in (">linear<", ">none<", ">11<", ">12<"):
        assert value in shown
    assert len(results) == 2, done.out


def _validation(result: dict[str, Any]) -> float:
    return float(result["best"]["val/accuracy"])


def test_a_runs_pictures_are_shown(served: tuple[str, str, subprocess.Popen[str]], tmp_path: Path):
    """The served accuracy plot is the run's file."""
    import mlflow

    name, address, _ = served
    mlflow.set_tracking_uri(f"sqlite:///{Path('outputs/mlflow.db').resolve()}")
    [run] = mlflow.search_runs(experiment_names=["mnist-exp"], output_format="list")
    experiment = re.search(r"/experiments/(\d+)/", address)
    assert experiment
    base = address.split("/#")[0]
    with urllib.request.urlopen(
        f"{base}/get-artifact?path=plots/accuracy.png&run_uuid={run.info.run_id}", timeout=30 * PATIENCE
    ) as answer:
        served_picture = answer.read()
    assert served_picture == (Path("outputs/runs") / name / "plots" / "accuracy.png").read_bytes()
    shown = page(
        f"{base}/#/experiments/{experiment[1]}/runs/{run.info.run_id}/artifacts/plots/accuracy.png", tmp_path / "p"
    )
    assert "accuracy.png" in shown
    assert "<img" in shown


def test_a_port_in_use_is_reported(cli: Cli, home_data: list[str]):
    """This holds for a requested port; otherwise the next free port is used."""
    cli("debug=one_batch", "model=linear", *home_data, "tracking=local")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port={port}: " in cli("ui", f"port={port}", status=2).err


def test_an_unreachable_server_is_reported(cli: Cli):
    """The message has its address, and the exit status is 1."""
    done = cli("ui", "tracking=server", "tracking.uri=http://127.0.0.1:1", status=1)
    assert "http://127.0.0.1:1: no MLflow server is responding" in done.err


def test_the_environment_names_the_server(cli: Cli):
    """MLFLOW_TRACKING_URI is used, as by MLflow's own tools."""
    os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:2"
    try:
        assert "http://127.0.0.1:2: no MLflow server is responding" in cli("ui", status=1).err
    finally:
        del os.environ["MLFLOW_TRACKING_URI"]


def test_a_real_server_gets_everything(cli: Cli, home_data: list[str], tmp_path: Path):
    """It receives metrics once per epoch, pictures, and the model over HTTP."""
    import mlflow

    cli("debug=one_batch", "model=linear", *home_data, "tracking=local", f"outputs={tmp_path / 'there'}")
    ui, address = start_ui(f"outputs={tmp_path / 'there'}")
    try:
        base = address.split("/#")[0]
        words = ["model=linear", "data.limit=300", "training.epochs=3", "tracking=server", f"tracking.uri={base}"]
        done = cli(*words, *home_data, "tracking.experiment=over http")
        assert "warning: the tracker" not in done.out
        client = mlflow.MlflowClient(base)
        run = client.get_run(done.result["mlflow_run_id"])
        assert run.info.status == "FINISHED"
        assert [m.step for m in client.get_metric_history(run.info.run_id, "val/accuracy")] == [1, 2, 3]
        assert len(client.list_artifacts(run.info.run_id, "plots")) == 6
        assert len(client.search_logged_models([run.info.experiment_id])) == 1
        assert not Path("outputs/mlflow.db").exists()
    finally:
        end(ui)
