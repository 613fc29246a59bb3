"""Locate and open MLflow stores.

An output folder's own store is a database in that folder. It is located relative to a run's directory, so that the
folder can be moved. Every other store has a URI.
"""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

from mnist_exp.config.schema import TrackingConfig
from mnist_exp.runs.atomic import replace_file
from mnist_exp.runs.directory import RUNS, SWEEPS
from mnist_exp.runs.locks import exclusive
from mnist_exp.text import display_path, mask_credentials, shorten
from mnist_exp.tracking.locations import (
    ARTIFACTS,
    LOCATIONS,
    ForeignLocation,
    is_of_an_output_folder,
    refuse_foreign_locations,
)

DATABASE = "mlflow.db"
_PATIENCE = 2.0  # seconds for a server to answer before training
_SQLITE = "sqlite:///"


# The uploader retries requests itself: MLflow's client takes 247 s to give up.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # errors are reported here, without tracebacks
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


def prepare_environment() -> None:
    """Set MLflow's variables that are not set. Call before importing MLflow."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def tracking_uri(tracking: TrackingConfig, outputs: Path) -> str:
    """Return the store's absolute URI."""
    return own_store_uri(outputs) if tracking.uri is None else make_absolute(tracking.uri)


def make_absolute(uri: str) -> str:
    """Return a store's URI in a form that does not depend on the working directory."""
    database = database_path(uri)
    return uri if database is None else sqlite_uri(database.resolve())


def default_uri(run: Path) -> str | None:
    """Return the URI of the store in the output folder that contains a run or sweep; None outside of one."""
    folders = [folder for folder in run.resolve().parents if folder.name in (RUNS, SWEEPS)]
    return own_store_uri(folders[0].parent) if folders else None


def own_store_uri(outputs: Path) -> str:
    """Return the URI of an output folder's own store."""
    return sqlite_uri(outputs.resolve() / DATABASE)


def import_mlflow() -> Any:
    """Return the library, whose import takes a second."""
    import mlflow

    return mlflow


def connect(uri: str) -> Any:
    """Connect to a store and return its client. Raises any exception of MLflow, `sqlite3.Error` or `OSError`."""
    prepare_environment()
    database = database_path(uri)
    if database is None:
        client = import_mlflow().MlflowClient(uri)
        client.search_experiments(max_results=1)
        return client
    database.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(database.with_name(f".{database.name}.lock")):
        if not database.exists() or not database.stat().st_size:
            # Atomic: MLflow never opens a store whose creation was cut short.
            for left in database.parent.glob(f".*.{database.name}*"):
                left.unlink()
            with replace_file(database) as temporary:
                _open(temporary)
        return _open(database)


def _open(database: Path) -> Any:
    """Return a client for a database, creating its tables. MLflow retries for 104 s if it cannot open the file."""
    update_moved_locations(database)
    if is_of_an_output_folder(database):
        refuse_foreign_locations(database)
    client = import_mlflow().MlflowClient(sqlite_uri(database))
    client.search_experiments(max_results=1)
    return client


def check_own_store(outputs: Path) -> None:
    """Raise `ForeignLocation` if the output folder's own store must not be used. Contacts no server."""
    database = outputs.resolve() / DATABASE
    if database.is_symlink():
        raise ForeignLocation(
            f"{display_path(database)}: is a symbolic link; use tracking.uri=sqlite:///<path> for another database"
        )
    with suppress(sqlite3.Error):  # damaged, or owned by another user: MLflow reports it
        if database.is_file() and database.stat().st_size:
            update_moved_locations(database)
            refuse_foreign_locations(database)


def find_deleted(uri: str, experiment: str, run_id: str | None = None) -> str:
    """Return a message if an experiment or a run was deleted in a store, with the command that restores it.

    The message is empty if neither was deleted, or if that cannot be found out quickly.
    """
    if uri.startswith(("http://", "https://")):
        return _find_deleted_on_server(uri, experiment, run_id)
    database = database_path(uri)
    if database is None or not database.is_file():
        return ""
    with (
        suppress(sqlite3.Error),  # damaged, or not MLflow's
        closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection,
    ):
        found = "where lifecycle_stage = 'deleted' and"
        for (number,) in connection.execute(
            f"select experiment_id from experiments {found} name = ?", [experiment]
        ):
            return _deleted_experiment(uri, experiment, number)
        for (number,) in connection.execute(f"select run_uuid from runs {found} run_uuid = ?", [run_id or ""]):
            return _deleted_run(uri, number)
    return ""


def _find_deleted_on_server(uri: str, experiment: str, run_id: str | None) -> str:
    """Ask a server, for two seconds at most: training does not wait for a tracker."""
    answers: list[str] = []

    def question() -> None:
        from mnist_exp.tracking.server import ask  # ssl, needed for servers only

        with suppress(OSError, ValueError, KeyError, TypeError):  # not reachable, or not MLflow's
            found = ask(uri, "experiments/get-by-name", {"experiment_name": experiment}, _PATIENCE)["experiment"]
            if found["lifecycle_stage"] == "deleted":
                answers.append(_deleted_experiment(uri, experiment, found["experiment_id"]))
            elif run_id is not None:
                found = ask(uri, "runs/get", {"run_id": run_id}, _PATIENCE)["run"]["info"]
                if found["lifecycle_stage"] == "deleted":
                    answers.append(_deleted_run(uri, run_id))

    thread = Thread(target=question, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return answers[0] if answers else ""


def _deleted_experiment(uri: str, name: str, number: object) -> str:
    return f"the experiment '{name}' was deleted: {restoring_command(uri, 'experiment', number)}"


def _deleted_run(uri: str, run_id: object) -> str:
    return f"the run {run_id} was deleted: {restoring_command(uri, 'run', run_id)}"


def restoring_command(uri: str, kind: str, number: object) -> str:
    """Return the command that restores a deleted experiment or run, as advice for the user."""
    variable = f"MLFLOW_TRACKING_URI={shlex.quote(mask_credentials(uri))}"
    return f"'{variable} mlflow {kind}s restore --{kind}-id {shlex.quote(shorten(str(number)))}' restores it"


def update_moved_locations(database: Path) -> None:
    """Update the artifact locations in a database whose folder was moved: MLflow stores absolute paths.

    Raises `sqlite3.Error` if the database cannot be written to.
    """
    root = database.resolve().parent / ARTIFACTS
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("begin immediate")
        if not root.is_dir() or not _columns(connection, "experiments"):
            return
        locations = [row[0] for row in connection.execute("select distinct artifact_location from experiments")]
        for old in locations:
            if old == root.as_uri() or not re.fullmatch(rf"file:.*/{ARTIFACTS}", old or ""):
                continue
            for table, column in LOCATIONS:
                if column in _columns(connection, table):
                    moved = f"{column} = ? || substr({column}, ?)"
                    within = f"substr({column} || '/', 1, ?) = ?"
                    values = (root.as_uri(), len(old) + 1, len(old) + 1, f"{old}/")
                    connection.execute(f"update {table} set {moved} where {within}", values)


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in connection.execute(f"pragma table_info({table})")}


def artifact_root(uri: str) -> str | None:
    """Return the artifact folder of a local store, next to its database; None for a server."""
    database = database_path(uri)
    return None if database is None else (database.parent / ARTIFACTS).as_uri()


def database_path(uri: str) -> Path | None:
    """Return the file of an SQLite store; None for other stores."""
    return Path(unquote(uri.removeprefix(_SQLITE))) if uri.startswith(_SQLITE) else None


def sqlite_uri(database: Path) -> str:
    """Return the URI of an SQLite store, with `%` and `?`, which SQLAlchemy would interpret, escaped."""
    return _SQLITE + str(database).replace("%", "%25").replace("?", "%3F")
