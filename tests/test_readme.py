"""README and docs: links resolve, and everything that they show runs, in order, with the output that they show."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import documents
from support.cli import MNIST, PATIENCE
from support.documents import PAGES, README, REPOSITORY, blocks, environment, page_commands

from mnist_exp.data.pictures import read_picture_file

PAGE = {page.stem: page for page in (README, *PAGES)}
# Run by CI; `make soak` runs all pages.
SAMPLE = ("README",)
# At least this accuracy on MNIST's test set.
PROMISES = {"experiment=fast": 0.9910, "experiment=lenet5x5": 0.9910}

# Why the commands of `sh` blocks are not run here.
ELSEWHERE = {
    "mnist-exp --plugin mine.py 'model.layers=[{type: Scale, factor: 3}, Flatten, {type: Dense, units: 10}, Softmax]'": "tests/test_plugin_runs.py uses examples/plugin.py",
    "mnist-exp data=folder data.dir=photos data.resize=fit name=small training.batch_size=8 model=mini_vgg training.epochs=150"
    " aug=rotate15 aug.fill_mode=nearest aug.horizontal_flip=true training.select.metric=val/loss training.select.mode=min": "test_the_recipe_for_few_photographs_trains",
    "make setup && source .venv/bin/activate": "tests/test_install.py sets up a fresh clone",
    "mnist-exp experiment=fast": "README shows it again with its output",
    'eval "$(mnist-exp -sc install=bash)"': "test_completion_can_be_installed",
    "mnist-exp -m hydra/launcher=submitit_slurm hydra.launcher.partition=short 'seed=range(100)'": "needs Slurm",
    "export RAY_AUTH_MODE=token": "tests/test_sweep_kill.py starts a cluster with a token",
    "ray get-auth-token --generate": "tests/test_sweep_kill.py",
    "ray start --head": "tests/test_sweep_kill.py",
    "mnist-exp -m hydra/launcher=ray 'seed=range(100)'": "tests/test_sweep_kill.py runs a smaller sweep",
    "mnist-exp tune model=mlp optimizer.learning_rate='interval(1e-4,1e-2)' "
    "tune.storage=postgresql://me:secret@host/study": "needs PostgreSQL",
    "MLFLOW_TRACKING_URI=sqlite:///outputs/mlflow.db mlflow models serve -m models:/digits@champion "
    "--env-manager local --port 5001": "tests/test_export.py",
    """python -c 'import json; print(json.dumps({"inputs": [[[0] * 28] * 28]}))' > image.json""": "tests/test_export.py",
    "curl -s -H 'Content-Type: application/json' -d @image.json http://127.0.0.1:5001/invocations": "tests/test_export.py",
}


def prose(page: Path) -> str:
    """Return a page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.stem)
def test_links_and_anchors_resolve(page: Path):
    """Every relative link leads to a file, and every anchor to a heading."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_readme_is_short_and_links_to_every_page():
    """It has at most 200 lines, and every page of docs can be reached from it."""
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert [page.name for page in PAGES if f"](docs/{page.name})" not in text] == []


def test_the_configuration_page_lists_all_options():
    """The table of groups has the options that exist in conf/."""
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE["configuration"].read_text(encoding="utf-8"), re.MULTILINE)
    listed = {group: set(re.findall(r"`(\w+)`", text)) for group, text in rows}
    for group in ("data", "preprocess", "aug", "model", "optimizer", "schedule", "experiment", "debug", "device"):
        options = {file.stem for file in (REPOSITORY / "conf" / group).glob("*.yaml")}
        assert listed[group] | {"none"} == options | {"none"}, group


def test_every_shell_command_is_accounted_for():
    """A command that this module does not run is run by another test, or needs an external service."""
    shown = [
        line
        for page in PAGE.values()
        for block in blocks(page)
        if block.kind == "sh"
        for line in block.text.splitlines()
    ]
    assert sorted(shown) == sorted(ELSEWHERE)
    kinds = {block.kind for page in PAGE.values() for block in blocks(page)}
    assert kinds <= {"console", "python", "sh", "yaml"}
    for page in PAGE.values():
        assert all(command.words[0] == "mnist-exp" for command in page_commands(page))


def test_a_shown_output_that_differs_is_found():
    """Numbers, times, paths and progress may differ; words and missing lines may not."""
    printed = (
        "data    mnist from /home/you/files: 54,000 train\nepoch 1/2  train 0.5  best\nepoch 2/2  train 0.4\n"
        "saved   epoch 2 with 98.90%\n\n a   b  \n ───── \n 1  10  \noutputs/runs/a-20261128-075633: done in 9.3 s\n"
    )
    shown = (
        "data    mnist from /home/me/mnist: 1,000 train\nepoch 1/1  train 1.5\nsaved   epoch 1 with 9.1%\n"
        " a   b\n ──────\n 10  1\noutputs/runs/a-20250101-000000: done in 12.0 s"
    )

    def differs(text: str) -> bool:
        return documents.difference(documents.Done(documents.Command("mnist-exp", text, 0), 0, printed)) != ""

    assert not differs(shown)
    assert not differs(shown.replace("epoch 1/1  train 1.5", "epoch 1/9  train 1.5\n…\nepoch 9/9  train 1.5"))
    assert not differs("data    mnist from /a: 1 train\n…\noutputs/runs/a-1: done in 1.0 s")
    assert differs(shown.replace("saved", "kept"))
    assert differs(shown.replace("saved   epoch 1 with 9.1%\n", ""))
    assert differs(f"{shown}\nand more")
    assert differs("data    mnist from /a: 1 train\noutputs/runs/a-1: done in 1.0 s")


def write_leaves(folder: Path) -> None:
    """Write the images that README uses as a user's own: a folder per kind of leaf, 32×32 in colour."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 5)):
        for kind, name in enumerate(("ash", "beech", "birch", "maple", "oak")):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 20, (32, 32, 3), np.uint8)
                pixels += np.kron(rng.integers(0, 50, (4, 4, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
                pixels[4 * kind : 4 * kind + 9] += np.array([30 * kind, 180, 90 - 20 * kind], np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")


def write_photos(folder: Path) -> None:
    """Write the photographs that docs/data.md begins with: a folder per kind of thing, of many sizes, and new ones."""
    rng = np.random.default_rng(0)
    for kind, name in enumerate(("apple", "leaf", "shell")):
        (folder / name).mkdir(parents=True)
        for number in range(30):
            height, width = rng.integers(60, 120, 2)
            pixels = rng.integers(0, 120, (height, width, 3), np.uint8)
            pixels[..., kind] += 100
            Image.fromarray(pixels).save(folder / name / f"IMG_{100 * kind + number + 1:04}.jpg")
    shutil.copytree(folder / "leaf", folder.parent / "new")


def pages_that_run() -> list[Any]:
    return [
        pytest.param(page, id=name, marks=() if name in SAMPLE else pytest.mark.soak)
        for name, page in PAGE.items()
        if any(block.kind in ("console", "python") for block in blocks(page))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_that_run())
def test_a_page_can_be_followed(
    page: Path, tmp_path: Path, use: Callable[[str], None], pytestconfig: pytest.Config
):
    """Every command has the exit status and the output that are shown, all runs finish, and Python runs."""
    write_leaves(tmp_path / "leaves")
    write_photos(tmp_path / "photos")
    different = []
    for done in documents.follow(page, tmp_path):
        command = done.command
        refused = MNIST is None and command.needs_mnist
        assert done.status == (2 if refused else command.status), (command.text, done.printed[-3000:])
        assert "Traceback" not in done.printed
        # README trains on MNIST, unless a command names other data.
        comparable = MNIST is not None or page != README or "data=" in command.text or command.status
        if comparable and documents.difference(done):
            different.append(done)
    for result in results(tmp_path):
        use(result["data"]["name"])
        assert result["status"] == "finished" or "^C" in page.read_text(encoding="utf-8")
        if (promise := PROMISES.get(" ".join(result["overrides"]))) and result["data"]["name"] == "mnist":
            assert result["test"]["accuracy"] >= promise
    if different and pytestconfig.getoption("--update-messages"):
        documents.update(page, different, tmp_path)
    else:
        assert not different, "\n\n".join(
            f"{done.command.text}\n{documents.difference(done)}" for done in different
        )


@pytest.mark.slow
def test_the_recipe_for_few_photographs_trains(tmp_path: Path):
    """All its settings are accepted together; two epochs are trained instead of 150."""
    [recipe] = [command for command in ELSEWHERE if "data.dir=photos" in command]
    write_photos(tmp_path / "photos")
    words = [*shlex.split(recipe.replace("=150", "=2")), "tracking=none"]
    subprocess.run(words, cwd=tmp_path, env=environment(tmp_path), check=True, timeout=200 * PATIENCE)
    assert [result["status"] for result in results(tmp_path)] == ["finished"]


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (folder / "outputs" / "runs").glob("*/result.json")]


@pytest.mark.slow
@pytest.mark.soak  # minutes
@pytest.mark.mnist
def test_the_promise_of_lenet5x5_is_kept(tmp_path: Path, use: Callable[[str], None]):
    """It reaches at least 99.10 % on MNIST's test set; README's own test checks `experiment=fast`."""
    words = ["mnist-exp", "experiment=lenet5x5", "tracking=none"]
    subprocess.run(words, cwd=tmp_path, env=environment(tmp_path), check=True, timeout=1000 * PATIENCE)
    [result] = results(tmp_path)
    use(result["data"]["name"])
    assert result["data"]["images"]["test"] == 10_000
    assert result["test"]["accuracy"] >= PROMISES["experiment=lenet5x5"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with momentum and dropout, whose files the Python of docs/output-files.md uses."""
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


def python_blocks() -> list[str]:
    return [block.text for block in blocks(PAGE["output-files"]) if block.kind == "python"]


CONTINUE = """
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


@pytest.mark.slow
def test_the_python_of_output_files_restores_the_optimizer(run: Path, tmp_path: Path):
    """Training on from HDF5 with these lines gives the weights that training on from `.keras` gives, bit for bit."""
    formats, hdf5 = python_blocks()
    for name, code in (("keras", formats.split("\n\nmodel = keras.models")[0]), ("hdf5", hdf5)):
        script = tmp_path / f"continue_from_{name}.py"  # not keras.py: it would be imported
        script.write_text(code + CONTINUE.format(out=tmp_path / f"{name}.npz"))
        subprocess.run([sys.executable, script], cwd=run, check=True, capture_output=True, timeout=200 * PATIENCE)
    with np.load(tmp_path / "keras.npz") as first, np.load(tmp_path / "hdf5.npz") as second:
        assert all(np.array_equal(first[name], second[name]) for name in first)
    without = hdf5.replace("    optimizer.load_own_variables", "    print or optimizer.load_own_variables")
    assert without != hdf5
    script = tmp_path / "control.py"
    script.write_text(without + CONTINUE.format(out=tmp_path / "control.npz"))
    subprocess.run([sys.executable, script], cwd=run, check=True, capture_output=True, timeout=200 * PATIENCE)
    with np.load(tmp_path / "keras.npz") as first, np.load(tmp_path / "control.npz") as control:
        assert not all(np.array_equal(first[name], control[name]) for name in first)


@pytest.mark.slow
def test_the_python_of_output_files_rebuilds_from_the_architecture(run: Path, tmp_path: Path):
    """`architecture.yaml` and the weights predict as `model.keras` does."""
    script = tmp_path / "script.py"
    images = "images = __import__('numpy').arange(784 * 3).reshape(3, 28, 28, 1) % 256\n"
    first, second = python_blocks()[0].split("\n\nmodel = keras.models")
    script.write_text(
        f"{first}\n{images}a = model.predict(images)\nmodel = keras.models{second}\nb = model.predict(images)\n"
        "assert (a == b).all() and a.std() > 0\n"
    )
    subprocess.run([sys.executable, script], cwd=run, check=True, capture_output=True, timeout=200 * PATIENCE)


def test_the_python_of_exporting_reads_images_as_training_does(tmp_path: Path):
    """It scales, rotates and fills image files, in grey and in colour, as `data.resize=fit` does."""
    [code] = [block.text for block in blocks(PAGE["exporting"]) if "def read_image(" in block.text]
    names: dict[str, Any] = {}
    exec(code.split("\n\n\nrun = max(")[0], names)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 90, 90, 3), np.uint8)
    for number, (height, width, channels) in enumerate(
        [(64, 64, 3), (28, 40, 3), (90, 33, 3), (1, 90, 3), (64, 64, 1)]
    ):
        file = tmp_path / f"{number}.png"
        image = Image.fromarray(pixels[number, : 90 - 13 * number])
        image = image.convert("L") if channels == 1 else image
        orientation = image.getexif()
        orientation[0x0112] = 1 + number  # 5: mirrored and rotated
        image.save(file, exif=orientation)
        expected, _ = read_picture_file(str(file), (height, width, channels), "fit")
        np.testing.assert_array_equal(names["read_image"](file, height, width, channels), expected)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_completion_can_be_installed(tmp_path: Path):
    """The line in docs/configuration.md defines a completion for the command."""
    [line] = [block.text for block in blocks(PAGE["configuration"]) if "-sc install=bash" in block.text]
    done = subprocess.run(
        ["bash", "-c", f"{line}\ncomplete -p mnist-exp"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
        check=True,
    )
    assert "mnist-exp" in done.stdout
