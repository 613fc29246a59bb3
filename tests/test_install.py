"""Installation by a new user: the Makefile in a fresh clone, and the wheel in its own environment."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from support.cli import PATIENCE, soak, start

from mnist_exp.config.overrides import Request
from mnist_exp.engine.saved_model import compose_run_config, find_saved, load_data
from mnist_exp.training.loop import epoch_rows, steps_per_epoch

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parent.parent
PINS = REPOSITORY / "pins.txt"
UV = (sys.executable, "-m", "uv")

NOT_OF_A_NEWCOMER = ("VIRTUAL_ENV", "PYTHONPATH", "MNIST_EXP_DATA")


def call(*words: str | Path, cwd: Path, timeout: float = 600 * PATIENCE) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in NOT_OF_A_NEWCOMER}
    done = subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, (words, done.stdout[-3000:], done.stderr[-3000:])
    return done.stdout


@pytest.mark.parametrize("installer", ["uv", soak("pip")])
def test_make_run_sets_up_and_trains_in_a_fresh_clone(
    tmp_path: Path, use: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, installer: str
):
    """It needs only a clone, Python, make and a package index, and installs no tools for development. If uv cannot
    reach the index, pip installs the same."""
    if installer == "pip":
        monkeypatch.setenv("UV_OFFLINE", "1")
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "empty"))
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
    python = clone / ".venv" / "bin" / "python"
    call(python, "-m", "pip", "check", cwd=tmp_path)
    versions = call(python, "-m", "pip", "freeze", cwd=tmp_path)
    assert not re.search("^(pytest|ruff|onnx)==", versions, re.M)
    pinned = {line.partition(" ;")[0] for line in (REPOSITORY / "pins.txt").read_text().splitlines()}
    assert {line for line in versions.splitlines() if line.startswith(("tensorflow==", "mlflow=="))} <= pinned
    assert call("git", "status", "--porcelain", cwd=clone) == ""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--wheel", "--outdir", folder, REPOSITORY, cwd=folder)
    [file] = folder.glob("*.whl")
    return file


def test_the_wheel_contains_the_package_options_and_help(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    options = {
        f"mnist_exp/conf/{path.relative_to(REPOSITORY / 'conf')}" for path in (REPOSITORY / "conf").rglob("*.yaml")
    }
    pages = {f"mnist_exp/help/{page.name}" for page in (REPOSITORY / "docs").glob("*.md")}
    files = {path for path in (REPOSITORY / "mnist_exp").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    package = {path.relative_to(REPOSITORY).as_posix() for path in files}
    assert {name for name in names if ".dist-info/" not in name} == {*options, *pages, *package}


@pytest.mark.parametrize("installer", ["pip", soak("uv")])
def test_the_wheel_runs_from_another_folder(
    wheel: Path, tmp_path: Path, use: Callable[[str], None], installer: str
):
    """The built-in options are found, and a user's options work with them."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    if installer == "pip":
        call(python, "-m", "pip", "install", "--quiet", "--constraint", PINS, wheel, cwd=tmp_path)
    else:
        call(
            *UV,
            "pip",
            "install",
            "--quiet",
            "--compile-bytecode",
            "--python",
            python,
            "-c",
            PINS,
            wheel,
            cwd=tmp_path,
        )
    call(python, "-m", "pip", "check", cwd=tmp_path)
    trains_in_an_odd_folder(tmp_path, tmp_path / "venv" / "bin" / "mnist-exp")
    use("digits")


def test_uvx_runs_the_wheel(wheel: Path, tmp_path: Path, use: Callable[[str], None]):
    trains_in_an_odd_folder(tmp_path, *UV, "tool", "run", "--constraints", PINS, "--from", wheel, "mnist-exp")
    use("digits")


def trains_in_an_odd_folder(parent: Path, *command: str | Path) -> None:
    """Train a shipped model and one of the user's own in a folder whose name needs quotes."""
    elsewhere = parent / "an odd [folder]=1"
    (elsewhere / "mine" / "model").mkdir(parents=True)
    (elsewhere / "mine" / "model" / "narrow.yaml").write_text(
        "name: narrow\nlayers: [Flatten, {type: Dense, units: '${data.classes}'}, Softmax]\n"
    )
    call(*command, "data=digits", "model=linear", "training.epochs=1", cwd=elsewhere)
    assert call(*command, "help", "glossary", cwd=elsewhere).startswith("# Glossary")
    call(*command, "--config-dir", "mine", "data=digits", "model=narrow", "training.epochs=1", cwd=elsewhere)
    found = [json.loads(path.read_text()) for path in (elsewhere / "outputs" / "runs").glob("*/result.json")]
    assert sorted(result["name"].split("-")[0] for result in found) == ["linear", "narrow"]
    assert [(result["status"], bool(result["mlflow_run_id"])) for result in found] == [("finished", True)] * 2
    assert {path.name for path in elsewhere.iterdir()} == {"mine", "outputs"}


FILES = ("keras", "h5", "yaml")
# In the folder with the files; the images and labels of an epoch, in the order of the package's own.
ELSEWHERE = """
import importlib.util, sys
import keras
import numpy as np
{keras}
whole = model
{architecture}
apart = model
{hdf5}
old = model
assert not any(importlib.util.find_spec(name) for name in ("mnist_exp", "mlflow", "hydra", "pydantic"))
with np.load("epoch.npz") as epoch:
    images, labels = epoch["images"], epoch["labels"]
models = {{"keras": whole, "h5": old, "yaml": apart}}
found = {{name: model.predict(images, verbose=0) for name, model in models.items()}}
# Going on from the weights alone: not the same.
apart.compile(whole.optimizer.from_config(whole.optimizer.get_config()), whole.loss)
for name, model in models.items():
    model.fit(images, labels, batch_size=32, shuffle=False, verbose=0)
    found[f"{{name}} after"] = np.concatenate([weights.ravel() for weights in model.get_weights()])
np.savez("found.npz", **found)
"""


@pytest.mark.soak  # minutes
def test_other_projects_go_on_with_a_model(tmp_path: Path, use: Callable[[str], None]):
    """With Keras, TensorFlow and PyYAML alone: the documented lines load the files, the predictions are the same, and
    another epoch from `model.keras` or `model.h5` gives what the package's own second epoch gives."""
    words = [
        "model=pyramid", "data=digits", "data.limit=600", "training.batch_size=32", "device.precision=float32",
        "training.keep_checkpoint=true", "training.select.metric=val/loss", "training.select.mode=min", "tracking=none", "name=a", f"outputs={tmp_path}",
    ]  # fmt: skip
    for command in (
        ["training.epochs=1", *words],
        ["resume", "run=a", "training.epochs=2", f"outputs={tmp_path}"],
    ):
        process = start(*command)
        _, err = process.communicate(timeout=300 * PATIENCE)
        assert process.returncode == 0, err
        [run] = (tmp_path / "runs").iterdir()
        if command[0] != "resume":
            for name in ("model.keras", "model.h5", "architecture.yaml", "model.weights.h5"):
                (tmp_path / name).write_bytes((run / name).read_bytes())
    result = json.loads((run / "result.json").read_text())
    use(result["data"]["name"])
    assert result["best"]["epoch"] == 2

    saved = find_saved(str(run), tmp_path)
    config = compose_run_config(saved, Request("evaluate"), ())
    train = load_data(config, Request("evaluate")).train
    steps = steps_per_epoch(len(train), config)
    rows = epoch_rows(len(train), 32, config.seed, epoch=1, steps=steps, steps_per_call=1)
    order = np.concatenate([row.ravel() for row in rows])
    np.savez(tmp_path / "epoch.npz", images=train.images[order], labels=train.labels[order])

    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    call(
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--constraint",
        PINS,
        "keras",
        "tensorflow",
        "pyyaml",
        cwd=tmp_path,
    )
    page = (REPOSITORY / "docs" / "output-files.md").read_text(encoding="utf-8")
    first, hdf5 = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    keras_lines, architecture = first.split("\n\nmodel = keras.models")
    script = ELSEWHERE.format(keras=keras_lines, architecture=f"model = keras.models{architecture}", hdf5=hdf5)
    (tmp_path / "elsewhere.py").write_text(script)
    call(python, "elsewhere.py", cwd=tmp_path)
    before, after = (
        np.concatenate([weights.ravel() for weights in keras.saving.load_model(file).get_weights()])
        for file in (tmp_path / "model.keras", run / "model.keras")
    )
    with np.load(tmp_path / "found.npz") as found:
        assert np.array_equal(found["keras"], found["h5"])
        assert np.array_equal(found["keras"], found["yaml"])
        # The package computes a batch in halves: other last bits, which grow in an epoch.
        off = {name: abs(found[f"{name} after"] - after).mean() / abs(after - before).mean() for name in FILES}
        assert np.array_equal(found["keras after"], found["h5 after"])
    print({name: f"{share:.2%} off" for name, share in off.items()})
    assert off["keras"] < 0.01 < 0.1 < off["yaml"]
