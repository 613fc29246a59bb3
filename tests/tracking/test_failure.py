"""Why something could not be delivered, in one line."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from mnist_exp.tracking.failure import describe_failure

SERVER = "http://127.0.0.1:5000"
PAGE = f"<html>\n{'x' * 5000}</html>"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def answered(status: int, text: str) -> Exception:
    """Return the exception that MLflow's client raises for an answer."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.rest_utils import verify_rest_response

    with pytest.raises(MlflowException) as caught:
        verify_rest_response(SimpleNamespace(status_code=status, text=text), "/api/2.0/mlflow/runs/create")
    return caught.value


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503, 599])
def test_a_page_instead_of_an_answer_is_one_sentence(status: int):
    """With the address and the status."""
    said = describe_failure(answered(status, PAGE), SERVER)
    assert said.startswith(f"{SERVER}: ")
    assert str(status) in said
    assert "html" not in said
    assert "\n" not in said


def test_a_page_that_claims_success_is_recognized():
    """As from a login page, or the wrong address."""
    said = describe_failure(answered(200, PAGE), SERVER)
    assert said.startswith(f"{SERVER}: ")
    assert "html" not in said


def test_the_proxy_is_named(monkeypatch: pytest.MonkeyPatch):
    """Without its password; unless the server is reached without it."""
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:3128")
    error = Exception(
        f"API request to {SERVER}/api/x failed with exception HTTPConnectionPool: [Errno 111] refused"
    )
    assert describe_failure(error, SERVER) == f"{SERVER}: refused (through the proxy http://***@127.0.0.1:3128)"
    assert "127.0.0.1:3128" in describe_failure(answered(503, PAGE), SERVER)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert describe_failure(error, SERVER) == f"{SERVER}: refused"


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("attempt to write a readonly database", ""),
        ("database or disk is full", ""),
        ("database disk image is malformed", "mnist-exp sync outputs=outputs"),
        ("file is not a database", "mnist-exp sync outputs=outputs"),
    ],
)
def test_the_innermost_error_of_a_database_is_reported(message: str, advice: str):
    """With the database's path, and what helps."""
    try:
        try:
            raise sqlite3.OperationalError(message)
        except sqlite3.Error as inner:
            raise RuntimeError("raised as a result of Query-invoked autoflush") from inner
    except RuntimeError as error:
        said = describe_failure(error, f"sqlite:///{Path.cwd() / 'outputs/mlflow.db'}")
    assert said.startswith(f"outputs/mlflow.db: {message}")
    assert advice in said


def test_the_path_of_a_system_error_is_reported():
    """Relative to the working directory."""
    error = OSError(errno.EROFS, os.strerror(errno.EROFS), str(Path.cwd() / "outputs/.mlflow.db.lock"))
    assert describe_failure(error, "sqlite:///x.db") == "outputs/.mlflow.db.lock: Read-only file system"


def test_a_database_of_another_mlflow_is_reported_with_the_command():
    """Instead of MLflow's own paragraph."""
    error = Exception("Detected out-of-date database schema (found version a, but expected b). Take a backup …")
    assert "'mlflow db upgrade sqlite:////x/mlflow.db'" in describe_failure(error, "sqlite:////x/mlflow.db")


@pytest.mark.parametrize("error", [sqlite3.OperationalError("attempt to write a readonly database"), None])
def test_a_store_of_another_user_is_reported_with_the_command(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch
):
    """Whichever of its files cannot be written to."""
    database = Path.cwd() / "outputs/mlflow.db"
    database.parent.mkdir()
    database.touch()
    lock = database.with_name(".mlflow.db.lock")
    error = error or PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(lock))
    assert "chmod" not in describe_failure(error, f"sqlite:///{database}")
    monkeypatch.setattr(os, "geteuid", lambda: database.stat().st_uid + 1)
    assert "'chmod -R g+w outputs'" in describe_failure(error, f"sqlite:///{database}")
