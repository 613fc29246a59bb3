"""The examples run, and leave what they promise."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.cli import PATIENCE

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_outputs_of_the_notebook_are_stripped():
    """The repository has neither outputs nor counts of executions."""
    notebook = json.loads((EXAMPLES / "first_study.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
def test_the_notebook_runs(use: Callable[[str], None]):
    """Every cell runs, and runs, sweeps and comparisons display themselves."""
    import nbclient
    import nbformat

    use("digits")
    notebook = nbformat.read(EXAMPLES / "first_study.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=600 * PATIENCE, kernel_name="python3").execute()
    shown = [
        output["data"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output["output_type"] == "execute_result"
    ]
    assert sum("text/html" in data for data in shown) >= 5
    assert len(list(Path("outputs/sweeps").glob("*/*/result.json"))) == 6


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_the_study_script_runs(use: Callable[[str], None]):
    """It checks, sweeps, compares, requires an accuracy, tags the best job, and exports its model."""
    use("digits")
    Path("bin").mkdir()
    command = Path("bin/mnist-exp")
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mnist_exp "$@"\n')
    command.chmod(0o755)
    path = f"{Path('bin').resolve()}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(EXAMPLES / "study.sh")],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=600 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout
    assert Path("exported").is_dir()
    best = Path(json.loads(Path("sweep.json").read_text())["best"])
    assert json.loads((best / "result.json").read_text())["tags"] == ["study", "best"]
