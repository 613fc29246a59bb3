"""Record runs: in their directories, which are the truth, and in journals, which mirror them to the tracker."""

from __future__ import annotations

import getpass
import os
import platform
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from mnist_exp import __version__
from mnist_exp.config.schema import TrackingConfig
from mnist_exp.errors import Killed, Pruned, RequestError
from mnist_exp.runs.atomic import write_text
from mnist_exp.runs.directory import RunDirectory
from mnist_exp.runs.journal import END_STATUS, FILE, Journal, flatten, read
from mnist_exp.runs.locks import is_locked
from mnist_exp.runs.log import LOG, say, to_file, warn
from mnist_exp.runs.result import SCHEMA_VERSION, Metrics, RunResult
from mnist_exp.runs.signals import held
from mnist_exp.tracking.store import absolute
from mnist_exp.tracking.uploader_process import Sender

LEADERBOARD = "leaderboard.csv"
VERSIONS = ("tensorflow", "keras", "numpy", "hydra-core", "mlflow")


class RunRecord:
    """Writes a run's files and journal while it runs. A context manager that also records how the block ends."""

    def __init__(
        self,
        directory: RunDirectory,
        config: Mapping[str, Any],
        known: Mapping[str, Any],
        tracking: TrackingConfig,
        sweep: Path | None = None,
        earlier: RunResult | None = None,
    ) -> None:
        """Write the config and the first result, and start the journal.

        Args:
            directory: The run's directory, locked by this process.
            config: The resolved config.
            known: Fields of the result that are known from the start: fingerprint, data, device, overrides, …
            tracking: Where to report.
            sweep: The directory of the sweep that the run is a job of.
            earlier: The result of a resumed run. Its journal is continued; nothing is written there twice.
        """
        self.directory = directory
        self.path = directory.path
        self._tracking = tracking
        self.result = _first_result(directory.name, known, earlier)
        write_text(self.path / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
        directory.write_result(self.result)
        self.journal = Journal(self.path)
        self._written = {_subject(line) for line in read(self.path)}
        self._write_first_events(config, sweep, resumed=earlier is not None)
        self._log = to_file(self.path / LOG)
        self._log.__enter__()
        # A running sweep's own uploader delivers for its jobs, and waits once, at the end.
        alone = sweep is None or not is_locked(sweep)
        self._sender = Sender(self.path) if tracking.enabled and alone else None

    def _write_first_events(self, config: Mapping[str, Any], sweep: Path | None, *, resumed: bool) -> None:
        """Write the run, its parameters and its data into the journal and, for a resumed run, the resumption."""
        self._write(
            "run",
            name=self.result.name,
            key=uuid.uuid4().hex,
            experiment=self._tracking.experiment,
            tags=self._tags(),
            **_store(self._tracking),
            parent=None if sweep is None else str(sweep),
        )
        parameters = {key: value for key, value in config.items() if key not in ("tracking", "outputs", "sweep")}
        self._write("params", values=flatten(parameters))
        data = self.result.data
        self._write(
            "dataset",
            name=data.name,
            sha256=data.sha256,
            source=data.origin,
            shape=data.shape,
            images=data.images,
        )
        if resumed:
            entry = {**self.result.resumed[-1].model_dump(), "exact": self.result.exact}
            self._write("resumed", status="RUNNING", fingerprint=self.result.fingerprint, **entry)

    def _write(self, kind: str, **content: Any) -> None:
        """Write a line into the journal, unless it has one on the same subject."""
        subject = _subject({"kind": kind, **content})
        if subject is None or subject not in self._written:
            self.journal.write(kind, **content)
            self._written.add(subject)

    def _tags(self) -> dict[str, str]:
        result, data = self.result, self.result.data
        tags = {
            **_source_tags(),
            "data": str(data.name),
            "data_sha256": str(data.sha256),
            "fingerprint": str(result.fingerprint),
            "overrides": " ".join(result.overrides),
            "directory": str(self.path),
            **{key: str(value) for key, value in result.device.model_dump().items()},
        }
        if data.stands_in_for:
            tags["fallback"] = data.stands_in_for
        return tags

    def epoch(self, history: list[dict[str, float]], best_epoch: int | None) -> None:
        """Record the last epoch of the history, and which is the best so far."""
        self.history(history)
        if best_epoch is not None:
            self.result.best = _validated_row(history[best_epoch - 1])
        self.directory.write_result(self.result)  # the state that is left if the process is killed
        self._write_epoch(history[-1])

    def catch_up(self, history: list[dict[str, float]], best_epoch: int | None) -> None:
        """Record the epochs that a resumed run had finished, but not recorded before it was killed."""
        for row in history:
            self._write_epoch(row)
        if history:
            self.epoch(history, best_epoch)

    def _write_epoch(self, row: Mapping[str, float]) -> None:
        values = {name: value for name, value in row.items() if name not in ("epoch", "seconds")}
        self._write("metrics", step=int(row["epoch"]), values={**values, "time/epoch": row["seconds"]})

    def history(self, history: list[dict[str, float]]) -> None:
        """Write the history of all epochs so far."""
        self.directory.write_history(history)
        self.result.epochs = len(history)

    def best(self, row: Mapping[str, float]) -> None:
        """Record the epoch whose weights are saved."""
        self.result.best = _validated_row(row)
        values = {f"best/{name}": value for name, value in self.result.best.items()}
        self._write("metrics", step=int(row["epoch"]), values=values)

    def test(self, metrics: Mapping[str, float]) -> None:
        """Record the saved model's test metrics."""
        assert self.result.best is not None
        self.result.test = dict(metrics)
        values = {f"test/{name}": value for name, value in metrics.items()}
        self._write("metrics", step=int(self.result.best["epoch"]), values=values)

    def artifact(self, file: str, folder: str | None = None) -> None:
        """Send a file of the run directory to the tracker."""
        self._write("artifact", file=file, folder=folder)

    def model(self, file: str, shape: tuple[int, int, int], classes: int) -> None:
        """Send the saved model to the tracker, ready to be served."""
        requirements = [f"{name}=={version(name)}" for name in ("mlflow", "tensorflow", "keras", "numpy")]
        self._write(
            "model", file=file, shape=list(shape), classes=classes, requirements=requirements,
            weights_sha256=self.result.weights_sha256,
        )  # fmt: skip

    def note(self, text: str) -> None:
        """Send the run's description, in Markdown, to the tracker."""
        self._write("note", text=text)

    def seconds(self, phases: Mapping[str, float]) -> None:
        """Record the duration of each phase."""
        self.result.seconds = dict(phases)
        self._write(
            "metrics",
            step=self.result.epochs,
            values={f"time/{name}": value for name, value in phases.items()},
        )

    def __enter__(self) -> RunRecord:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.result.reason = str(error) or type(error).__name__
        try:
            self._end(status_of(error))
        except OSError as failure:
            if error is None:
                raise
            warn(f"the run's end could not be noted: {failure}")
        finally:
            self._log.__exit__(kind, error, trace)

    def _end(self, status: str) -> None:
        self.result.status = status
        self.result.ended = time.time()
        # Before waiting for the tracker: the run has ended, whatever happens there.
        wait_seconds = self._tracking.wait_seconds
        try:
            with held():
                try:
                    if status == "pruned":
                        self._write("tags", values={"pruned": "true"})
                    self.journal.write("end", status=END_STATUS[status])
                    self.journal.close()
                finally:
                    self.directory.write_result(self.result)
        except (KeyboardInterrupt, Killed):
            if self._sender is None:
                raise
            wait_seconds = 0
        if self._sender is None:
            return
        deliver_rest(self._sender, wait_seconds, self.path)
        self.result.mlflow_run_id = self._sender.run_id
        self.directory.write_result(self.result)


def _first_result(name: str, known: Mapping[str, Any], earlier: RunResult | None) -> RunResult:
    """Return the result of a run that starts, or that resumes after `earlier`."""
    identity: dict[str, Any] = {"name": name, "started": time.time(), "mlflow_run_id": None}
    if earlier is not None:
        identity = {key: getattr(earlier, key) for key in (*identity, "resumed", "exact")}
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


class TestRecord(RunRecord):
    """Reopens the record of a finished trial to add the test metrics that the search withheld."""

    def __init__(self, directory: RunDirectory) -> None:
        """Raise `RequestError` for a damaged `result.json`."""
        self.directory = directory
        self.path = directory.path
        self.result = directory.read_result()
        self.journal = Journal(self.path)
        self._written = {_subject(line) for line in read(self.path)}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.journal.write("end", status=END_STATUS["finished"], time=int((self.result.ended or 0) * 1000))
            self.result.withholds_test = False
            self.directory.write_result(self.result)
        self.journal.close()


class SweepRecord:
    """Records a sweep: an MLflow run with the leaderboard, the parent of its jobs' runs.

    A resumed sweep continues its record. The caller holds the directory's lock.
    """

    def __init__(self, directory: Path, overrides: Sequence[str], tracking: TrackingConfig) -> None:
        """Raise `RequestError` if the sweep's journal cannot be read."""
        self._directory, self._tracking = directory, tracking
        self._journal = Journal(directory)
        try:
            goes_on = bool(read(directory))
        except ValueError as error:
            raise RequestError(str(error)) from error
        if goes_on:
            self._journal.write("resumed", status="RUNNING")
        else:
            begin_parent(self._journal, overrides, tracking)
        self._sender = Sender(directory) if tracking.enabled else None

    def leaderboard(self, table: str, note: str, best: float | None) -> None:
        """Write the jobs' table as CSV, and as the MLflow run's description in Markdown."""
        write_text(self._directory / LEADERBOARD, table)
        self._journal.write("artifact", file=LEADERBOARD, folder=None)
        self._journal.write("note", text=note)
        if best is not None:
            self._journal.write("metrics", step=0, values={"best/val/accuracy": best})

    def __enter__(self) -> SweepRecord:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._journal.write("end", status=END_STATUS[status_of(error)])
        self._journal.close()
        if self._sender is not None:
            deliver_rest(self._sender, self._tracking.wait_seconds, self._directory)


def begin_parent(journal: Journal, overrides: Sequence[str], tracking: TrackingConfig) -> None:
    """Write the first line of the journal of a sweep or search, the parent of its jobs' runs."""
    journal.write(
        "run",
        name=journal.folder.name,
        key=uuid.uuid4().hex,
        experiment=tracking.experiment,
        tags={**_source_tags(), "overrides": " ".join(overrides), "directory": str(journal.folder)},
        **_store(tracking),
        parent=None,
    )


def has_leaderboard(directory: Path, table: str) -> bool:
    """Whether the sweep's record is finished and has this table."""
    try:
        ended = read(directory)[-1:]
        return [line.get("status") for line in ended] == [END_STATUS["finished"]] and (
            directory / LEADERBOARD
        ).read_text(encoding="utf-8") == table
    except (OSError, ValueError):
        return False


def add_artifacts(directory: RunDirectory, files: Sequence[str], wait_seconds: float) -> None:
    """Send files to the tracker that were added to the directory of a finished run.

    Raises `OSError` or `ValueError` if the journal cannot be written or read.
    """
    if not (directory.path / FILE).is_file():
        return
    first, *_, last = lines if len(lines := read(directory.path)) > 1 else [{}, {}]
    journal = Journal(directory.path)
    for file in files:
        journal.write("artifact", file=file, folder=str(Path(file).parent))
    if last.get("kind") == "end":
        journal.write(**last)  # the end keeps its time
    journal.close()
    if first.get("enabled"):
        deliver_rest(Sender(directory.path), wait_seconds, directory.path)


def _store(tracking: TrackingConfig) -> dict[str, Any]:
    """The store in a `run` event. That of the output folder has no URI, so that the folder can be moved."""
    return {"enabled": tracking.enabled, "uri": None if tracking.uri is None else absolute(tracking.uri)}


def status_of(error: BaseException | None) -> str:
    """Return the status of a run by the exception that ended it."""
    if error is None:
        return "finished"
    return {KeyboardInterrupt: "interrupted", Killed: "killed", Pruned: "pruned"}.get(type(error), "failed")


def _subject(line: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Return the subject of a journal line, which is written once; None for lines that may repeat."""
    kind = line["kind"]
    if kind in ("run", "params", "dataset", "note"):
        return (kind,)
    if kind == "metrics":
        return (kind, line["step"], *sorted(line["values"]))
    return (kind, line.get("weights_sha256")) if kind == "model" else None


def deliver_rest(sender: Sender, wait_seconds: float, directory: Path) -> None:
    """Wait for the delivery to finish, and report if it does not."""
    failure = sender.finish(wait_seconds)
    if failure is not None:
        warn(f"the tracker did not get everything: {failure}")
        say(f"What it missed is kept in {directory / FILE}; 'mnist-exp sync' delivers it.")


def _source_tags() -> dict[str, str]:
    tags = {"mlflow.source.name": "mnist-exp", "mlflow.source.type": "LOCAL", "mlflow.user": _user()}
    if commit := _git_commit():
        tags["mlflow.source.git.commit"] = commit
    return tags


def _validated_row(row: Mapping[str, float]) -> Metrics:
    """Return an epoch's number and validation metrics."""
    return {"epoch": int(row["epoch"]), **{name: row[name] for name in row if name.startswith("val/")}}


def _user() -> str:
    try:
        return getpass.getuser()
    except OSError:  # a user id without a name, as in some containers
        return "unknown"


def _git_commit() -> str | None:
    """Return the commit of the working directory's repository."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
