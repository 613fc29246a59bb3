"""Shared fixtures: the command line in this process, the data, and a count of the data sets used.

Tests run on MNIST where MNIST_EXP_DATA names its folder, else on the built-in digits. The summary says how
many ran on which. A test marked `mnist` is skipped without the files, and fails when they are there and it did
not use them.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import MNIST, SMALL, Cli, Outcome

pytest_plugins = ["support.golden"]

# The tests run on the CPU everywhere, even on a machine with GPUs.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

# Caches that all tests share: without them, each process that draws looks for fonts again, and each environment
# downloads all packages.
_CACHES = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("MPLCONFIGDIR", str(_CACHES / "matplotlib"))
os.environ.setdefault("UV_CACHE_DIR", str(_CACHES / "uv"))

_NOT_OURS = ("MLFLOW_TRACKING_URI", "HYDRA_FULL_ERROR")
for _name in _NOT_OURS:
    os.environ.pop(_name, None)

_used: dict[str, set[str]] = {}


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    functions = {getattr(item, "function", None) for item in items if item.get_closest_marker("soak")} - {None}
    for item in items:
        if getattr(item, "function", None) in functions:
            item.add_marker(pytest.mark.sampled)
        if item.get_closest_marker("mnist") and MNIST is None:
            item.add_marker(pytest.mark.skip(reason="MNIST_EXP_DATA does not name MNIST's folder"))


def pytest_collection_finish() -> None:
    """Let the garbage collector ignore TensorFlow and the tests, as the commands do with what they import."""
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    try:
        yield
    finally:
        # A report brings it to the process that counts, when several run tests.
        item.user_properties += [("data", name) for name in sorted(_used.get(item.nodeid, ()))]
    if item.get_closest_marker("mnist") and "mnist" not in _used.get(item.nodeid, ()):
        pytest.fail("is marked mnist, but did not use the files that are there")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    called = [report for report in reports if report.when == "call"]
    counts = Counter(name for report in called for key, name in report.user_properties if key == "data")
    found = f"MNIST from {MNIST}" if MNIST else "no MNIST_EXP_DATA"
    used = ", ".join(f"{counts[name]} on {name}" for name in sorted(counts)) or "none"
    terminalreporter.write_line(f"data: {found}; tests that trained or read images: {used}")


@pytest.fixture(autouse=True)
def _no_trace_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate each test: no user cache, no tracking server, a working directory of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    for name in _NOT_OURS:
        monkeypatch.setenv(name, "")  # so that what a test or MLflow sets is undone: a fixture may come next
        monkeypatch.delenv(name)
    work = tmp_path / "here"
    work.mkdir()
    monkeypatch.chdir(work)


@pytest.fixture
def use(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Record that a test used a data set."""
    return lambda name: _used.setdefault(request.node.nodeid, set()).add(name)


@pytest.fixture
def home_data() -> list[str]:
    """Return overrides for the data available here."""
    return [] if MNIST else ["data=digits"]


@pytest.fixture
def run(trained: Path, use: Callable[[str], None]) -> Path:
    """Return the directory of the module's `trained` run on the built-in digits, copied into `outputs`."""
    shutil.copytree(trained, "outputs")
    use("digits")
    [found] = Path("outputs/runs").iterdir()
    return found


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], home_data: list[str], use: Callable[[str], None]) -> Cli:
    """Run a command line in this process; `small` adds overrides that make training take a second."""

    def run(*words: str, small: bool = False, status: int | None = 0) -> Outcome:
        from mnist_exp.cli import main

        if small:
            words = (*SMALL, *home_data, *words)
        capsys.readouterr()
        handlers = logging.root.handlers[:]
        found = main(list(words))
        logging.root.handlers[:] = handlers  # Hydra's --info sets up logging to an output that capsys closes
        out, err = capsys.readouterr()
        assert status is None or found == status, f"exit status {found}\n{out}\n{err}"
        assert "Traceback" not in out + err
        outcome = Outcome(found, out, err)
        if match := re.search(r"^run +(\S+)$", out, re.MULTILINE):
            outcome.run = Path(match[1]).resolve()
            outcome.result = json.loads((outcome.run / "result.json").read_text(encoding="utf-8"))
            use(outcome.result["data"]["name"])
        if match := re.search(r"^sweep +(\S+): ", out, re.MULTILINE):
            for file in Path(match[1]).glob("*/result.json"):
                use(json.loads(file.read_text(encoding="utf-8"))["data"]["name"])
        return outcome

    return run
