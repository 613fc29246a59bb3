"""What README shows is run, in order, in one fresh folder: files, commands, and Python."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.cli import MNIST, PATIENCE

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parent.parent
PROMISES = ["experiment=lenet5x5", "experiment=fast"]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[str]:
    return [text for found, text in BLOCKS if found == kind]


def commands() -> list[tuple[list[str], str]]:
    """Every command in a console block, as words, with the output that is shown below it."""
    pairs = [
        pair
        for text in blocks("console")
        for pair in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)
    ]
    return [(shlex.split(command), shown) for command, shown in pairs]


def environment() -> dict[str, str]:
    """The environment's commands first on the path, as after `source .venv/bin/activate`."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def hears_ctrl_c() -> None:
    """A shell's background jobs ignore it, and so would their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def open_ui(command: list[str], folder: Path) -> None:
    """Start the UI, wait for its address, and end it as a user would."""
    ui = subprocess.Popen(
        [*command, "open=false"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=hears_ctrl_c,
    )
    assert ui.stdout is not None
    seen = [ui.stdout.readline() for _ in range(2)]
    assert seen[1].startswith("http://127.0.0.1:"), seen
    ui.send_signal(signal.SIGINT)
    ui.communicate(timeout=30)
    assert ui.returncode == 0


def write_leaves(folder: Path) -> None:
    """The images that README takes for a user's own: a folder per kind of leaf, 32×32 in colour."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 5)):
        for kind, name in enumerate(("ash", "beech", "birch", "maple", "oak")):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 60, (32, 32, 3), np.uint8)
                pixels[4 * kind : 4 * kind + 9] += np.array([30 * kind, 180, 90 - 20 * kind], np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything was done that README shows, with the exit status and output that it shows."""
    folder = tmp_path_factory.mktemp("followed")
    write_leaves(folder / "leaves")
    for text in blocks("yaml"):
        file = folder / text.splitlines()[0].removeprefix("# ")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.split("\n", 1)[1])
    for words, shown in commands():
        if words[1:2] == ["ui"]:
            open_ui(words, folder)
            continue
        done = subprocess.run(
            words,
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=400 * PATIENCE,
            check=False,
        )
        refused = MNIST is None and (set(PROMISES) & set(words) or any("mnist" in word for word in words[1:]))
        assert done.returncode == (2 if shown or refused else 0), (words, done.stdout[-2000:], done.stderr)
        if shown:
            assert done.stderr == shown
    return folder


def test_the_python_of_readme_classifies(followed: Path):
    """The images that README's commands wrote."""
    code = f"{blocks('python')[0]}\nassert probabilities.shape[1] == 10"
    subprocess.run(
        [sys.executable, "-c", code], cwd=followed, check=True, capture_output=True, timeout=200 * PATIENCE
    )


def results(folder: Path, name: str = "*") -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (folder / "outputs" / "runs").glob(f"{name}/result.json")]


def test_every_command_of_readme_runs(followed: Path, use: Callable[[str], None]):
    """All of them, and all runs finished."""
    assert len(commands()) >= 10
    assert all(words[0] == "mnist-exp" for words, _ in commands())
    found = results(followed)
    assert {result["status"] for result in found} == {"finished"}
    for result in found:
        use(result["data"]["name"])


@pytest.mark.mnist
@pytest.mark.parametrize("promise", PROMISES)
def test_the_promise_of_the_preset_is_kept(followed: Path, use: Callable[[str], None], promise: str):
    """It reaches at least 99.10 % on MNIST's test set."""
    [result] = [result for result in results(followed) if result["overrides"] == [promise]]
    use(result["data"]["name"])
    assert result["data"]["images"]["test"] == 10_000
    assert result["test"]["accuracy"] >= 0.9910


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with momentum and dropout, whose files the Python of README uses."""
    folder = tmp_path_factory.mktemp("python")
    words = ["model=lenet5x5", "data=digits", "training.epochs=1", "tracking=none", "name=run"]
    subprocess.run(
        [sys.executable, "-m", "mnist_exp", *words],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=200 * PATIENCE,
    )
    [found] = (folder / "outputs" / "runs").iterdir()
    return found


GO_ON = """
import numpy as np
rng = np.random.default_rng(0)
images, labels = rng.integers(0, 256, (256, 28, 28, 1)), rng.integers(0, 10, 256)
for layer in model.layers:  # Keras saves no seeds of dropout
    if hasattr(layer, "seed_generator"):
        layer.seed_generator.state.assign([1, 0])
keras.utils.set_random_seed(1)
model.fit(images, labels, batch_size=64, shuffle=False, verbose=0)
np.savez("{out}", *model.get_weights())
"""


def test_the_python_of_readme_restores_the_optimizer(run: Path, tmp_path: Path):
    """Going on from HDF5 with README's lines gives the weights that going on from `.keras` gives, bit for bit."""
    _, formats, hdf5 = blocks("python")
    for name, code in (("keras", formats.split("\n\nmodel = keras.models")[0]), ("hdf5", hdf5)):
        script = tmp_path / f"go_on_from_{name}.py"  # not keras.py: it would be imported
        script.write_text(code + GO_ON.format(out=tmp_path / f"{name}.npz"))
        subprocess.run([sys.executable, script], cwd=run, check=True, capture_output=True, timeout=200 * PATIENCE)
    with np.load(tmp_path / "keras.npz") as first, np.load(tmp_path / "hdf5.npz") as second:
        assert all(np.array_equal(first[name], second[name]) for name in first)
    without = hdf5.replace("    optimizer.load_own_variables", "    print or optimizer.load_own_variables")
    assert without != hdf5
    script = tmp_path / "control.py"
    script.write_text(without + GO_ON.format(out=tmp_path / "control.npz"))
    subprocess.run([sys.executable, script], cwd=run, check=True, capture_output=True, timeout=200 * PATIENCE)
    with np.load(tmp_path / "keras.npz") as first, np.load(tmp_path / "control.npz") as control:
        assert not all(np.array_equal(first[name], control[name]) for name in first)


def test_the_python_of_readme_rebuilds_from_the_architecture(run: Path, tmp_path: Path):
    """`architecture.yaml` and the weights predict as `model.keras` does."""
    script = tmp_path / "script.py"
    images = "images = __import__('numpy').arange(784 * 3).reshape(3, 28, 28, 1) % 256\n"
    first, second = blocks("python")[1].split("\n\nmodel = keras.models")
    script.write_text(
        f"{first}\n{images}a = model.predict(images)\nmodel = keras.models{second}\nb = model.predict(images)\n"
        "assert (a == b).all() and a.std() > 0\n"
    )
    subprocess.run([sys.executable, script], cwd=run, check=True, capture_output=True, timeout=200 * PATIENCE)


def test_pictures_and_files_of_readme_are_there():
    """No broken link."""
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (REPOSITORY / target).exists(), target


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_completion_can_be_installed():
    """README's line defines a completion for the command."""
    line = re.search(r'`(eval "\$\(mnist-exp[^`]*)`', README)
    assert line
    done = subprocess.run(
        ["bash", "-c", f"{line[1]}; complete -p mnist-exp"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
        check=True,
    )
    assert "mnist-exp" in done.stdout
