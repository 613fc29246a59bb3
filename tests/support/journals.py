"""Runs to deliver in tests: the files that they leave, and what MLflow must have of them."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from mnist_exp.runs import journal
from mnist_exp.runs.events import (
    RUN_ID,
    ArtifactEvent,
    DatasetEvent,
    EndEvent,
    Event,
    ImageEvent,
    JournalEvent,
    MetricsEvent,
    ModelEvent,
    NoteEvent,
    ParamsEvent,
    RunEvent,
)
from mnist_exp.runs.journal import Journal
from mnist_exp.tracking.known_stores import remember
from mnist_exp.tracking.mlflow_images import image_name, write_preview

Kind = TypeVar("Kind", bound=JournalEvent)
MODEL = ModelEvent(file="model.keras", shape=[28, 28, 1], classes=10, requirements=["keras==3.15.1"])


def write_sweep_run(folder: Path, uri: str | None) -> Journal:
    """Start the journal of a sweep."""
    lines = Journal(folder)
    name = folder.name
    lines.write(RunEvent(name=name, key=name, experiment="mnist-exp", tags={}, enabled=True, uri=uri, parent=None))
    return lines


def write_run(
    folder: Path, uri: str | None = None, epochs: int = 3, *, end: bool = True, enabled: bool = True, **run: Any
) -> Path:
    """Write a run's directory with a journal that has every kind of event; this user chose its store."""
    if uri is not None:
        remember(uri)
    folder.mkdir(parents=True)
    status = "finished" if end else "running"
    result = {"status": status, "started": time.time(), "data": {"name": "digits"}, "mlflow_run_id": None}
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "plots").mkdir()
    for file in ("config.yaml", "plots/loss.png", "model.keras"):
        (folder / file).write_bytes(f"{file} of {folder.name}".encode())
    lines = Journal(folder)
    key = re.sub(r"[^\w-]", "_", folder.name)
    content = {"name": folder.name, "key": key, "experiment": "mnist-exp", "parent": None, **run}
    lines.write(RunEvent(tags={"data": "digits"}, enabled=enabled, uri=uri, **content))
    long = {"long": "x" * 7000}  # MLflow keeps 6000 characters
    lines.write(ParamsEvent(values=long | {f"p{number}": str(number) for number in range(110)}))
    data = {"sha256": "d" * 64, "source": "here", "shape": [28, 28, 1], "images": {"train": 1}}
    lines.write(DatasetEvent(name="digits", **data))
    lines.write(ArtifactEvent(file="config.yaml", folder=None))
    lines.write(NoteEvent(text="a card"))
    for epoch in range(1, epochs + 1):
        write_epoch(lines, epoch)
    lines.write(MetricsEvent(step=epochs, values={"best/epoch": epochs, "best/val/loss": 1 / epochs}))
    lines.write(MODEL)
    lines.write(MetricsEvent(step=epochs, values={"test/accuracy": 0.5}))
    lines.write(ArtifactEvent(file="plots/loss.png", folder="plots"))
    Image.new("L", (300, 200)).save(folder / "plots" / "map.png")
    lines.write(ImageEvent(file="plots/map.png", key="watch/conv2d", step=epochs))
    if end:
        lines.write(EndEvent(status="FINISHED"))
    lines.close()
    return folder


def write_epoch(lines: Journal, epoch: int) -> None:
    """Write the events of an epoch as training does."""
    values = {
        "train/loss": 2 / epoch,
        "val/loss": 1 / epoch,
        "learning_rate": 0.001,
        "time/epoch": time.time() % 1,
    }
    lines.write(MetricsEvent(step=epoch, values=values))


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def expected(folder: Path) -> dict[str, Any]:
    """Return what MLflow must have of a run, given its directory: everything once, with the original times."""
    events = journal.read(folder)
    run = events[0]
    assert isinstance(run, RunEvent)
    names = [f"{event.name} {event.sha256[:32]}" for event in of_type(DatasetEvent, events)]
    metrics = defaultdict(list)
    for event in of_type(MetricsEvent, events):
        for key, value in event.values.items():
            metrics[key].append((event.step, event.time, value))
    ends, notes = of_type(EndEvent, events), of_type(NoteEvent, events)
    return {
        "runs": 1,
        "name": run.name,
        "status": ends[-1].status if ends else "RUNNING",
        "times": (run.time, max(run.time, ends[-1].time) if ends else None),
        "params": {
            key: value[:6000] for event in of_type(ParamsEvent, events) for key, value in event.values.items()
        },
        "tags": run.tags | ({"mlflow.note.content": notes[-1].text[:8000]} if notes else {}),
        "metrics": {key: sorted(rows) for key, rows in metrics.items()},
        "datasets": [(event.name, event.sha256[:32]) for event in of_type(DatasetEvent, events)],
        "artifacts": {
            event.file: digest((folder / event.file).read_bytes()) for event in of_type(ArtifactEvent, events)
        }
        | images(folder, events, run.key),
        "of_model": sorted(
            (key, event.step, event.time, value, names[0])
            for event in of_type(MetricsEvent, events)
            for key, value in event.values.items()
            if key.startswith(("best/", "test/")) and ends and of_type(ModelEvent, events)
        ),
        "models": [digest((folder / event.file).read_bytes()) for event in of_type(ModelEvent, events)][-1:],
    }


def images(folder: Path, events: list[Event], key: str) -> dict[str, str]:
    """Return what MLflow must have of a run's series of images: each with its preview."""
    files = {}
    for event in of_type(ImageEvent, events):
        name = image_name(event, key)
        files[f"images/{name}.png"] = digest((folder / event.file).read_bytes())
        with tempfile.TemporaryDirectory() as temporary:
            preview = write_preview(folder / event.file, Path(temporary), name)
            files[f"images/{preview.name}"] = digest(preview.read_bytes())
    return files


def of_type(kind: type[Kind], events: list[Event]) -> list[Kind]:
    """Return the events of one type."""
    return [event for event in events if isinstance(event, kind)]


def held(folder: Path, uri: str, scratch: Path) -> dict[str, Any]:
    """Return what MLflow has of the run, as a client sees it. Files are downloaded into `scratch`."""
    import mlflow

    line = journal.read(folder)[0]
    assert isinstance(line, RunEvent)
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name(line.experiment).experiment_id
    found = client.search_runs([experiment], f"tags.`mnist_exp.key` = '{line.key}'")
    run = found[0]
    tags = {key: value for key, value in run.data.tags.items() if key in expected(folder)["tags"]}
    tags = {key: value.replace(run.info.run_id, RUN_ID) for key, value in tags.items()}
    history = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
    models = client.search_logged_models([experiment], f"source_run_id = '{run.info.run_id}'")
    outputs = {output.model_id for output in run.outputs.model_outputs}
    fetched = scratch / run.info.run_id
    fetched.mkdir(parents=True)
    client.download_artifacts(run.info.run_id, "", str(fetched))
    weights = []
    for model in models:
        assert model.status == "READY"
        assert model.model_id in outputs
        place = scratch / model.model_id
        place.mkdir()
        path = mlflow.artifacts.download_artifacts(model.artifact_location, dst_path=str(place), tracking_uri=uri)
        weights.append(digest((Path(path) / "data" / "model.keras").read_bytes()))
    return {
        "runs": len(found),
        "name": run.info.run_name,
        "status": run.info.status,
        "times": (run.info.start_time, run.info.end_time),
        "params": run.data.params,
        "tags": tags,
        "metrics": {key: sorted((m.step, m.timestamp, m.value) for m in rows) for key, rows in history.items()},
        "datasets": [(i.dataset.name, i.dataset.digest) for i in run.inputs.dataset_inputs],
        "artifacts": {
            str(path.relative_to(fetched)): digest(path.read_bytes())
            for path in fetched.rglob("*") if path.is_file()
        },
        "models": weights,
        "of_model": sorted(
            (m.key, m.step, m.timestamp, m.value, f"{m.dataset_name} {m.dataset_digest}")
            for model in models for m in model.metrics or ()
        ),
    }  # fmt: skip


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
