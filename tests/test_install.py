"""What a new user does: the Makefile in a fresh clone, and the wheel in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parent.parent


def call(*words: str | Path, cwd: Path, timeout: float = 600) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    done = subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, (words, done.stdout[-3000:], done.stderr[-3000:])
    return done.stdout


def test_make_run_sets_up_and_trains_in_a_fresh_clone(tmp_path: Path, use: Callable[[str], None]):
    """Nothing but a clone, Python, make and a package index."""
    call("git", "clone", "--quiet", str(REPOSITORY), "clone", cwd=tmp_path)
    clone = tmp_path / "clone"
    assert "make run" in call("make", "help", cwd=clone)
    out = call("make", "run", cwd=clone)
    [run] = (clone / "outputs" / "runs").iterdir()
    result = json.loads((run / "result.json").read_text())
    use(result["data"]["name"])
    assert result["status"] == "finished"
    assert result["mlflow_run_id"]
    assert "test    accuracy" in out
    assert call("git", "status", "--porcelain", cwd=clone) == ""


def test_the_wheel_runs_from_another_folder(tmp_path: Path, use: Callable[[str], None]):
    """In an environment with the wheel alone, with its own options and with a user's."""
    call(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", REPOSITORY, cwd=tmp_path)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    options = {
        f"mnist_exp/conf/{path.relative_to(REPOSITORY / 'conf')}" for path in (REPOSITORY / "conf").rglob("*.yaml")
    }
    assert options <= names
    assert not any(name.startswith(("tests/", "conf/")) for name in names)

    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    pins = REPOSITORY / "pins.txt"
    call(python, "-m", "pip", "install", "--quiet", "--constraint", pins, wheel, cwd=tmp_path)

    elsewhere = tmp_path / "an odd [folder]=1"
    (elsewhere / "mine" / "model").mkdir(parents=True)
    (elsewhere / "mine" / "model" / "tiny.yaml").write_text(
        "name: tiny\nlayers: [Flatten, {type: Dense, units: '${data.classes}'}, Softmax]\n"
    )
    command = tmp_path / "venv" / "bin" / "mnist-exp"
    call(command, "data=digits", "model=linear", "training.epochs=1", cwd=elsewhere)
    call(command, "--config-dir", "mine", "data=digits", "model=tiny", "training.epochs=1", cwd=elsewhere)
    use("digits")
    found = [json.loads(path.read_text()) for path in (elsewhere / "outputs" / "runs").glob("*/result.json")]
    assert sorted(result["name"].split("-")[0] for result in found) == ["linear", "tiny"]
    assert all(result["status"] == "finished" and result["mlflow_run_id"] for result in found)
    assert {path.name for path in elsewhere.iterdir()} == {"mine", "outputs"}
