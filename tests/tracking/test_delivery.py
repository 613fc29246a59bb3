"""The contents of MLflow after a run, read with MLflow's own client."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from support.cli import PATIENCE, Cli

from mnist_exp.runs.events import EndEvent, MetricsEvent, ParamsEvent, RunEvent, TagsEvent
from mnist_exp.runs.journal import Journal, flatten, read
from mnist_exp.tracking.known_stores import remember
from mnist_exp.tracking.mlflow_names import mlflow_name
from mnist_exp.tracking.mlflow_upload import Delivery

# Nested, so that MLflow is imported by the tests that need it only.
PATIENTLY = f"tracking.wait_seconds={60 * PATIENCE}"
QUICK = ("model=linear", "data.limit=300", "training.epochs=3", "tracking=local", PATIENTLY)


def mlflow_client(outputs: Path = Path("outputs")) -> Any:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{(outputs / 'mlflow.db').resolve()}")
    return mlflow.MlflowClient()


def runs(client: Any, experiment: str = "mnist-exp") -> list[Any]:
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def artifacts(client: Any, run_id: str, folder: str | None = None) -> set[str]:
    found = set()
    for item in client.list_artifacts(run_id, folder):
        found |= artifacts(client, run_id, item.path) if item.is_dir else {item.path}
    return found


@pytest.mark.slow
def test_mlflow_mirrors_the_run(cli: Cli, home_data: list[str], tmp_path: Path):
    """It has metrics, parameters, tags, data set, pictures, configs, card and model of a finished run."""
    done = cli(*QUICK, *home_data, "training.metrics=[SparseTopKCategoricalAccuracy]")
    client = mlflow_client()
    [run] = runs(client)
    assert run.info.status == "FINISHED"
    assert run.info.run_id == done.result["mlflow_run_id"]
    assert run.info.run_name == done.result["name"]

    for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "learning_rate", "time/epoch"):
        history = client.get_metric_history(run.info.run_id, name)
        assert [metric.step for metric in history] == [1, 2, 3], name
    assert run.data.metrics["best/val/accuracy"] == done.result["best"]["val/accuracy"]
    assert run.data.metrics["best/epoch"] == done.result["best"]["epoch"]
    assert run.data.metrics["test/accuracy"] == done.result["test"]["accuracy"]
    assert {"test/loss", "time/total", "time/training"} <= set(run.data.metrics)

    params = run.data.params
    assert params["model.name"] == "linear"
    assert params["optimizer.learning_rate"] == "0.001"
    assert params["data.limit"] == "300"
    assert params["training.metrics"] == '["SparseTopKCategoricalAccuracy"]'
    assert len(params) < 30

    tags = run.data.tags
    assert tags["fingerprint"] == done.result["fingerprint"]
    assert tags["data"] == done.result["data"]["name"]
    assert tags["data_sha256"] == done.result["data"]["sha256"]
    assert "model=linear" in tags["overrides"]
    assert tags["mlflow.source.name"] == "mnist-exp"
    assert "| total |  |  | 7,850 | 7,840 |" in tags["mlflow.note.content"]

    [dataset] = run.inputs.dataset_inputs
    assert dataset.dataset.name == done.result["data"]["name"]
    assert done.result["data"]["sha256"].startswith(dataset.dataset.digest)

    assert artifacts(client, run.info.run_id) == {
        "config.yaml", "architecture.md", "architecture.yaml", "history.csv", "result.json", "run.log",
        "plots/accuracy.png", "plots/loss.png", "plots/architecture.png", "plots/augmentation.png",
        "plots/confusion_matrix.png", "plots/misclassified.png",
    }  # fmt: skip
    assert done.run is not None
    for name in ("result.json", "run.log"):  # as they are in the end
        fetched = Path(client.download_artifacts(run.info.run_id, name, str(tmp_path)))
        assert fetched.read_bytes() == (done.run / name).read_bytes()
    assert [experiment.name for experiment in client.search_experiments() if runs(client, experiment.name)] == [
        "mnist-exp"
    ]
    assert {path.name for path in Path().iterdir()} == {"outputs"}


@pytest.mark.slow
def test_a_long_log_is_shortened_for_a_store_elsewhere(cli: Cli, home_data: list[str], tmp_path: Path):
    """It receives the beginning and the end, with a line on what is left out; the run's own file is whole."""
    import mlflow

    done = cli(*QUICK[:-2], *home_data, "tracking=none")
    assert done.run is not None
    with (done.run / "run.log").open("a") as log:
        log.writelines(f"line {number}\n" for number in range(300_000))
    whole = (done.run / "run.log").read_bytes()
    store = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    cli("sync", f"run={done.run}", f"tracking.uri={store}")
    client = mlflow.MlflowClient(store)
    fetched = client.download_artifacts(runs(client)[0].info.run_id, "run.log", str(tmp_path))
    text = Path(fetched).read_text(encoding="utf-8")
    assert len(text.encode()) < 2**20 + 200 < len(whole)
    assert text.startswith(whole[:1000].decode())
    assert text.endswith("line 299999\n")
    left = re.search(r"\n… ([\d,]+) bytes are left out here; run.log .*\n", text)
    assert left
    assert int(left[1].replace(",", "")) == len(whole) - len(text.replace(left[0], "\n").encode())
    assert (done.run / "run.log").read_bytes() == whole


@pytest.mark.slow
def test_the_logged_model_predicts(cli: Cli, home_data: list[str]):
    """It takes raw images through pyfunc and MLflow's Keras flavour; it has its run's name, metrics and data set."""
    import mlflow

    done = cli(*QUICK, *home_data)
    client = mlflow_client()
    [logged] = client.search_logged_models([runs(client)[0].info.experiment_id])
    assert logged.source_run_id == done.result["mlflow_run_id"]
    assert logged.name == done.result["name"]
    metrics = {metric.key: (metric.value, metric.dataset_name) for metric in logged.metrics}
    assert metrics["test/accuracy"] == (done.result["test"]["accuracy"], done.result["data"]["name"])
    assert "best/val/accuracy" in metrics
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1)).astype(np.float32)
    from mnist_exp.inference import scoring

    assert done.run is not None
    expected = scoring.predict(scoring.load(done.run / "model.keras"), images)
    served = mlflow.pyfunc.load_model(logged.model_uri)
    np.testing.assert_array_equal(served.predict(images[..., 0]), expected)
    np.testing.assert_array_equal(mlflow.keras.load_model(logged.model_uri).predict(images, verbose=0), expected)


@pytest.mark.slow
def test_tags_and_notes_of_the_user_arrive(cli: Cli, home_data: list[str]):
    """The note is above the description, and replaces an earlier one; `result.json` is updated, too."""
    done = cli(*QUICK, *home_data)
    assert done.run is not None
    cli("runs", "note", f"run={done.run}", "note=first")
    cli("runs", "note", f"run={done.run}", "note=lr > 0.1, 50 %")
    cli("runs", "tag", f"run={done.run}", "tags=[paper, a=b]")
    cli("sync", f"run={done.run}")  # on a busy machine, `runs` does not wait long enough
    client = mlflow_client()
    [run] = runs(client)
    assert run.info.status == "FINISHED"
    assert run.data.tags["tags"] == "paper, a=b"
    description = run.data.tags["mlflow.note.content"]
    assert description.startswith("lr > 0.1, 50 %\n\n**test accuracy ")
    assert "first" not in description
    fetched = Path(client.download_artifacts(run.info.run_id, "result.json"))
    assert json.loads(fetched.read_text())["note"] == "lr > 0.1, 50 %"


@pytest.mark.slow
def test_delivering_again_changes_nothing(cli: Cli, home_data: list[str]):
    """Repeating the delivery from any line gives the same run with one model."""
    from mnist_exp.tracking.delivered import Delivered

    done = cli(*QUICK, *home_data)
    assert done.run is not None
    client = mlflow_client()
    [before] = runs(client)
    for lines in range(1, len(read(done.run)), 4):
        Delivered(before.info.run_id, lines).write(done.run, "outputs")
        assert not Delivery(done.run).pending()
    for damaged in (None, "", "[1]", '{"lines"'):
        (done.run / "delivery.json").unlink()
        if damaged is not None:
            (done.run / "delivery.json").write_text(damaged)
        assert Delivery(done.run).run_id() == before.info.run_id
        assert not Delivery(done.run).pending()
    [after] = runs(client)
    assert after.data.metrics == before.data.metrics
    assert len(client.get_metric_history(after.info.run_id, "val/loss")) == 3
    assert len(client.search_logged_models([after.info.experiment_id])) == 1


@pytest.mark.slow
def test_a_server_that_is_not_there_stops_nothing(cli: Cli, home_data: list[str]):
    """The run finishes, reports what was not delivered, and keeps it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    words = [
        *QUICK[:-2],
        *home_data,
        "tracking=server",
        f"tracking.uri=http://127.0.0.1:{port}",
        f"tracking.wait_seconds={15 * PATIENCE}",
    ]
    done = cli(*words)
    assert done.run is not None
    assert done.result["status"] == "finished"
    assert done.result["mlflow_run_id"] is None
    assert "warning: not everything was delivered to the tracker: " in done.out
    assert "Connection refused" in done.out
    assert "journal.jsonl; 'mnist-exp sync' delivers it" in done.out
    assert isinstance(read(done.run)[-1], EndEvent)


@pytest.mark.slow
def test_a_killed_run_is_marked_in_mlflow(tmp_path: Path):
    """The uploader outlives the training process, delivers its events, and marks the end."""
    folder, uri = tmp_path / "run", f"sqlite:///{tmp_path / 'mlflow.db'}"
    folder.mkdir()
    journal = Journal(folder)
    journal.write(RunEvent(name="x", key="k", experiment="mnist-exp", tags={}, enabled=True, uri=uri))
    journal.write(MetricsEvent(step=1, values={"val/loss": 0.5}))
    remember(uri)
    sender = subprocess.run(
        [sys.executable, "-m", "mnist_exp.tracking.upload_loop", str(folder)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60 * PATIENCE, check=False,
    )  # fmt: skip
    assert sender.returncode == 0, sender.stderr
    [run] = runs(mlflow_client(tmp_path))
    assert run.info.status == "KILLED"
    assert run.data.metrics == {"val/loss": 0.5}


@pytest.mark.slow
def test_processes_that_start_on_a_fresh_store_all_arrive(tmp_path: Path):
    """MLflow's own migration would fail in all of them."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    remember(uri)
    senders = []
    for number in range(4):
        folder = tmp_path / str(number)
        folder.mkdir()
        journal = Journal(folder)
        name, key = f"run-{number}", str(number)
        journal.write(RunEvent(name=name, key=key, experiment="mnist-exp", tags={}, enabled=True, uri=uri))
        journal.write(EndEvent(status="FINISHED"))
        senders.append(
            subprocess.Popen(
                [sys.executable, "-m", "mnist_exp.tracking.upload_loop", str(folder)],
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for sender in senders:
        _, err = sender.communicate(timeout=120 * PATIENCE)
        assert sender.returncode == 0, err
    assert {run.info.run_name for run in runs(mlflow_client(tmp_path))} == {f"run-{n}" for n in range(4)}


def test_a_journal_has_whole_lines_only(tmp_path: Path):
    """A line that is still being written is not read."""
    journal = Journal(tmp_path)
    journal.write(MetricsEvent(step=1, values={"ä": 1.0}))
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'{"kind": "met')
    assert [event.kind for event in read(tmp_path)] == ["metrics"]
    # A process that continues does not write after an incomplete line.
    Journal(tmp_path).write(EndEvent(status="FINISHED"))
    assert [event.kind for event in read(tmp_path)] == ["metrics", "end"]


def test_parameters_have_dotted_names():
    """This includes lists of layers; short lists are one parameter."""
    values = {
        "a": {"b": 1, "c": None},
        "layers": ["Flatten", {"type": "Dense", "units": 3}],
        "shape": [28, 28],
        "t": "x",
    }
    assert flatten(values) == {
        "a.b": "1", "a.c": "null", "layers.0": "Flatten", "layers.1.type": "Dense", "layers.1.units": "3",
        "shape": "[28, 28]", "t": "x",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("variable", [None, "sqlite"])
def test_the_store_is_the_configured_one(cli: Cli, home_data: list[str], tmp_path: Path, variable: str | None):
    """MLFLOW_TRACKING_URI and tracking.uri name it; by default, it is in the output folder."""
    uri = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    if variable:
        os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        cli("debug=one_batch", "model=linear", *home_data, *([] if variable else [f"tracking.uri='{uri}'"]))
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    assert (tmp_path / "elsewhere.db").is_file()
    assert (tmp_path / "mlartifacts").is_dir()
    assert not Path("outputs/mlflow.db").exists()


@pytest.mark.slow
def test_artifacts_move_with_their_folder(cli: Cli, home_data: list[str]):
    """MLflow's absolute paths of runs, models and registered versions are updated."""
    from mnist_exp.tracking.store import connect, own_store_uri

    cli("debug=one_batch", "model=linear", *home_data)
    cli("export", "run=latest", "register=digits", "alias=champion")
    old = Path("outputs").resolve()
    moved = Path("outputs").rename("moved to 100%25?")
    client = connect(own_store_uri(moved))
    [run] = runs(client)
    assert {"config.yaml", "history.csv"} <= artifacts(client, run.info.run_id)
    [logged] = client.search_logged_models([run.info.experiment_id])
    version = client.get_model_version_by_alias("digits", "champion").version
    registered = client.get_model_version_download_uri("digits", version)
    for uri in (run.info.artifact_uri, logged.artifact_location, registered):
        assert uri.startswith(moved.resolve().as_uri())
    cli("visualize", "run=models:/digits@champion", f"outputs='{moved}'", "pictures=[filters]")
    assert any(name.startswith("plots/visualize/") for name in artifacts(client, run.info.run_id))
    assert not old.exists()


@pytest.mark.slow
def test_a_sweep_is_a_parent_with_its_jobs(cli: Cli, home_data: list[str]):
    """Four finished children have one finished parent with the leaderboard and its pictures."""
    done = cli("-m", "model=linear,pyramid", "seed=0,1", "data.limit=200", "training.epochs=1", *home_data)
    client = mlflow_client()
    everything = runs(client)
    [parent] = [run for run in everything if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in everything if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == 4
    assert {run.info.status for run in everything} == {"FINISHED"}
    assert {(run.data.params["model.name"], run.data.params["seed"]) for run in children} == {
        (model, seed) for model in ("linear", "pyramid") for seed in ("0", "1")
    }
    pictures = {"plots/jobs.png", "plots/parallel_coordinates.png"}
    assert artifacts(client, parent.info.run_id) == {"leaderboard.csv", *pictures}
    assert parent.data.params == {"model": "linear,pyramid", "seed": "0,1"}
    assert parent.data.tags["mlflow.note.content"].count("finished") == 4
    best = max(run.data.metrics["best/val/accuracy"] for run in children)
    assert parent.data.metrics["best/val/accuracy"] == best
    assert done.out.count(" * ") >= 1
    [sweep] = Path("outputs/sweeps").iterdir()
    table = list(csv.DictReader((sweep / "leaderboard.csv").read_text().splitlines()))
    assert list(table[0]) == ["model", "seed", "status", "epochs", "val", "test", "seconds"]
    assert {float(row["val"]) for row in table} == {run.data.metrics["best/val/accuracy"] for run in children}
    assert {path.name for path in sweep.iterdir() if path.is_dir()} - {"plots"} == {
        f"model-{model}_seed-{seed}" for model in ("linear", "pyramid") for seed in (0, 1)
    }
    for job in sweep.glob("*/result.json"):
        result = json.loads(job.read_text())
        assert result["status"] == "finished"
        assert result["mlflow_run_id"] in {run.info.run_id for run in children}
    assert not (sweep / ".lock").exists()


def test_a_run_does_not_end_before_its_start():
    """If the clock was set back meanwhile."""
    folder = Path("outputs/runs/a")
    folder.mkdir(parents=True)
    lines = Journal(folder)
    lines.write(
        RunEvent(name="a", key="a", experiment="x", tags={}, enabled=True, uri=None, parent=None, time=2000)
    )
    lines.close()
    delivery = Delivery(folder)
    client = delivery._client = MagicMock()
    client.get_run.return_value.info.start_time = 2000
    for time, ended in ((1000, 2000), (3000, 3000)):
        delivery._deliver_end("id", EndEvent(status="FINISHED", time=time))
        client.set_terminated.assert_called_with("id", "FINISHED", ended)


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("model.layers.0.filters", True), ("train/loss", True), ("training.class_weight.crème brûlée", True),
        ("training.class_weight.c++", False), ("a#b", False), ("a\\x1b[31m", False), ("x" * 300, False),
        ("", False), (".", False), ("../x", False), ("/x", False), ("a//b", False), ("a/", False), ("a/.", False),
    ],
)  # fmt: skip
def test_mlflow_accepts_every_name(name: str, accepted: bool):
    """Others than its own are changed; fails first when MLflow's rules change."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_param, _validate_tag

    cleaned = mlflow_name(name)
    assert (cleaned == name) == accepted
    assert (_validate_param(cleaned, "x").key, _validate_tag(cleaned, "x").key) == (cleaned, cleaned)
    if not accepted:
        with pytest.raises(MlflowException):
            _validate_param(name, "x")


def test_a_name_that_mlflow_refuses_blocks_nothing():
    """It is changed in parameters, metrics and tags; a second value of the same name is listed."""
    folder = Path("outputs/runs/a")
    folder.mkdir(parents=True)
    lines, values = Journal(folder), {"a#": "1", "a_": "2", "b": "3"}
    lines.write(RunEvent(name="a", key="a", experiment="x", tags=values, enabled=True))
    lines.write(ParamsEvent(values=values))
    lines.write(MetricsEvent(step=1, values={"c++": 1.0}))
    lines.write(TagsEvent(values={"c++": "1"}))
    lines.write(EndEvent(status="FINISHED", time=1))
    lines.close()
    delivery = Delivery(folder)
    client = delivery._client = MagicMock()
    client.search_runs.return_value = []
    client.create_run.return_value.info.run_id = "id"
    client.get_run.return_value.info.start_time = 1
    assert not delivery.pending()
    assert client.create_run.call_args[0][2] == {"a_": "1", "b": "3", "mnist_exp.key": "a"}
    batches = [call[1] for call in client.log_batch.call_args_list]
    assert [(param.key, param.value) for param in batches[0]["params"]] == [("a_", "1"), ("b", "3")]
    assert [metric.key for metric in batches[1]["metrics"]] == ["c__"]
    client.set_tag.assert_called_with("id", "c__", "1")
    client.set_terminated.assert_called_with("id", "FINISHED", 1)
    assert len(delivery.gone) == 2
    assert all("'a_'" in reason for reason in delivery.gone)


def disk_use(folder: Path) -> int:
    """Return the bytes that a folder takes on disk, counting files with several names once."""
    found = {
        (status.st_dev, status.st_ino): status.st_blocks * 512 for status in map(Path.lstat, folder.rglob("*"))
    }
    return sum(found.values())


@pytest.mark.slow
def test_a_run_takes_little_space(cli: Cli, home_data: list[str]):
    """A run of `linear` takes at most 600 kB, with MLflow's copy of its files and its rows in the database."""
    done = cli("model=linear", "data.limit=300", "training.epochs=5", "tracking=local", PATIENTLY, *home_data)
    assert done.run is not None
    before = disk_use(Path("outputs"))
    twin = done.run.with_name("twin")
    shutil.copytree(done.run, twin)
    (twin / "delivery.json").unlink()
    file = twin / "journal.jsonl"
    first, rest = file.read_bytes().split(b"\n", 1)
    event = RunEvent.model_validate_json(first).model_copy(update={"key": "twin", "name": "twin"})
    file.write_bytes(event.model_dump_json().encode() + b"\n" + rest)
    assert not Delivery(twin).pending()
    assert disk_use(Path("outputs")) - before <= 600_000


@pytest.mark.slow
def test_a_larger_run_takes_little_more_than_its_models(cli: Cli, home_data: list[str]):
    """A run of `mlp` takes at most 1.1 times its models' size, with MLflow's copy."""
    done = cli("model=mlp", "data.limit=300", "training.epochs=1", "tracking=local", PATIENTLY, *home_data)
    assert done.run is not None
    models = sum((done.run / name).stat().st_size for name in ("model.keras", "model.h5", "model.weights.h5"))
    assert disk_use(Path("outputs")) <= 1.1 * models
