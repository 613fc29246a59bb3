"""`mnist-exp ui`: serve or open MLflow's UI at the table of runs, or at one run."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from mnist_exp.config.command_schemas import UiConfig
from mnist_exp.config.overrides import Request
from mnist_exp.config.validation import compose_checked
from mnist_exp.engine.store_permission import permit_store
from mnist_exp.errors import RequestError, WorkError
from mnist_exp.runs.lookup import find_run
from mnist_exp.runs.system_calls import ENDING_SIGNALS, end_group
from mnist_exp.text import display_path, printable, shorten, without_credentials
from mnist_exp.tracking.runs_view import (
    find_feature_maps,
    find_swept_keys,
    share_run_charts,
    share_runs_view,
)
from mnist_exp.tracking.server import ask, open_url
from mnist_exp.tracking.store import artifact_root, database_path, tracking_uri, update_moved_locations

_FIRST_PORT = 5000
_START_SECONDS = 60
_MACHINE_LEARNING = "workflowType=machine_learning"  # otherwise the page for language models opens


def ui(request: Request, started: float) -> None:
    """Serve the UI until Ctrl-C or, if a server is configured, print its address and open it if requested.

    Raises `RequestError` or `WorkError`.
    """
    config, _ = compose_checked(request, UiConfig)
    run = None if config.run is None else _find_run(config.run, Path(config.outputs))
    if not config.tracking.enabled:
        raise RequestError("tracking=none: nothing is logged to MLflow, so the UI has nothing to show")
    tracking = permit_store(request, config.tracking, Path(config.outputs))
    uri = tracking_uri(tracking, Path(config.outputs))
    if uri.startswith(("http://", "https://")):
        _show(uri.rstrip("/"), config, run)
        return
    database = database_path(uri)
    if database is not None and not database.is_file():
        raise RequestError(f"{database}: there is no MLflow store here yet; train a run first")
    if database is not None:
        with contextlib.suppress(sqlite3.Error):  # read-only: show it as it is
            update_moved_locations(database)
    port = config.port or _free_port(config.host)
    if not _is_free(config.host, port):
        raise RequestError(f"port={port}: in use on {config.host}; port=null selects a free port")
    address = f"http://{config.host}:{port}"
    print(printable(f"Starting MLflow's UI on {uri} …"), flush=True)
    for name in ENDING_SIGNALS:  # a closed terminal must end the server too
        signal.signal(name, signal.default_int_handler)
    with tempfile.TemporaryFile() as log:
        server = _start_server(config.host, port, uri, log)
        try:
            _wait_for(address, server, log)
            _show(address, config, run)
            print("Press Ctrl-C to stop it.", flush=True)
            server.wait()
            raise WorkError("MLflow's UI exited unexpectedly")
        except KeyboardInterrupt:
            pass
        finally:
            _end(server)


def _start_server(host: str, port: int, uri: str, log: IO[bytes]) -> subprocess.Popen[bytes]:
    # One worker and no job runner: 5 s and 0.5 GB instead of 15 s and 2.9 GB. `-P`, PYTHONSAFEPATH and
    # `--app-dir`: don't import modules such as `mlflow.py` from the user's folder.
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--host", host, "--port", str(port),
               "--workers", "1", f"--uvicorn-opts=--app-dir={os.devnull}"]  # fmt: skip
    if (root := artifact_root(uri)) is not None:
        command += ["--default-artifact-root", root]
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,  # the command line of a process is public
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONSAFEPATH": "1",
    }
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def _wait_for(address: str, server: subprocess.Popen[bytes], output: IO[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            output.seek(0)
            lines = output.read().decode(errors="replace").strip().splitlines()
            raise WorkError(f"MLflow's UI did not start: {lines[-1] if lines else 'no output'}")
        with contextlib.suppress(OSError), open_url(f"{address}/health", timeout=2):
            return
        time.sleep(0.1)
    raise WorkError(f"MLflow's UI did not respond within {_START_SECONDS} s")


@dataclass(frozen=True)
class _DeliveredRun:
    """A run that MLflow has."""

    path: Path
    run_id: str


def _find_run(wanted: str, outputs: Path) -> _DeliveredRun:
    """Return a run that MLflow has. Raises `RequestError` if there is no such run, or it was not delivered."""
    run = find_run(wanted, outputs, latest=lambda _: True)
    if (run_id := run.result.mlflow_run_id) is None:
        advice = f"'mnist-exp sync {shlex.quote(f'run={display_path(run.path)}')}' delivers it"
        raise RequestError(f"run={wanted}: has not been delivered to MLflow yet; {advice}")
    return _DeliveredRun(run.path, run_id)


def _show(address: str, config: UiConfig, run: _DeliveredRun | None) -> None:
    """Print the addresses of a run's pages, or of the table of runs. Open the first if requested."""
    if run is None:
        pages = [_runs_table(address, config.tracking.experiment, Path(config.outputs))]
    else:
        pages = _run_pages(address, config, run)
    print("\n".join(pages), flush=True)
    if config.open:
        webbrowser.open(pages[0])


def _run_pages(address: str, config: UiConfig, run: _DeliveredRun) -> list[str]:
    """Return the address of a run's page and, if the view can be created, that of its charts."""
    bare = without_credentials(address)
    missing = f"{bare}: has no run {shorten(run.run_id)}, which is run={config.run}"
    number = _experiment_id(address, "runs/get", {"run_id": run.run_id}, ("run", "info"), missing)
    runs = f"{bare}/#/experiments/{quote(number, safe='')}/runs"
    page = f"{runs}/{quote(run.run_id, safe='')}?{_MACHINE_LEARNING}"
    try:
        charts = share_run_charts(address, number, run.run_id, find_feature_maps(run.path))
    except (OSError, HTTPException):  # such as a store that this user may only read
        return [page]
    return [page, f"Charts: {runs}?{_MACHINE_LEARNING}&{charts}"]


def _runs_table(address: str, name: str, outputs: Path) -> str:
    """Return the address of an experiment's runs, with the view that shows their results if it can be created."""
    missing = f"{without_credentials(address)}: there is no experiment '{name}' yet; train a run first"
    values = {"experiment_name": name}
    number = _experiment_id(address, "experiments/get-by-name", values, ("experiment",), missing)
    page = f"{without_credentials(address)}/#/experiments/{quote(number, safe='')}/runs?{_MACHINE_LEARNING}"
    try:
        return f"{page}&{share_runs_view(address, number, find_swept_keys(outputs))}"
    except (OSError, HTTPException):  # such as a store that this user may only read
        return page


def _experiment_id(address: str, endpoint: str, values: dict[str, str], keys: Sequence[str], missing: str) -> str:
    """Return the experiment's id, at `keys` in a server's answer.

    Raises `RequestError` with `missing` if the server lacks the experiment or run, `WorkError` without an answer.
    """
    bare = without_credentials(address)
    try:
        found: Any = ask(address, endpoint, values, timeout=10)
        for key in (*keys, "experiment_id"):
            found = found[key]
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise RequestError(missing) from error
        raise WorkError(f"{bare}: {error}") from error
    except OSError as error:
        raise WorkError(f"{bare}: no MLflow server is responding: {getattr(error, 'reason', error)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise WorkError(f"{bare}: the response did not come from MLflow; is the address correct?") from error
    return str(found)


def _free_port(host: str) -> int:
    return next((port for port in range(_FIRST_PORT, _FIRST_PORT + 100) if _is_free(host, port)), _FIRST_PORT)


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server and its worker processes."""
    for at_once in (False, True):
        with contextlib.suppress(ProcessLookupError):
            end_group(server.pid, at_once=at_once)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(5)
            return
