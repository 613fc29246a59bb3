"""`mnist-exp dataset`: its requests, its output, and the absence of remains after a failure."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.cli import PATIENCE, Cli, start
from support.golden import Golden

from mnist_exp.cli import ACTIONS
from mnist_exp.config.hydra_adapter import conf_folder
from mnist_exp.runs.atomic import new_folder

DIGITS = "data=digits"


def left() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*"))


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ([], "dataset:"),
        (["to=csv"], "dataset:"),
        (["convrt"], "action=convrt:"),
        (["convrt", "to=parquet"], "to=parquet:"),
        (["convert", DIGITS], "to:"),
        (["convert", DIGITS, "to=cvs"], "to=cvs:"),
        (["convert", DIGITS, "to=idx", "header=true"], "header:"),
        (["convert", DIGITS, "to=idx", "data.val_fraction=0"], "data.val_fraction:"),
        (["convert", DIGITS, "to=csv", "output=."], "output:"),
        (["verify", DIGITS, "to=csv"], "to:"),
        (["verify", DIGITS, "output=x"], "output:"),
        (["verify", "data=csv"], "data.dir:"),
        (["verify", "data=npz"], "data.dir:"),
        (["verify", "data=csv", "data.mirrors=[http://127.0.0.1:1/]"], "data.mirrors:"),
        (["verify", "data=csv", "data.mirrors=[http://127.0.0.1:1/]"], "data.dir:"),
        (["verify", "data=npz", "data.keras_cache=mnist.npz"], "data.keras_cache=mnist.npz:"),
        (["verify", "data=folder", "data.dir=.", "data.mirrors=[http://127.0.0.1:1/]"], "data.mirrors:"),
        (["verify", DIGITS, "data.keras_cache=mnist.npz"], "data.keras_cache=mnist.npz:"),
        (["verify", "data=csv", "data.dir=.", "data.files=null"], "train:"),
        (["verify", "data=csv", "data.dir=nope"], "nope:"),
        (["verify", "data=csv", "data.dir=."], "data.dir="),
        (["verify", "data=idx", "data.dir=."], "data.dir="),
        (["fetch", DIGITS], "data=digits:"),
        (["fetch", "data=mnist", "data.dir=/x"], "data.dir:"),
        (["fetch", "data=mnist", "data.limit=10"], "data.limit:"),
        (["-m", "verify", DIGITS], "dataset:"),
        (["verify", DIGITS, "-m"], "-m "),
        (["verify", "data=csv", "data.dir=.", "data.shape=[2,2,2]"], "data.shape"),
        (["verify", "data=csv", "data.dir=.", "data.files.train=null"], "train:"),
        (["verify", "data=csv", "data.dir=.", "+data.files.tset=x"], "tset:"),
        (["verify", "data=idx", "data.dir=.", "data.files.test_labels=null"], "test_images and test_labels: "),
        (["verify", "data=csv", "data.dir=.", "data.class_names=[a]"], "class_names "),
    ],
)  # fmt: skip
def test_a_wrong_request_ends_with_2_and_leaves_nothing(cli: Cli, words: list[str], place: str, golden: Golden):
    """One message names the key and says what was expected."""
    done = cli("dataset", *words, status=2)
    assert place in done.err
    assert done.err.startswith("mnist-exp: ")
    golden(done.err)
    assert left() == []


def test_verify_describes_the_data(cli: Cli, use: Callable[[str], None]):
    """The output has name, origin, images, shape, images per class and digest."""
    use("digits")
    out = cli("dataset", "verify", DIGITS).out
    for words in ("digits from scikit-learn", "1,497 train, 300 test, each 28×28×1", "SHA-256 "):
        assert words in out
    assert "100 train, 20 test" in cli("dataset", "verify", DIGITS, "data.limit=100").out


def test_convert_writes_where_runs_are_kept(cli: Cli, use: Callable[[str], None]):
    """The default folder is `<outputs>/data/<name>-<format>`; the output has the command that uses it."""
    use("digits")
    out = cli("dataset", "convert", DIGITS, "to=csv", "data.limit=100").out
    assert left() == [
        "outputs", "outputs/data", "outputs/data/digits-csv", "outputs/data/digits-csv/test.csv",
        "outputs/data/digits-csv/train.csv",
    ]  # fmt: skip
    assert out.endswith("use     mnist-exp data=csv data.dir=outputs/data/digits-csv\n")
    assert "100 train, 20 test" in out


def test_digits_of_an_older_run_are_read(cli: Cli):
    """Its config has null instead of an empty mapping of files."""
    assert "1,497 train" in cli("dataset", "verify", DIGITS, "data.files=null").out


def test_a_tilde_is_the_home_folder(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """This holds for `output` and `outputs`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    cli("dataset", "convert", DIGITS, "to=idx", "data.limit=20", "output=~/a")
    cli("dataset", "convert", DIGITS, "to=idx", "data.limit=20", "outputs=~/b")
    assert (tmp_path / "a").is_dir()
    assert (tmp_path / "b/data/digits-idx").is_dir()
    assert left() == []


def test_existing_output_is_not_overwritten(cli: Cli):
    """A non-empty folder, a file or a link is refused; an empty folder is used."""
    Path("full").mkdir()
    Path("full/x").write_text("precious")
    Path("file").write_text("precious")
    Path("empty").mkdir()
    Path("link").symlink_to("empty")
    for name in ("full", "file", "link"):
        said = cli("dataset", "convert", DIGITS, "to=csv", f"output={name}", status=2).err
        assert f"output: {name} already exists; choose another name with output=…" in said
    cli("dataset", "convert", DIGITS, "to=csv", "output=empty", "data.limit=20")
    assert left() == ["empty", "empty/test.csv", "empty/train.csv", "file", "full", "full/x", "link"]


def test_an_unwritable_output_is_refused(cli: Cli):
    """Nothing is written."""
    Path("file").write_text("")
    said = cli("dataset", "convert", DIGITS, "to=csv", "output=file/x", status=2).err
    assert "output: file/x cannot be written: Not a directory" in said
    assert left() == ["file"]


@pytest.mark.parametrize("to", ["idx", "csv", "npz", "folder"])
def test_a_full_disk_leaves_nothing(to: str):
    """The exit status is 1, the message has the reason, and no partial output remains."""
    done = subprocess.run(
        [sys.executable, "-m", "mnist_exp", "dataset", "convert", DIGITS, f"to={to}", "output=deep/x"],
        capture_output=True, text=True, timeout=60 * PATIENCE, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(
        "mnist-exp: deep/x: File too large; nothing was written\n"
    )  # coverage may add lines
    assert left() == []


def test_the_unfinished_folder_of_another_process_is_left_alone(cli: Cli):
    """This holds even if it has the name that this process would use."""
    Path("deep").mkdir()
    theirs = Path("deep", f".{os.getpid()}.x")
    theirs.mkdir()
    said = cli("dataset", "convert", DIGITS, "to=csv", "output=deep/x", status=2).err
    assert "output: deep/x cannot be written: File exists" in said
    assert left() == ["deep", str(theirs)]


@pytest.mark.parametrize(
    ("inner", "told"), [("", ["{t}/file", "{t}", "renamed", ".", "deep"]), ("a", ["all", "renamed", ".", "deep"])]
)
def test_a_new_folder_is_on_disk_when_it_has_its_name(
    monkeypatch: pytest.MonkeyPatch, inner: str, told: list[str]
):
    """Its content is flushed before it is renamed, and its parent folders afterwards."""
    done: list[str] = []

    def flushed(descriptor: int) -> None:
        done.append(os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}")))

    rename = Path.replace
    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "sync", lambda: done.append("all"))
    monkeypatch.setattr(Path, "replace", lambda *paths: done.append("renamed") or rename(*paths))
    with new_folder(Path("deep/x")) as folder:
        (folder / inner).mkdir(exist_ok=True)
        (folder / inner / "file").write_text("")
    before = len(told) - 2
    expected = [words.format(t=f"deep/.{os.getpid()}.x") for words in told]
    assert done[:before] == expected[:before]
    assert sorted(done[before:]) == expected[before:]


@pytest.mark.mnist
def test_ctrl_c_leaves_nothing(use: Callable[[str], None]):
    """The exit status is 130, and no partial output remains."""
    use("mnist")
    process = start("dataset", "convert", "to=folder", "output=deep/x")
    while not list(Path().rglob("*.png")):
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30 * PATIENCE) == 130
    assert process.communicate()[1] == "mnist-exp: interrupted\n"
    assert left() == []


def test_nothing_heavy_is_imported():
    """Conversion imports neither TensorFlow nor Keras nor MLflow."""
    code = (
        "import sys; from mnist_exp.cli import main; status = main(sys.argv[1:]);"
        "heavy = {'tensorflow', 'keras', 'mlflow', 'matplotlib'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    for words in (["convert", "to=csv", "data.limit=20"], ["verify"]):
        command = [sys.executable, "-c", code, "dataset", *words, DIGITS]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 * PATIENCE, check=False)
        assert done.returncode == 0, done.stderr


def test_fetch_lists_the_mirrors_that_failed(cli: Cli):
    """The exit status is 1 if no mirror has the data."""
    said = cli(
        "dataset", "fetch", "data=mnist", "data.mirrors=[http://127.0.0.1:1/,http://127.0.0.1:2/]", status=1
    ).err
    assert "mnist was not found in any of these places:\n  http://127.0.0.1:1/  (" in said
    assert "  http://127.0.0.1:2/  (" in said
    assert left() == []


@pytest.mark.slow
def test_a_run_on_converted_images_is_the_same_run(cli: Cli):
    """Data digest, fingerprint and weights are equal for every format, and its config can be run again."""
    first = cli("from=null", small=True)
    out = cli("dataset", "convert", f"data={first.result['data']['name']}", "to=csv", "output=mine").out
    assert "data.dir=mine" in out
    second = cli(
        "model=linear", "data=csv", "data.dir=mine", *("data.limit=300", "training.epochs=2", "tracking=none")
    )
    assert second.result["data"]["class_names"] == list("0123456789")
    for key in ("fingerprint", "weights_sha256"):
        assert second.result[key] == first.result[key]
    again = cli(f"from={second.run}")
    assert again.result["weights_sha256"] == first.result["weights_sha256"]


def test_class_names_of_folders_reach_the_run(cli: Cli):
    """They are recorded although no config has them."""
    import numpy as np
    from PIL import Image

    for part in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            Path(part, name).mkdir(parents=True)
            for number in range(10):
                pixels = np.full((8, 9, 3), (label * 100 + number, 0, 9), np.uint8)
                Image.fromarray(pixels).save(Path(part, name, f"{number}.png"))
    done = cli(
        "data=folder", "data.dir=.", "data.shape=[8,9,3]", "data.classes=2", "model=linear", "training.epochs=1",
        "tracking=none",
    )  # fmt: skip
    assert done.result["data"]["class_names"] == ["cat", "dog"]
    assert done.result["data"]["shape"] == [8, 9, 3]


def test_help_names_every_data_set(cli: Cli):
    """It also lists the actions."""
    out = cli("dataset", "--help").out
    for file in (conf_folder() / "data").glob("*.yaml"):
        assert re.search(rf"^Options of data: .*\b{file.stem}\b", out, re.MULTILINE), file.stem
    for action in ACTIONS["dataset"]:
        assert f"mnist-exp dataset {action} " in out
