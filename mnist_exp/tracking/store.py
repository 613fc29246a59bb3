"""Which MLflow store is meant, and its first use."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mnist_exp.config.schema import TrackingConfig

DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"


def tracking_uri(tracking: TrackingConfig, outputs: Path) -> str:
    """The store's URI, absolute."""
    if tracking.uri is None:
        return f"sqlite:///{(outputs / DATABASE).resolve()}"
    database = database_path(tracking.uri)
    return tracking.uri if database is None else f"sqlite:///{database.resolve()}"


def artifact_root(uri: str) -> str | None:
    """Where a local store keeps its artifacts: beside the database. A server knows for itself."""
    database = database_path(uri)
    return None if database is None else (database.parent / ARTIFACTS).as_uri()


def database_path(uri: str) -> Path | None:
    """The file of an SQLite store."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a file lock. Processes that open a fresh SQLite store at once would all fail in its migration."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
