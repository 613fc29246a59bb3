"""Which MLflow store is meant, and its first use.

The store of an output folder is a database in it. It is told by where a run's directory stands, so that the folder
can be moved; every other store has a URI.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from mnist_exp.config.schema import TrackingConfig
from mnist_exp.runs.directory import RUNS, SWEEPS
from mnist_exp.runs.files import replace_file

DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"


# A request that is not answered is tried again by us, not inside MLflow's client, which takes 247 s to give up.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


def tracking_uri(tracking: TrackingConfig, outputs: Path) -> str:
    """The store's URI, absolute."""
    return store_of(outputs) if tracking.uri is None else absolute(tracking.uri)


def absolute(uri: str) -> str:
    """The same store, whatever the working directory is."""
    database = database_path(uri)
    return uri if database is None else f"sqlite:///{database.resolve()}"


def default_uri(run: Path) -> str | None:
    """The store of the output folder that a run's or sweep's directory is in; None if it is in none."""
    folders = [folder for folder in run.resolve().parents if folder.name in (RUNS, SWEEPS)]
    return store_of(folders[0].parent) if folders else None


def store_of(outputs: Path) -> str:
    """The URI of an output folder's own store."""
    return f"sqlite:///{(outputs / DATABASE).resolve()}"


def connect(uri: str) -> Any:
    """An `MlflowClient` for a store that answers. Raises whatever MLflow does, and `sqlite3.Error`, `OSError`."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    database = database_path(uri)
    if database is None:
        import mlflow

        client = mlflow.MlflowClient(uri)
        client.search_experiments(max_results=1)
        return client
    database.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(database.with_name(f".{database.name}.lock")):
        if not database.exists() or not database.stat().st_size:
            # Whole or not at all: whoever dies while MLflow makes the tables leaves a store that it never opens.
            for left in database.parent.glob(f".*.{database.name}*"):
                left.unlink()
            with replace_file(database) as temporary:
                _open(temporary)
        return _open(database)


def _open(database: Path) -> Any:
    """An `MlflowClient` for a database, with its tables. MLflow tries for 104 s to open what cannot be opened."""
    import mlflow

    with closing(sqlite3.connect(database)) as connection:
        connection.execute("begin immediate")
    client = mlflow.MlflowClient(f"sqlite:///{database}")
    client.search_experiments(max_results=1)
    return client


def artifact_root(uri: str) -> str | None:
    """Where a local store keeps its artifacts: beside the database. A server knows for itself."""
    database = database_path(uri)
    return None if database is None else (database.parent / ARTIFACTS).as_uri()


def database_path(uri: str) -> Path | None:
    """The file of an SQLite store."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


@contextmanager
def exclusive(path: Path, patience: float = 120) -> Iterator[None]:
    """Hold a file lock. Raises `TimeoutError` if another process holds it for `patience` seconds.

    Processes that open a fresh SQLite store at once would all fail in its migration.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    deadline = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"another process has held {path} for {patience:g} s") from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)
