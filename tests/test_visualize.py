"""`mnist-exp visualize`: the pictures, their folders, and refused requests."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image
from support.cli import MNIST, SMALL, Cli
from support.golden import Golden

from mnist_exp.runs.directory import RunDirectory

LAYERS = (
    "model.layers=[{type: Conv2D, filters: 4, kernel_size: 3, activation: relu}, MaxPooling2D,"
    " {type: Residual, layers: [{type: Conv2D, filters: 4, kernel_size: 3, padding: same, name: inner}]},"
    " {type: Repeat, times: 2, layers: [{type: SeparableConv2D, filters: 3, kernel_size: 3}]},"
    " GlobalAveragePooling2D, {type: Dense, units: 10}, Softmax]"
)
ALL = {
    "activation-separable_conv2d_1.png", "fields.png",
    *(f"filters-{name}.png" for name in ("conv2d", "inner", "dense")),
    *(f"filters-separable_conv2d{n}-{kind}wise_kernel.png" for n in ("", "_1") for kind in ("depth", "point")),
    *(f"features-{name}.png" for name in ("conv2d", "max_pooling2d", "inner", "add", "separable_conv2d",
        "separable_conv2d_1", "global_average_pooling2d", "dense", "softmax")),
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with all kinds of layer entries, recorded by a tracker."""
    from mnist_exp.cli import main

    outputs = tmp_path_factory.mktemp("visualized") / "outputs"
    data = [] if MNIST else ["data=digits"]
    words = [*(word for word in SMALL if not word.startswith("tracking")), *data, LAYERS, "name=seen"]
    assert main([*words, f"outputs={outputs}"]) == 0
    [run] = (outputs / "runs").iterdir()
    return run


@pytest.fixture
def tracked(trained: Path, tmp_path: Path, use: Callable[[str], None]) -> Path:
    """Return a copy of that run that a test may change."""
    use(json.loads((trained / "result.json").read_text())["data"]["name"])
    shutil.copytree(trained.parent.parent, tmp_path / "outputs")
    return tmp_path / "outputs" / "runs" / trained.name


@pytest.fixture
def run(tracked: Path) -> Path:
    """Return the same run without a tracker, which would have to be waited for."""
    file = tracked / "journal.jsonl"
    file.write_text(file.read_text().replace('"enabled": true', '"enabled": false', 1))
    return tracked


def journal(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]


def pictures(folder: Path) -> set[str]:
    """Return the names of the pictures, each an intact PNG file of readable size."""
    for file in folder.glob("*.png"):
        with Image.open(file) as image:
            image.load()
            assert 200 <= image.width <= 1200, file
    return {file.name for file in folder.iterdir()}


@pytest.mark.slow
def test_every_picture_is_drawn_and_delivered(cli: Cli, tracked: Path):
    """Pictures are in a folder of the run and in its MLflow run, whose end time is unchanged."""
    from mlflow.tracking import MlflowClient

    before = journal(tracked)
    done = cli("visualize", f"run={tracked}")
    [folder] = (tracked / "plots" / "visualize").iterdir()
    assert pictures(folder) == ALL
    assert done.out.splitlines()[-1] == f"pictures    {folder}"
    after = journal(tracked)
    assert after[: len(before)] == before
    artifacts = after[len(before) : -1]
    assert {line["file"] for line in artifacts} == {f"plots/visualize/{folder.name}/{name}" for name in ALL}
    assert after[-1] == before[-1]
    client = MlflowClient(f"sqlite:///{tracked.parents[1] / 'mlflow.db'}")
    run_id = json.loads((tracked / "delivery.json").read_text())["outputs"]["run_id"]
    ended = client.get_run(run_id).info
    assert (ended.status, ended.end_time) == ("FINISHED", before[-1]["time"])
    kept = {Path(file.path).name for file in client.list_artifacts(run_id, f"plots/visualize/{folder.name}")}
    assert kept == ALL


def test_only_the_same_pictures_are_overwritten(cli: Cli, run: Path):
    """Other images or options have a folder of their own."""
    name = f"run={run}"
    for words in (
        ["images=[0,3]"],
        ["images=[0,3]"],
        ["images=[3,0]"],
        ["images=[0,3]", "channels=2"],
        ["images=wrong"],
    ):
        cli("visualize", name, "pictures=features", "layers=0", *words)
    folders = sorted(path.name.rpartition("-")[0] for path in (run / "plots" / "visualize").iterdir())
    assert folders == ["test-0-test-3", "test-0-test-3", "test-3-test-0", "the-most-confident-mistakes-test"]


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ("0", ["conv2d"]),
        ("[2]", ["inner", "add"]),
        ("2.layers.0", ["inner"]),
        ("model.layers.2.layers.0", ["inner"]),
        ("[inner,0]", ["conv2d", "inner"]),
        ("3.layers.0", ["separable_conv2d", "separable_conv2d_1"]),
        ("preprocess", ["preprocess"]),
    ],
)
def test_layers_are_chosen_by_place_or_name(cli: Cli, run: Path, layers: str, names: list[str]):
    """A place is written as in overrides, at any depth, and selects all layers in it."""
    cli("visualize", f"run={run}", "pictures=features", f"layers={layers}", "images=0", "output=here")
    assert pictures(Path("here")) == {f"features-{name}.png" for name in names}


def test_a_file_of_a_model_is_enough(cli: Cli, run: Path, home_data: list[str]):
    """Any Keras file works, also a Sequential model; its pictures are next to the runs."""
    model = keras.Sequential(
        [keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    )
    model.save("my model.keras")
    for file in (run / "model.h5", Path("my model.keras")):
        cli("visualize", f"run={file}", "layers=[1]", "pictures=[filters,features]", *home_data)
    made = {path.name[:5]: pictures(path) for path in Path("outputs/visualize").iterdir()}
    assert made["my-mo"] == {"filters-dense.png", "features-dense.png"}
    assert made["model"] == {"features-max_pooling2d.png"}


def test_images_from_files_need_no_data(cli: Cli):
    """The run's data may have been deleted; file names may have special characters."""
    rng = np.random.default_rng(0)
    arrays = {f"x_{part}": rng.integers(0, 256, (60, 28, 28), np.uint8) for part in ("train", "test")}
    Path("gone").mkdir()
    np.savez("gone/images.npz", **arrays, **{f"y_{part}": np.arange(60) % 10 for part in ("train", "test")})
    data = ("data=npz", "data.dir=gone", "data.files.archive=images.npz")
    run = cli(*SMALL, *data, "data.limit=50", LAYERS).run
    shutil.rmtree("gone")
    assert "there is no such folder" in cli("visualize", f"run={run}", "images=0", status=2).err
    pixels = np.zeros((28, 28), np.uint8)
    pixels[5:20, 13:16] = 255
    Image.fromarray(pixels).save("a, b=1 [x].png")
    Image.fromarray(pixels).save("plain.png")
    for images in ("a, b=1 [x].png", "['a, b=1 [x].png',plain.png]"):
        done = cli("visualize", f"run={run}", f"images={images}", "layers=0", "output=new/folder")
        assert done.out.startswith("images      files: a, b=1 [x].png")
        assert pictures(Path("new/folder")) == {
            "filters-conv2d.png", "features-conv2d.png", "activation-conv2d.png", "fields.png"
        }  # fmt: skip
        shutil.rmtree("new")


def test_the_most_wrong_come_first(cli: Cli, run: Path):
    """They are ordered by the probability of the wrong class that plain Keras predicts."""
    from mnist_exp.config.overrides import Request
    from mnist_exp.engine.saved_model import compose_run_config, find_saved, load_data

    request = Request("visualize")
    saved = find_saved(str(run), Path())
    test = load_data(compose_run_config(saved, request, ()), request).test
    assert test is not None
    loaded: Any = keras.saving.load_model(run / "model.keras")
    found = loaded.predict(test.images, verbose=0)
    taken_for = found.argmax(axis=1)
    wrong = np.flatnonzero(taken_for != test.labels)
    expected = sorted(wrong, key=lambda number: -found[number, taken_for[number]])[:10]
    done = cli("visualize", f"run={run}", "images=wrong", "layers=0", "pictures=filters", "output=x")
    names = ", ".join(map(str, expected))
    assert done.out.startswith(f"images      the most confident mistakes, test: {names}\n")


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["layers=[conv2,9]"], "layers: there is no layer 'conv2' (did you mean"),
        (["layers=[conv2,9]"], "layers: there is no layer 9;"),
        (["layers=[]"], "layers: "),
        (["pictures=filtres"], "pictures"),
        (["pictures=[]"], "pictures"),
        (["images=[0,1000000]"], "images: "),
        (["images=[-1,7777777,none.png]", "layers=[99]"], "4 problems"),
        (["images=[-1,0]"], "images: "),
        (["images=[0,wrong]"], "images: "),
        (["images=nowhere.png"], "nowhere.png:"),
        (["images=."], ".:"),
        (["unit=[27,0]"], "unit: "),
        (["unit=3"], "unit"),
        (["layers=softmax", "pictures=filters"], "pictures: "),
        (["channels=0"], "channels=0:"),
        (["data=digits", "data.shape=[8,8,1]"], "8×8"),
        (["output=taken"], "output: "),
        (["learned=1"], "learned=1:"),
    ],
)  # fmt: skip
def test_a_wrong_request_creates_nothing(cli: Cli, run: Path, words: list[str], place: str, golden: Golden):
    """The message names the key; no file is added to the run or elsewhere."""
    Path("taken").mkdir()
    Path("taken/file").write_text("mine")
    before = [sorted(map(str, folder.rglob("*"))) for folder in (run, Path())]
    err = cli("visualize", f"run={run}", *words, status=2).err
    assert place in err
    golden(err)
    assert [sorted(map(str, folder.rglob("*"))) for folder in (run, Path())] == before


def test_a_model_of_small_images_is_required(cli: Cli, run: Path, golden: Golden):
    """A missing run and files without such a model are refused."""
    golden(cli("visualize", status=2).err)
    Path("x.keras").write_text("no model")
    assert "x.keras: " in cli("visualize", "run=x.keras", status=2).err
    inputs = keras.Input((5,))
    keras.Model(inputs, keras.layers.Dense(3)(inputs)).save("vector.keras")
    golden(cli("visualize", "run=vector.keras", status=2).err)
    with pytest.warns(UserWarning, match="not yet been built"):
        keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)]).save("unbuilt.keras")
    golden(cli("visualize", "run=unbuilt.keras", status=2).err)


def test_a_busy_or_read_only_run_is_not_changed(cli: Cli, run: Path, golden: Golden):
    """The advice to draw into another folder works."""
    words = ["visualize", f"run={run}", "layers=0", "pictures=filters"]
    with RunDirectory.open(run):
        golden(cli(*words, status=2).err)
    if os.geteuid() == 0:
        (run / ".lock").mkdir()  # permissions do not hold root back
    else:
        run.chmod(0o555)
    try:
        assert "cannot be written" in (told := cli(*words, status=2).err)
        assert "use output=<folder>" in told
        cli(*words, "output=elsewhere")
        assert pictures(Path("elsewhere")) == {"filters-conv2d.png"}
        assert not (run / "plots" / "visualize").exists()
    finally:
        run.chmod(0o755)


@pytest.mark.parametrize("kind", ["sequential", "nested", "shared"])
@pytest.mark.usefixtures("trained")  # which starts TensorFlow as the program does
def test_models_of_plain_keras_are_drawn(cli: Cli, kind: str):
    """A Sequential model has each layer in two graphs; a nested or shared layer has no single output in the model's."""
    layers = keras.layers
    pixels, conv = keras.Input((28, 28, 1)), layers.Conv2D(2, 3, padding="same")
    pooled = [layers.GlobalAveragePooling2D(), layers.Dense(10, activation="softmax")]
    if kind == "sequential":
        model = keras.Sequential([pixels, layers.Rescaling(1 / 255), conv, *pooled])
    else:
        inner = keras.Sequential([keras.Input((28, 28, 1)), conv]) if kind == "nested" else conv
        x = layers.Rescaling(1 / 255)(pixels)
        x = (
            inner(x)
            if kind == "nested"
            else conv(layers.Conv2D(2, 3, padding="same")(conv(layers.Conv2D(2, 1)(x))))
        )
        for layer in pooled:
            x = layer(x)
        model = keras.Model(pixels, x)
    model.save("plain.keras")
    out = cli("visualize", "run=plain.keras", "data=digits", "output=drawn").out
    for name in ("features", "activation", "fields"):
        assert f"\n{name}" in f"\n{out}", name
