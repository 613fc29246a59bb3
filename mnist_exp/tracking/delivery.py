"""Deliver journals to MLflow.

    python -m mnist_exp.tracking.delivery <run directory> <tracking URI>

follows a run's journal until its `end`, or until the standard input ends: the process that trains is gone then.
What was delivered is kept in `delivery.json` in the run directory: the MLflow run id and the number of lines.
Delivering a line again changes nothing that MLflow shows.
"""

from __future__ import annotations

import json
import os
import select
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mnist_exp.runs.files import write_text
from mnist_exp.tracking import journal
from mnist_exp.tracking.store import artifact_root, database_path, exclusive

STATE, LOCK = "delivery.json", ".delivery.lock"
_POLL = 0.2  # seconds between looks at the journal
_KEY_TAG = "mnist_exp.key"  # finds the run again if we die between creating it and noting its id

# A server that does not answer is tried again at the next look, not inside MLflow's client (247 s).
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


@dataclass
class Delivered:
    """How far a journal was delivered, and to which MLflow run."""

    run_id: str | None = None
    lines: int = 0

    @classmethod
    def read(cls, folder: Path) -> Delivered:
        """From a run directory; nothing, where none was delivered."""
        try:
            return cls(**json.loads((folder / STATE).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls()

    def write(self, folder: Path) -> None:
        """Into a run directory."""
        write_text(folder / STATE, json.dumps(asdict(self)))


class Delivery:
    """Delivers one run's journal to one store."""

    def __init__(self, folder: Path, uri: str) -> None:
        import mlflow

        self._folder, self._uri = folder, uri
        self._state = Delivered.read(folder)
        mlflow.set_tracking_uri(uri)
        database = database_path(uri)
        if database is None:
            self._client = mlflow.MlflowClient(uri)
            return
        with exclusive(database.with_name(f".{database.name}.lock")):
            self._client = mlflow.MlflowClient(uri)
            # The first call makes the tables.
            self._client.search_experiments(max_results=1)

    def pending(self) -> bool:
        """Deliver what the journal holds now. Returns whether more may come: its `end` was not met."""
        lines = journal.read(self._folder)
        for line in lines[self._state.lines :]:
            self._deliver(line)
            self._state.lines += 1
            self._state.write(self._folder)
        return not lines or lines[-1]["kind"] != "end"

    def _deliver(self, line: dict[str, Any]) -> None:
        kind = line["kind"]
        if kind == "run":
            self._create_run(line)
        else:
            getattr(self, f"_deliver_{kind}")(self._state.run_id, line)

    def _create_run(self, line: dict[str, Any]) -> None:
        tags = {**line["tags"], _KEY_TAG: line["key"]}
        if line["parent"] is not None:
            tags["mlflow.parentRunId"] = deliver_now(Path(line["parent"]), self._uri)
        experiment = self._experiment(line["experiment"])
        found = self._client.search_runs([experiment], f"tags.`{_KEY_TAG}` = '{line['key']}'")
        if found:
            self._state.run_id = found[0].info.run_id
            return
        run = self._client.create_run(experiment, line["time"], tags, run_name=line["name"])
        self._state.run_id = run.info.run_id

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name, artifact_location=artifact_root(self._uri)))
        except MlflowException:  # another process was quicker
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def _deliver_params(self, run_id: str, line: dict[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(key, value[:6000]) for key, value in line["values"].items()]
        for first in range(0, len(params), 100):
            self._client.log_batch(run_id, params=params[first : first + 100])

    def _deliver_metrics(self, run_id: str, line: dict[str, Any]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(key, value, line["time"], line["step"]) for key, value in line["values"].items()]
        self._client.log_batch(run_id, metrics=metrics)

    def _deliver_note(self, run_id: str, line: dict[str, Any]) -> None:
        self._client.set_tag(run_id, "mlflow.note.content", line["text"])

    def _deliver_dataset(self, run_id: str, line: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=line["name"],
            digest=line["sha256"][:32],  # MLflow keeps 36 characters; the whole is a tag
            source_type="local",
            source=json.dumps({"uri": line["source"]}),
            profile=json.dumps({"shape": line["shape"], **line["images"]}),
        )
        self._client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def _deliver_artifact(self, run_id: str, line: dict[str, Any]) -> None:
        self._client.log_artifact(run_id, str(self._folder / line["file"]), line["folder"])

    def _deliver_model(self, run_id: str, line: dict[str, Any]) -> None:
        import mlflow
        from mlflow.models import Model

        from mnist_exp.tracking import keras_file

        experiment = self._client.get_run(run_id).info.experiment_id
        logged = self._client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
        if any(model.status == "READY" for model in logged):
            return  # we died before we could note it
        # `Model.log` puts the model into the active experiment, not into the run's.
        mlflow.set_experiment(experiment_id=experiment)
        # MLflow lists the run's metrics on the logged model by itself.
        Model.log(
            artifact_path=None,
            name="model",
            flavor=keras_file,
            run_id=run_id,
            file=self._folder / line["file"],
            shape=tuple(line["shape"]),
            classes=line["classes"],
            requirements=line["requirements"],
        )

    def _deliver_end(self, run_id: str, line: dict[str, Any]) -> None:
        self._client.set_terminated(run_id, line["status"], line["time"])

    def _deliver_resumed(self, run_id: str, line: dict[str, Any]) -> None:
        self._client.update_run(run_id, line["status"])

    def mark_killed(self) -> None:
        """The run's process is gone, and did not say how the run ended."""
        if self._state.run_id is not None:
            self._client.set_terminated(self._state.run_id, "KILLED")


def deliver_now(folder: Path, uri: str) -> str:
    """Deliver what a journal holds, and return the MLflow run's id. One process at a time."""
    with exclusive(folder / LOCK):
        Delivery(folder, uri).pending()
    run_id = Delivered.read(folder).run_id
    assert run_id is not None
    return run_id


def follow(folder: Path, uri: str) -> int:
    """Deliver a run's journal as it grows. Returns the exit status: 0 when its `end` was delivered.

    Whatever fails is tried again until the trainer closes our standard input; then once more.
    """
    from mlflow.exceptions import MlflowException

    delivery: Delivery | None = None
    trainer_is_there = True
    failure = ""
    with exclusive(folder / LOCK):
        while True:
            try:
                delivery = delivery or Delivery(folder, uri)
                more = delivery.pending()
                failure = ""
                if not more:
                    return 0
            except (MlflowException, OSError) as error:
                more = True
                failure = str(error).strip().split("\n")[0]
            if not trainer_is_there:
                if delivery and not failure:
                    delivery.mark_killed()
                print(failure or "the run's process ended without an end", file=sys.stderr)
                return 1
            if select.select([sys.stdin], [], [], _POLL)[0]:
                trainer_is_there = bool(os.read(sys.stdin.fileno(), 1))


if __name__ == "__main__":
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    sys.exit(follow(Path(sys.argv[1]), sys.argv[2]))
