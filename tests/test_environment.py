"""Unusual environments: users without a name, homes that cannot be written."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.collector import Collector

from mnist_exp.commands.ui import _runs_table
from mnist_exp.config.schema import TrackingConfig
from mnist_exp.errors import WorkError
from mnist_exp.tracking.run_event import new_run_event


@pytest.mark.parametrize("error", [KeyError("getpwuid(): uid not found: 1234"), OSError("No username set")])
def test_a_user_without_a_name_can_train(monkeypatch: pytest.MonkeyPatch, error: Exception):
    """As in a container that was started with a user id."""

    def getuser() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", getuser)
    tracking = TrackingConfig(enabled=False, uri=None, experiment="x", wait_seconds=0)
    assert new_run_event("run", tracking, {}).tags["mlflow.user"] == "unknown"


def test_matplotlib_is_silent_about_a_home_that_cannot_be_written(tmp_path: Path):
    """It uses a temporary folder then."""
    (tmp_path / "home").touch()
    home = str(tmp_path / "home")
    environment = {**os.environ, "HOME": home, "XDG_CACHE_HOME": home, "XDG_CONFIG_HOME": home}
    environment.pop("MPLCONFIGDIR", None)
    code = "import mnist_exp.report.figure, matplotlib; matplotlib.get_cachedir()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stderr == ""


def test_ui_does_not_ask_a_proxy_for_this_machine(monkeypatch: pytest.MonkeyPatch):
    """Which would look for the address on its own machine."""
    with Collector() as proxy, Collector() as server:
        monkeypatch.setenv("http_proxy", proxy.uri)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert _runs_table(server.uri, "mnist-exp", Path("outputs")).startswith(server.uri)
        assert server.requests
        assert not proxy.requests


def test_ui_names_a_server_that_is_not_mlflows(monkeypatch: pytest.MonkeyPatch):
    """It may answer with anything."""
    for answer in ({}, {"experiment": []}, {"experiment": {}}):
        monkeypatch.setattr("mnist_exp.commands.ui.ask", lambda *_, answer=answer, **__: answer)
        with pytest.raises(WorkError, match="http://127.0.0.1:1: "):
            _runs_table("http://user:word@127.0.0.1:1", "mnist-exp", Path("outputs"))
