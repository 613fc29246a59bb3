"""Deliver a journal to MLflow.

`delivery.json` in the run's directory records the progress (see `mnist_exp.tracking.delivered`). The file is only
a hint: it may be lost, the process may be killed before writing it, and a request that timed out may have
succeeded. Delivery is therefore idempotent: if a line is sent again, nothing that MLflow shows changes.

    run        is found by a tag with its key
    params     only those that the run does not have are sent
    dataset    MLflow keeps one per name and digest
    metrics    MLflow keeps one per name, step, time and value; the time is the journal's
    tags       replace earlier ones
    artifact   replaces an earlier one
    image      replaces an earlier one, as its name depends only on the event
    model      one per run: its files are replaced, unless they are the same
    end        duplicate runs that a late request created are removed
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, assert_never

from mnist_exp.runs import journal
from mnist_exp.runs.abandoned import record_mlflow_run
from mnist_exp.runs.events import (
    RUN_ID,
    ArtifactEvent,
    DatasetEvent,
    EndEvent,
    Event,
    ImageEvent,
    MetricsEvent,
    ModelEvent,
    NoteEvent,
    ParamsEvent,
    ResumedEvent,
    RunEvent,
    TagsEvent,
)
from mnist_exp.runs.locks import exclusive
from mnist_exp.runs.log import LOG, shorten_log
from mnist_exp.runs.regular_files import file_inside, is_relative
from mnist_exp.runs.result import RESULT, read_result
from mnist_exp.text import display_path, mask_credentials, shorten
from mnist_exp.tracking.delivered import Delivered
from mnist_exp.tracking.known_stores import NotPermitted, identify_store, resolve_permitted
from mnist_exp.tracking.locations import link_artifact
from mnist_exp.tracking.mlflow_names import mlflow_name, model_name, without_controls
from mnist_exp.tracking.store import (
    artifact_root,
    connect,
    database_path,
    default_uri,
    import_mlflow,
    make_absolute,
    restoring_command,
)

LOCK = ".delivery.lock"
_KEY_TAG = "mnist_exp.key"
_DIGEST_TAG = "mnist_exp.sha256"  # of a logged model: the SHA-256 of its file
_OF_MODEL = ("best/", "test/")  # the prefixes of the saved model's metrics
_MOST_LOG = 2**20  # bytes of a log that are copied to a store elsewhere
_LONGEST_TEXT = 8000  # maximum length of a description that MLflow keeps, in characters
_Value = TypeVar("_Value")


class Delivery:
    """Delivers the journal of one run or sweep to the store that it names, or to another.

    Several processes may deliver at once: each line is delivered under a lock.
    """

    def __init__(self, folder: Path, uri: str | None = None, client: Any = None) -> None:
        """Read the journal without contacting a store.

        Args:
            folder: The directory of a run, sweep or study.
            uri: The store; None: the one that the journal names.
            client: A client that is connected to the store; None: one is created when it is needed.

        Raises:
            OSError, ValueError: The journal cannot be read.
        """
        self._folder = folder
        self._events: list[Event] = []
        self._read_bytes = 0
        self._behind = False
        self._logged: dict[tuple[str, int], float] = {}
        self.gone: list[str] = []
        """Files and values that should have been delivered but cannot be, each with the reason."""
        self._read()
        run = journal.first_run(self._events)
        self._key = run.key if run else None
        self.tracked = run is not None and run.enabled
        """Whether the run is tracked."""
        own, default = run.uri if run else None, default_uri(folder)
        self._own_uri = own
        self._verified: str | None = None  # the MLflow run that is known to be of this journal
        named = uri or own
        store = make_absolute(named) if named else default
        self.uri = store
        """The store's URI; None if the store is unknown or must not be contacted."""
        self.refusal = ""
        """Why the journal's store must not be contacted."""
        if uri is None and own is not None:
            try:
                self.uri = resolve_permitted(make_absolute(own), default)
            except NotPermitted as error:
                self.uri, self.refusal = None, str(error)
        self._is_own = not self.tracked or uri is None or store == (own or default)
        self._noted_as = "outputs" if store in (default, None) else identify_store(str(store))
        self._client = client

    def missing(self) -> list[Event]:
        """Return the journal's events that are not yet delivered."""
        self._read()
        return self._events[self.delivered().lines :]

    def pending(self) -> bool:
        """Deliver the journal's events so far. Returns whether more may follow, as the last one is not an `end`.

        May raise any MLflow, requests or SQLAlchemy exception.
        """
        self._read()
        if self._behind:
            if self.delivered().lines != len(self._events):
                self._deliver_lines(None)
            self._behind = False
        return not self._events or not isinstance(self._events[-1], EndEvent)

    def is_of(self, run: Any) -> bool:
        """Return whether an MLflow run belongs to this journal. An untrusted `result.json` may name any run."""
        return self._key is not None and run.data.tags.get(_KEY_TAG) == self._key

    def run_id(self) -> str:
        """Return the MLflow run's id, creating the run if necessary. Raises the same exceptions as `pending`."""
        self._connect()
        if self._own_progress().run_id is None:
            self._deliver_lines(1)
        run_id = self.delivered().run_id
        if run_id is None:
            raise ValueError(f"{self._folder / journal.FILE}: has no run event")
        return run_id

    def logged_model(self) -> Any:
        """Return the run's logged model; None if the store has no complete one.

        Raises the same exceptions as `pending`.
        """
        run_id = self.run_id()
        experiment = self._client.get_run(run_id).info.experiment_id
        return next((model for model in self._models(experiment, run_id) if model.status == "READY"), None)

    def note_run_id(self) -> None:
        """Record the MLflow run id in `result.json`, unless a process works on the run and records it itself."""
        if self._is_own and (run_id := self.delivered().run_id):
            record_mlflow_run(self._folder, run_id)

    def delivered(self) -> Delivered:
        """Return the progress of the delivery."""
        return Delivered.read(self._folder, self._noted_as)

    def _read(self) -> None:
        events, self._read_bytes = journal.read_from(self._folder, self._read_bytes)
        self._events += [
            self._without_repeated(event) if isinstance(event, MetricsEvent) else event for event in events
        ]
        self._behind |= bool(events)

    def _without_repeated(self, event: MetricsEvent) -> MetricsEvent:
        """Return an event without the metrics that were already logged for its step.

        A resumed run repeats the epochs after its checkpoint. Their values are the same except for the durations,
        of which the first are kept.
        """
        new = {}
        for key, value in event.values.items():
            before = self._logged.get((key, event.step))
            if before is None or (before != value and not key.startswith("time/")):
                new[key] = self._logged[key, event.step] = value
        return event.model_copy(update={"values": new})

    def _connect(self) -> None:
        """Connect to the store unless that was done before. Raises `NotPermitted` if it must not be contacted."""
        if self.refusal:
            raise NotPermitted(f"{self.refusal}; {self._permitting_command()}")
        if self.uri is None:
            raise ValueError("its store is not recorded: set tracking.uri")
        self._client = self._client or connect(self.uri)

    def _own_progress(self) -> Delivered:
        """Return the progress; none if `delivery.json`, which may come from elsewhere, names another run."""
        state = self.delivered()
        if state.run_id not in (None, self._verified):
            if not self.is_of(self._client.get_run(state.run_id)):
                return Delivered()
            self._verified = state.run_id
        return state

    def _deliver_lines(self, count: int | None) -> None:
        self._connect()
        with exclusive(self._folder / LOCK):
            self._read()  # another process may have delivered lines in the meantime
            state = self._own_progress()
            journal.flush(self._folder)  # a delivered line must survive a power cut
            if state.lines > len(self._events):  # delivered lines were lost nevertheless: start again
                state.lines = 0
            for event in map(without_controls, self._events[state.lines : count]):
                state.run_id = self._deliver(event, state.run_id)
                state.lines += 1
                state.write(self._folder, self._noted_as)

    def _deliver(self, event: Event, run_id: str | None) -> str:
        """Deliver an event to an MLflow run, which the first event creates. Returns the run's id."""
        if isinstance(event, RunEvent):
            return self._create_run(event)
        if run_id is None:
            raise ValueError(f"{self._folder / journal.FILE}:1: must be a run event, found {event.kind}")
        match event:
            case ParamsEvent():
                self._deliver_params(run_id, event)
            case DatasetEvent():
                self._deliver_dataset(run_id, event)
            case MetricsEvent():
                self._deliver_metrics(run_id, event)
            case NoteEvent():
                text = event.text.replace(RUN_ID, run_id)[:_LONGEST_TEXT]
                self._client.set_tag(run_id, "mlflow.note.content", text)
            case TagsEvent():
                self._set_tags(run_id, event.values)
            case ArtifactEvent():
                self._deliver_artifact(run_id, event)
            case ImageEvent():
                self._deliver_image(run_id, event)
            case ModelEvent():
                self._deliver_model(run_id, event)
            case EndEvent():
                self._deliver_end(run_id, event)
            case ResumedEvent():
                self._deliver_resumed(run_id, event)
            case _:
                assert_never(event)
        return run_id

    def _permitting_command(self) -> str:
        """Return the command that delivers the journal to its own store, as advice for the user."""
        address = mask_credentials(str(self._own_uri)).replace("://***@", "://<user>:<password>@")
        run = shlex.quote(f"run={display_path(self._folder)}")
        return f"'mnist-exp sync {run} {shlex.quote(f'tracking.uri={address}')}' delivers it there"

    def _create_run(self, event: RunEvent) -> str:
        tags = {**self._named(event.tags), _KEY_TAG: event.key}
        sweep = self._folder.parent  # the sweep's directory, unless the run's was moved elsewhere
        if event.parent is not None and (sweep / journal.FILE).is_file():
            tags["mlflow.parentRunId"] = Delivery(sweep, self.uri, self._client).run_id()
        experiment = self._experiment(event.experiment)
        if existing := self._runs(experiment, event.key):
            return existing[0]
        return str(self._client.create_run(experiment, event.time, tags, run_name=event.name).info.run_id)

    def _runs(self, experiment: str, key: str) -> list[str]:
        """Return the MLflow runs with a key: only one, unless a request that timed out succeeded later."""
        runs = self._client.search_runs([experiment], f"tags.`{_KEY_TAG}` = '{key}'")
        return sorted(run.info.run_id for run in runs)

    def _experiment(self, name: str) -> str:
        if name == "Default":
            raise ValueError("MLflow's own experiment 'Default' cannot be used: its artifacts are kept elsewhere")
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None and experiment.lifecycle_stage == "deleted":
            command = restoring_command(str(self.uri), "experiment", experiment.experiment_id)
            raise ValueError(f"the experiment '{name}' was deleted: {command}")
        if experiment is not None:
            return str(experiment.experiment_id)
        try:
            return str(self._client.create_experiment(name, artifact_location=artifact_root(str(self.uri))))
        except import_mlflow().exceptions.MlflowException:  # another process was faster
            experiment = self._client.get_experiment_by_name(name)
            if experiment is None:
                raise
            return str(experiment.experiment_id)

    def _deliver_params(self, run_id: str, event: ParamsEvent) -> None:
        there = self._client.get_run(run_id).data.params  # MLflow never changes a parameter
        values = self._named(event.values)
        params = [
            import_mlflow().entities.Param(key, value[:6000]) for key, value in values.items() if key not in there
        ]
        for first in range(0, len(params), 100):
            self._client.log_batch(run_id, params=params[first : first + 100])

    def _deliver_metrics(self, run_id: str, event: MetricsEvent) -> None:
        values = self._named(event.values)
        metrics = [
            import_mlflow().entities.Metric(key, value, event.time, event.step) for key, value in values.items()
        ]
        self._client.log_batch(run_id, metrics=metrics)

    def _log_model_metrics(self, run_id: str, model_id: str) -> None:
        """Log the saved model's validation and test metrics for the logged model, with the data set.

        They are those of the run, which MLflow keeps once.
        """
        data = next((event for event in self._events if isinstance(event, DatasetEvent)), None)
        metric = import_mlflow().entities.Metric
        dataset = {"dataset_name": data.name, "dataset_digest": _digest(data)} if data else {}
        metrics = [
            metric(key, value, event.time, event.step, model_id=model_id, run_id=run_id, **dataset)
            for event in self._events if isinstance(event, MetricsEvent)
            for key, value in self._named(event.values).items() if key.startswith(_OF_MODEL)
        ]  # fmt: skip
        for first in range(0, len(metrics), 1000):
            self._client.log_batch(run_id, metrics=metrics[first : first + 1000])

    def _set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        for key, value in self._named(tags).items():
            self._client.set_tag(run_id, key, value)

    def _named(self, values: Mapping[str, _Value]) -> dict[str, _Value]:
        """Return values under names that MLflow accepts. Of several with the same name, the first is delivered."""
        named: dict[str, _Value] = {}
        for key, value in values.items():
            if (name := mlflow_name(key)) in named:
                self.gone.append(f"{shorten(key)!r}: MLflow has another value of the name {shorten(name)!r}")
            named.setdefault(name, value)
        return named

    def _deliver_dataset(self, run_id: str, event: DatasetEvent) -> None:
        entities = import_mlflow().entities
        dataset = entities.Dataset(
            name=event.name,
            digest=_digest(event),
            source_type="local",
            source=json.dumps({"uri": event.source}),
            profile=json.dumps({"shape": event.shape, **event.images}),
        )
        self._client.log_inputs(
            run_id, [entities.DatasetInput(dataset, [entities.InputTag("mlflow.data.context", "training")])]
        )

    def _deliver_artifact(self, run_id: str, event: ArtifactEvent) -> None:
        folder = event.folder
        if folder is not None and not is_relative(folder):
            self.gone.append(f"{event.file}: its folder {folder!r} is not inside the run's artifacts")
        elif (path := self._find(event.file)) is not None:
            if event.file == RESULT and (text := self._final_result(run_id)) is not None:
                self._client.log_text(run_id, text, RESULT)
            else:
                self._log_file(run_id, path, str(Path(folder or "", path.name)))

    def _final_result(self, run_id: str) -> str | None:
        """Return the content of `result.json` with the MLflow run's id, which is written to the file only later.

        Returns None if the file has it already, is damaged, or states the id in another store.
        """
        try:
            result = read_result(self._folder)
        except (OSError, ValueError):
            return None
        if result is None or not self._is_own or result.mlflow_run_id == run_id:
            return None
        result.mlflow_run_id = run_id
        return result.as_json()

    def _log_file(self, run_id: str, path: Path, name: str) -> None:
        """Store a file as an artifact, without copying it if it and the store are in the same output folder."""
        location = self._client.get_run(run_id).info.artifact_uri
        if self._own_database is not None and link_artifact(path, location, name, self._own_database):
            return
        folder = str(Path(name).parent)
        with tempfile.TemporaryDirectory() as temporary:
            named = path
            if path.name == LOG:
                named = Path(temporary, LOG)
                named.write_bytes(shorten_log(path, _MOST_LOG))
            elif path.name != Path(name).name:
                named = Path(shutil.copyfile(path, Path(temporary, Path(name).name)))
            self._client.log_artifact(run_id, str(named), None if folder == "." else folder)

    def _deliver_image(self, run_id: str, event: ImageEvent) -> None:
        from mnist_exp.tracking import mlflow_images  # Pillow

        path = self._find(event.file)
        if path is None:
            return
        name = mlflow_images.image_name(event, str(self._key))
        with tempfile.TemporaryDirectory() as temporary:
            try:
                preview = mlflow_images.write_preview(path, Path(temporary), name)
            except (OSError, ValueError) as error:
                self.gone.append(f"{event.file}: {error}")
                return
            self._log_file(run_id, path, f"{mlflow_images.FOLDER}/{name}.png")
            self._client.log_artifact(run_id, str(preview), mlflow_images.FOLDER)
        self._client.set_tag(run_id, mlflow_images.TAG, "True")

    @property
    def _own_database(self) -> Path | None:
        """The database of the output folder's own store; None if the journal is delivered to another store."""
        return database_path(str(self.uri)) if self._noted_as == "outputs" else None

    def _find(self, file: str) -> Path | None:
        """Return a file to deliver; None if it cannot be delivered, which must not block the lines after it."""
        try:
            return file_inside(self._folder, file)
        except FileNotFoundError:
            self.gone.append(f"{file} no longer exists")
        except (OSError, ValueError) as error:
            self.gone.append(str(error))
        return None

    def _deliver_model(self, run_id: str, event: ModelEvent) -> None:
        from mnist_exp.tracking import mlflow_model

        file = self._find(event.file)
        if file is None:
            return
        entities = import_mlflow().entities
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        run = self._client.get_run(run_id)
        experiment = run.info.experiment_id
        height, width, channels = event.shape
        logged = next(iter(self._models(experiment, run_id)), None)
        if logged is None:
            # Not `Model.log`, which creates another model on a retry.
            logged = self._client.create_logged_model(
                experiment, name=self._model_name(), source_run_id=run_id, params=run.data.params
            )
        elif logged.status == entities.LoggedModelStatus.READY and logged.tags.get(_DIGEST_TAG) == digest:
            return
        if logged.model_id not in {output.model_id for output in run.outputs.model_outputs}:
            self._client.log_outputs(run_id, [entities.LoggedModelOutput(logged.model_id, step=0)])
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            database = self._own_database
            is_linked = database is not None and link_artifact(
                file, logged.artifact_location, mlflow_model.KERAS_FILE, database
            )
            mlflow_model.save_model(
                str(folder),
                import_mlflow().models.Model(
                    artifact_path=logged.artifact_location,
                    model_uuid=logged.model_id,
                    run_id=run_id,
                    model_id=logged.model_id,
                ),
                file=file,
                shape=(height, width, channels),
                classes=event.classes,
                requirements=event.requirements,
                with_file=not is_linked,
            )
            self._client.log_model_artifacts(logged.model_id, str(folder))
        self._client.set_logged_model_tags(logged.model_id, {_DIGEST_TAG: digest})
        self._client.finalize_logged_model(logged.model_id, entities.LoggedModelStatus.READY)

    def _model_name(self) -> str:
        run = journal.first_run(self._events)
        return model_name(run.name if run else "model")

    def _models(self, experiment: str, run_id: str) -> list[Any]:
        """Return the run's logged models: only one, unless a request that timed out succeeded later."""
        found = self._client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
        return sorted(found, key=lambda model: (model.status != "READY", model.model_id))

    def _deliver_end(self, run_id: str, event: EndEvent) -> None:
        info = self._client.get_run(run_id).info
        experiment = info.experiment_id
        models = self._models(experiment, run_id)
        for twin in models[1:]:
            self._client.delete_logged_model(twin.model_id)
        for logged in models[:1]:
            self._log_model_metrics(run_id, logged.model_id)
        if run := journal.first_run(self._events):
            for twin in self._runs(experiment, run.key):
                if twin != run_id:
                    self._client.delete_run(twin)
        self._client.set_terminated(run_id, event.status, max(event.time, info.start_time))  # clocks may go back

    def _deliver_resumed(self, run_id: str, event: ResumedEvent) -> None:
        self._client.update_run(
            run_id, "RUNNING"
        )  # MLflow cannot clear an end time: it stays until the run ends again
        tags = {"resumed": event.epochs, "exact": event.exact, "fingerprint": event.fingerprint}
        self._set_tags(run_id, {key: str(value) for key, value in tags.items() if value is not None})


def _digest(event: DatasetEvent) -> str:
    return event.sha256[:32]  # MLflow keeps 36 characters; a tag has the whole digest
