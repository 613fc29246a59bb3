"""Record runs in their directories, which are authoritative, and in journals, which mirror them to the tracker.

A `RunRecord` records what happens in a run. Two context managers provide one: `RunRecording` from a run's start to
its end, and `ReopenedRecording` for a finished trial that is scored on the test set.
"""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from mnist_exp import __version__
from mnist_exp.config.schema import TrackingConfig
from mnist_exp.errors import PREEMPTED, Killed, Pruned, RequestError
from mnist_exp.runs.abandoned import final_files
from mnist_exp.runs.atomic import write_text
from mnist_exp.runs.directory import MODEL, RunDirectory
from mnist_exp.runs.events import (
    END_STATUS,
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
    TagsEvent,
)
from mnist_exp.runs.journal import FILE, IdempotentJournal, Journal, first_run, read
from mnist_exp.runs.locks import is_locked
from mnist_exp.runs.log import LOG, log_traceback, say, to_file, warn
from mnist_exp.runs.result import RESULT, SCHEMA_VERSION, Metrics, RunResult
from mnist_exp.runs.signals import held
from mnist_exp.text import mask_credentials, masked_values
from mnist_exp.tracking.parameters import chosen_parameters
from mnist_exp.tracking.run_event import new_run_event
from mnist_exp.tracking.system_metrics import SystemMetrics
from mnist_exp.tracking.upload_process import Upload

Clock = Callable[[], dict[str, float]]

VERSIONS = ("tensorflow", "keras", "numpy", "hydra-core", "mlflow")


class RunRecord:
    """Records what happens in a run: in its result, its history file and its journal."""

    def __init__(
        self, directory: RunDirectory, result: RunResult, journal: IdempotentJournal, clock: Clock = dict
    ) -> None:
        self._clock = clock
        self.directory = directory
        self.path = directory.path
        self.result = result
        self._journal = journal

    def epoch(self, history: list[dict[str, float]], best_epoch: int | None) -> None:
        """Record the last epoch of the history, and the best epoch so far."""
        self.history(history)
        if best_epoch is not None:
            self.result.best = _validated_row(history[best_epoch - 1])
        self.keep_seconds()
        self._write_epoch(history[-1])

    def catch_up(self, history: list[dict[str, float]], best_epoch: int | None) -> None:
        """Record the epochs that a resumed run had finished but not recorded when it was killed."""
        for row in history:
            self._write_epoch(row)
        if history:
            self.epoch(history, best_epoch)

    def _write_epoch(self, row: Mapping[str, float]) -> None:
        values: Metrics = {name: value for name, value in row.items() if name not in ("epoch", "seconds")}
        values["time/epoch"] = row["seconds"]
        self._journal.write(MetricsEvent(step=int(row["epoch"]), values=values))

    def history(self, history: list[dict[str, float]]) -> None:
        """Write the history of all epochs so far."""
        self.directory.write_history(history)
        self.result.epochs = len(history)

    def best(self, row: Mapping[str, float]) -> None:
        """Record the epoch whose weights are saved."""
        self.result.best = _validated_row(row)
        values = {f"best/{name}": value for name, value in self.result.best.items()}
        self._journal.write(MetricsEvent(step=int(row["epoch"]), values=values))

    def test(self, metrics: Mapping[str, float]) -> None:
        """Record the saved model's test metrics."""
        assert self.result.best is not None
        self.result.test = dict(metrics)
        values: Metrics = {f"test/{name}": value for name, value in metrics.items()}
        self._journal.write(MetricsEvent(step=int(self.result.best["epoch"]), values=values))

    def artifact(self, file: str, folder: str | None = None) -> None:
        """Send a file of the run directory to the tracker."""
        self._journal.write(ArtifactEvent(file=file, folder=folder))

    def image(self, file: str, key: str, epoch: int) -> None:
        """Send a PNG file of the run directory to the tracker as the picture of an epoch in a series."""
        self._journal.write(ImageEvent(file=file, key=key, step=epoch))

    def model(self, file: str, shape: tuple[int, int, int], classes: int) -> None:
        """Send the saved model to the tracker, ready to be served."""
        self._journal.write(_model_event(file, shape, classes, self.result.weights_sha256))

    def note(self, text: str) -> None:
        """Send the run's description, in Markdown, to the tracker, below the user's note."""
        self._journal.write(NoteEvent(text=_join(self.result.note, text)))

    def keep_seconds(self) -> None:
        """Write the result with the durations so far, in case the process is killed."""
        self.result.seconds = self._clock()
        self.directory.write_result(self.result)

    def seconds(self, phases: Mapping[str, float]) -> None:
        """Record the duration of each phase."""
        self.result.seconds = dict(phases)
        values: Metrics = {f"time/{name}": value for name, value in phases.items()}
        self._journal.write(MetricsEvent(step=self.result.epochs, values=values))


def _model_event(file: str, shape: tuple[int, int, int], classes: int, weights_sha256: str | None) -> ModelEvent:
    requirements = [f"{name}=={version(name)}" for name in ("mlflow", "tensorflow", "keras", "numpy")]
    return ModelEvent(
        file=file,
        shape=list(shape),
        classes=classes,
        requirements=requirements,
        weights_sha256=weights_sha256,
    )


class RunRecording:
    """Records a run from start to finish. A context manager that provides the `RunRecord`."""

    def __init__(
        self,
        directory: RunDirectory,
        config: Mapping[str, Any],
        known: Mapping[str, Any],
        tracking: TrackingConfig,
        sweep: Path | None = None,
        earlier: RunResult | None = None,
        clock: Clock = dict,
    ) -> None:
        """Write the config and the first result, and start the journal.

        Args:
            directory: The run's directory, locked by this process.
            config: The resolved config.
            known: Fields of the result that are known from the start: fingerprint, data, device, overrides, …
            tracking: The tracker's settings.
            sweep: The directory of the sweep that the run is a job of.
            earlier: The result of a resumed run. Its journal is continued, without repeating anything.
            clock: Returns the seconds that this process has spent in each phase so far, and in `total`.
        """
        self._directory = directory
        path = directory.path
        self._result = _first_result(directory.name, known, earlier)
        self._clock = clock
        self._result.seconds = clock()
        saved = masked_values(dict(config))
        write_text(path / "config.yaml", yaml.safe_dump(saved, sort_keys=False, allow_unicode=True))
        directory.write_result(self._result)
        self._journal = IdempotentJournal(path)
        for event in _first_events(self._result, path, config, tracking, sweep):
            self._journal.write(event)
        if earlier is not None:
            self._journal.write(_resumed_event(self._result))
        self._record = RunRecord(directory, self._result, self._journal, clock)
        self._log = to_file(path / LOG)
        self._log.__enter__()
        is_sampled = tracking.enabled and tracking.system_metrics
        self._system = SystemMetrics(self._journal.write, read(path)) if is_sampled else None
        # A running sweep's own uploader delivers for its jobs, and waits once, at the end.
        alone = sweep is None or not is_locked(sweep)
        self._upload = Upload(path, tracking.wait_seconds, enabled=tracking.enabled and alone, uri=tracking.uri)

    def __enter__(self) -> RunRecord:
        return self._record

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._result.reason = _reason(error)
        if isinstance(error, SystemExit):
            say(PREEMPTED)
        if isinstance(error, Exception):
            log_traceback(error)  # before the log is delivered
        try:
            self._end(run_status(error))
        except OSError as failure:
            if error is None:
                raise
            warn(f"the run's end could not be recorded: {failure}")
        finally:
            self._log.__exit__(None, None, None)

    def _end(self, status: str) -> None:
        self._result.status = status
        self._result.ended = time.time()
        if status != "finished":  # otherwise, the seconds are already recorded
            self._result.seconds = self._clock()
        # Before waiting for the tracker: the run has ended, whatever happens there.
        wait = True
        try:
            with held():
                self._write_end(status)
        except (KeyboardInterrupt, Killed):
            if not self._upload.enabled:
                raise
            wait = False
        if not self._upload.enabled:
            return
        self._upload.finish(wait=wait)
        self._result.mlflow_run_id = self._upload.run_id
        self._directory.write_result(self._result)

    def _write_end(self, status: str) -> None:
        """Write the final result, then the events that deliver it: the uploader reads the file right away."""
        if self._system is not None:
            self._system.stop()
        try:
            self._directory.write_result(self._result)
            if status == "pruned":
                self._journal.write(TagsEvent(values={"pruned": "true"}))
            for event in final_files(self._directory.path):
                self._journal.write(event)
            self._journal.write(EndEvent(status=END_STATUS[status]))
        finally:
            self._journal.close()


def _first_result(name: str, known: Mapping[str, Any], earlier: RunResult | None) -> RunResult:
    """Return the initial result record of a run that is starting, or resuming from `earlier`."""
    identity: dict[str, Any] = {"name": name, "started": time.time(), "mlflow_run_id": None}
    if earlier is not None:
        identity = {key: getattr(earlier, key) for key in (*identity, "resumed", "exact", "earlier_seconds")}
        identity |= {key: value for key in ("tags", "note") if (value := getattr(earlier, key))}
    return RunResult(
        schema_version=SCHEMA_VERSION,
        **identity,
        status="running",
        pid=os.getpid(),
        host=socket.gethostname(),
        **known,
        epochs=0,
        best=None,
        test=None,
        weights_sha256=None,
        versions={"python": platform.python_version(), "mnist-exp": __version__}
        | {name: version(name) for name in VERSIONS},
    )


def _first_events(
    result: RunResult, path: Path, config: Mapping[str, Any], tracking: TrackingConfig, sweep: Path | None
) -> Iterator[Event]:
    """Yield the events that a run's journal begins with: the run, its parameters and its data."""
    yield new_run_event(result.name, tracking, _tags(result, path), parent=sweep)
    yield ParamsEvent(values=chosen_parameters(config, result.overrides))
    data = result.data
    # Optional in a result, as earlier versions did not write them.
    assert data.name is not None
    assert data.sha256 is not None
    assert data.origin is not None
    assert data.shape is not None
    yield DatasetEvent(
        name=data.name, sha256=data.sha256, source=data.origin, shape=data.shape, images=data.images
    )


def _tags(result: RunResult, path: Path) -> dict[str, str]:
    data = result.data
    tags = {
        "data": str(data.name),
        "data_sha256": str(data.sha256),
        "fingerprint": str(result.fingerprint),
        "overrides": " ".join(result.overrides),
        "directory": str(path),
        **{key: str(value) for key, value in result.device.model_dump(exclude={"cpu_features", "onednn"}).items()},
    }
    if data.stands_in_for:
        tags["fallback"] = data.stands_in_for
    return tags


def _resumed_event(result: RunResult) -> ResumedEvent:
    """Return the event of a resumed run's last resumption."""
    last = result.resumed[-1]
    return ResumedEvent(
        status="RUNNING",
        fingerprint=result.fingerprint,
        at=last.at,
        epochs=last.epochs,
        steps=last.steps,
        overrides=last.overrides,
        exact=result.exact,
    )


class ReopenedRecording:
    """Reopens the record of a finished trial to add the test metrics that the search withheld.

    A context manager that provides the `RunRecord`.
    """

    def __init__(self, directory: RunDirectory) -> None:
        """Raise `RequestError` if `result.json` or the journal is damaged."""
        self._directory = directory
        self._result = directory.read_result()
        try:
            self._journal = IdempotentJournal(directory.path)
        except ValueError as error:
            raise RequestError(str(error)) from error
        self._record = RunRecord(directory, self._result, self._journal)

    def __enter__(self) -> RunRecord:
        return self._record

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._result.withholds_test = False
            self._directory.write_result(self._result)
            ended = int((self._result.ended or 0) * 1000)
            self._journal.write(ArtifactEvent(file=RESULT))
            self._journal.write(EndEvent(status=END_STATUS["finished"], time=ended))
        self._journal.close()


@contextmanager
def added_artifacts(run: Path, files: Sequence[str], wait_seconds: float, advice: str) -> Iterator[Path]:
    """Yield the directory of a run in which the block writes files, and send these to the tracker.

    If that is impossible, print a warning.

    Args:
        run: The directory of the run.
        files: The files, relative to it.
        wait_seconds: How long to wait for the tracker.
        advice: What to do if the run is in use.

    Raises:
        RequestError: Another process works in the run.
        OSError: A file cannot be written.
    """
    try:
        directory = RunDirectory.open(run)
    except RequestError as error:
        raise RequestError(f"{error}; {advice}") from error
    with directory:
        yield directory.path
        try:
            add_artifacts(directory, files, wait_seconds)
        except ValueError as error:
            warn(f"not sent to the tracker: {error}")


def add_artifacts(directory: RunDirectory, files: Sequence[str], wait_seconds: float) -> None:
    """Send files that were added to the directory of a finished run to the tracker.

    Raises `OSError` or `ValueError` if the journal cannot be written or read.
    """
    folders = [str(Path(file).parent) for file in files]
    added = [
        ArtifactEvent(file=file, folder=None if folder == "." else folder)
        for file, folder in zip(files, folders, strict=True)
    ]
    _add_events(directory, added, wait_seconds)


def add_model(directory: RunDirectory, shape: tuple[int, int, int], classes: int, wait_seconds: float) -> None:
    """Send the tracker the model of a finished run, unless that was done before.

    Raises `OSError` or `ValueError` if the journal cannot be written or read.
    """
    if (directory.path / MODEL).is_file() and not any(
        isinstance(event, ModelEvent) for event in read(directory.path)
    ):
        weights = directory.read_result().weights_sha256
        _add_events(directory, [_model_event(MODEL, shape, classes, weights)], wait_seconds)


def annotate(directory: RunDirectory, tags: Sequence[str] | None, note: str | None, wait_seconds: float) -> None:
    """Set a run's tags and note (None leaves them unchanged), in its result and in the tracker.

    Raises `RequestError` for a damaged result, `OSError` or `ValueError` if the journal cannot be written or read.
    """
    result = directory.read_result()
    events: list[Event] = []
    if tags is not None:
        result.tags = list(tags)
        events.append(TagsEvent(values={"tags": ", ".join(tags)}))
    if note is not None:
        has_journal = (directory.path / FILE).is_file()
        earlier = read(directory.path) if has_journal else []
        texts = [event.text for event in earlier if isinstance(event, NoteEvent)]
        description = _without_note(texts[-1], mask_credentials(result.note)) if texts else ""
        events.append(NoteEvent(text=_join(note, description)))
        result.note = note
    directory.write_result(result)
    _add_events(directory, [*events, ArtifactEvent(file=RESULT)], wait_seconds)


def _join(note: str, description: str) -> str:
    """Return the description of an MLflow run: the user's note, then the description by this program."""
    return "\n\n".join(filter(None, [note, description]))


def _without_note(text: str, note: str) -> str:
    return "" if text == note else text.removeprefix(f"{note}\n\n") if note else text


def _add_events(directory: RunDirectory, added: Sequence[Event], wait_seconds: float) -> None:
    """Append events to the journal of a run that has ended, and deliver them."""
    if not (directory.path / FILE).is_file():
        return
    events = read(directory.path)
    journal = Journal(directory.path)
    for event in added:
        journal.write(event)
    for last in events[-1:]:
        if isinstance(last, EndEvent):
            journal.write(last)  # with the time at which the run ended
    journal.close()
    run = first_run(events)
    if run is not None and run.enabled:
        Upload(directory.path, wait_seconds, enabled=True).finish()


def run_status(error: BaseException | None) -> str:
    """Return the status of a run, given the exception that ended it."""
    if error is None:
        return "finished"
    # Submitit ends a worker with `SystemExit` when its job is preempted.
    names = {KeyboardInterrupt: "interrupted", SystemExit: "interrupted", Killed: "killed", Pruned: "pruned"}
    return names.get(type(error), "failed")


def _reason(error: BaseException) -> str:
    """Return why a run ended early."""
    return PREEMPTED if isinstance(error, SystemExit) else str(error) or type(error).__name__


def _validated_row(row: Mapping[str, float]) -> Metrics:
    """Return an epoch's number and validation metrics."""
    return {"epoch": int(row["epoch"]), **{name: row[name] for name in row if name.startswith("val/")}}
