"""`mnist-exp ensemble`: the mean of several runs as one saved model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from support.cli import PATIENCE, Cli
from support.golden import Golden

from mnist_exp.config.overrides import Request
from mnist_exp.data import digits
from mnist_exp.engine import ensembling
from mnist_exp.engine.saved_model import compose_run_config, find_saved, normalizes
from mnist_exp.serving.demo_session import DemoSession


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an output folder with a sweep over three seeds and with a run on images of another shape."""
    from mnist_exp.cli import main

    folder = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(0)
    np.savez(
        folder / "train.npz", x_train=rng.integers(0, 256, (40, 8, 8, 3), np.uint8), y_train=np.arange(40) % 2,
        x_test=rng.integers(0, 256, (10, 8, 8, 3), np.uint8), y_test=np.arange(10) % 2,
    )  # fmt: skip
    npz = ("data=npz", f"data.dir={folder}", "data.shape=[8,8,3]", "data.classes=2", "data.class_names=[cat,dog]")
    small = ("model=linear", "training.epochs=1", "tracking=none", f"outputs={folder / 'outputs'}")
    assert main(["-m", *small, "data=digits", "seed=0,1,2", "sweep.name=seeds"]) == 0
    assert main([*small, *npz, "name=colour"]) == 0
    return folder / "outputs"


@pytest.fixture
def sweep(trained: Path, use: Any) -> Path:
    """Return the folder of the sweep, copied into `outputs`."""
    shutil.copytree(trained, "outputs")
    use("digits")
    return next(Path("outputs/sweeps").iterdir())


def mean_of(runs: list[Path], images: Any) -> Any:
    """Return the mean of the probabilities that plain Keras predicts."""
    models = [keras.saving.load_model(run / "model.keras") for run in runs]
    return np.mean([model.predict(images, batch_size=250, verbose=0) for model in models], axis=0)


def test_an_ensemble_is_the_mean_of_its_members(cli: Cli, sweep: Path):
    """Plain Keras loads it without this package, and its probabilities are the mean of the members' own."""
    out = cli("ensemble", f"run={sweep.name}", "output=three").out
    assert "agrees with the mean of its members on all 300 images" in out
    images = digits.load().test.images
    np.save("images.npy", images)
    script = (
        "import sys, keras, numpy as np; model = keras.saving.load_model('three/model.keras'); "
        "np.save('predicted.npy', model.predict(np.load('images.npy'), verbose=0)); "
        "assert not any(name.startswith('mnist_exp') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300 * PATIENCE)
    runs = sorted(sweep.glob("seed-*"))
    np.testing.assert_allclose(np.load("predicted.npy"), mean_of(runs, images), atol=1e-6)
    written = json.loads(Path("three/ensemble.json").read_text())
    results = [json.loads((run / "result.json").read_text()) for run in runs]
    by_run = {Path(member["path"]).name: member for member in written["members"]}
    assert [by_run[run.name]["metrics"] for run in runs] == [result["test"] for result in results]
    assert written["mean"]["loss"] == pytest.approx(np.mean([result["test"]["loss"] for result in results]))
    best = max(runs, key=lambda run: by_run[run.name]["metrics"]["accuracy"])
    assert Path(written["best"]) == best.resolve()
    cli("evaluate", "run=three", "output=scored")
    assert json.loads(Path("scored/evaluation.json").read_text())["metrics"] == written["metrics"]


@pytest.mark.slow
def test_shifted_images_are_averaged(cli: Cli, sweep: Path):
    """One run is enough; plain Keras loads the model, and `evaluate`, `export` and `visualize` use it."""
    run = next(sweep.glob("seed-*"))
    shifts = [(0, 0), (1, 0), (-2, 0), (0, 3), (2, -1)]
    words = f"shifts={[list(shift) for shift in shifts]}".replace(" ", "")
    out = cli("ensemble", f"run={run}", words, "output=shifted").out
    assert "agrees with the mean of its members over all shifts on all 300 images" in out
    images = digits.load().test.images
    views = []
    for down, right in shifts:
        framed = np.pad(images, ((0, 0), (3, 3), (3, 3), (0, 0)))
        views.append(framed[:, 3 - down : 31 - down, 3 - right : 31 - right])
    expected = np.mean([mean_of([run], view) for view in views], axis=0)
    predicted = keras.saving.load_model("shifted/model.keras").predict(images, verbose=0)
    np.testing.assert_allclose(predicted, expected, atol=1e-6)
    written = json.loads(Path("shifted/ensemble.json").read_text())
    assert written["shifts"] == [list(shift) for shift in shifts]
    assert written["largest_difference"] < 1e-5
    right = float(np.mean(predicted.argmax(axis=1) == digits.load().test.labels))
    assert written["metrics"]["accuracy"] == pytest.approx(right, abs=1e-6)
    cli("evaluate", "run=shifted", "output=scored")
    assert json.loads(Path("scored/evaluation.json").read_text())["metrics"] == written["metrics"]
    formats = cli("export", "run=shifted", "format=[keras,h5,yaml]", "output=exported").out
    assert "Each format agrees with the model on all 300 test images" in formats
    cli("visualize", "run=shifted", "output=drawn")


def test_several_members_and_shifts_are_averaged(tmp_path: Path):
    """Every member sees every shifted image; a shift alone changes the images."""
    rng = np.random.default_rng(0)
    models = []
    for seed in range(2):
        pixels = keras.Input((6, 5, 3))
        keras.utils.set_random_seed(seed)
        features = keras.layers.Flatten()(keras.layers.Conv2D(2, 3)(pixels))
        models.append(keras.Model(pixels, keras.layers.Dense(3, "softmax")(features), name="net"))
    images = rng.uniform(0, 1, (4, 6, 5, 3)).astype(np.float32)
    shifts = ((5, 4), (-5, -4), (0, 1))
    shifted = [ensembling.shift_images(images, *shift) for shift in shifts]
    np.testing.assert_array_equal(shifted[0][:, 5, 4], images[:, 0, 0])
    assert not shifted[0][:, :5].any()
    expected = np.mean([model(view) for model in models for view in shifted], axis=0)
    np.testing.assert_allclose(ensembling.average(models, shifts)(images), expected, atol=1e-6)
    ensembling.average(models[:1], shifts[2:]).save(tmp_path / "one.keras")
    one = keras.saving.load_model(tmp_path / "one.keras")
    np.testing.assert_allclose(one(images), models[0](shifted[2]), atol=1e-6)


def test_layers_with_state_and_branches_are_copied():
    """Batch normalization, dropout, merged branches and layers of the same name keep their weights."""

    def build(seed: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        pixels = keras.Input((8, 8, 1), name="pixels")
        x = keras.layers.Rescaling(1 / 255, name="preprocess")(pixels)
        x = keras.layers.BatchNormalization(name="norm")(keras.layers.Conv2D(4, 3, name="norm_1")(x))
        x = keras.layers.Add(name="norm_1_1")([x, keras.layers.Conv2D(4, 1)(keras.layers.Dropout(0.5)(x))])
        output = keras.layers.Dense(3, "softmax", name="norm_2")(keras.layers.Flatten()(x))
        model = keras.Model(pixels, output)
        rng = np.random.default_rng(seed)
        model.set_weights([rng.uniform(0.1, 0.5, weight.shape) for weight in model.get_weights()])
        return model

    models = [build(seed) for seed in range(12)]
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1)).astype(np.float32)
    expected = np.mean([model(images) for model in models], axis=0)
    ensemble = ensembling.average(models)
    np.testing.assert_allclose(ensemble(images), expected, atol=1e-6)
    models[0].layers[-1].bias.assign([100.0, 0.0, 0.0])
    np.testing.assert_allclose(ensemble(images), expected, atol=1e-6)


def test_other_verbs_take_the_folder(cli: Cli, sweep: Path):
    """`predict`, `export` and `demo` use it as a run's model, with the members' data and class names."""
    cli("ensemble", f"run={sweep.name}", "output=three")
    np.savez("images.npz", digits.load().test.images[:4])
    rows = json.loads(cli("predict", "run=three", "inputs=images.npz", "format=json").out)["predictions"]
    runs = list(sweep.glob("seed-*"))
    expected = mean_of(runs, digits.load().test.images[:4])
    assert [row["label"] for row in rows] == expected.argmax(axis=1).tolist()
    out = cli("export", "run=three", "format=[keras,h5,yaml]", "output=exported").out
    assert "Each format agrees with the model on all 300 test images" in out
    saved = find_saved("three", Path("outputs"))
    session = DemoSession(Request("demo"), (), Path("outputs"), 4)
    assert session.add(saved, compose_run_config(saved, Request("demo"), ())).name == "three"


def test_classes_keep_their_names(cli: Cli, trained: Path, use: Any):
    """Those of the members' data, which is also loaded from where they found it."""
    shutil.copytree(trained, "outputs")
    shutil.copytree(next(Path("outputs/runs").iterdir()), "outputs/runs/again")
    out = cli("ensemble", "run=[colour,again]", "output=two").out
    assert "10 images of the test set" in out
    np.savez("images.npz", np.zeros((1, 8, 8, 3), np.uint8))
    [row] = json.loads(cli("predict", "run=two", "inputs=images.npz", "format=json").out)["predictions"]
    assert row["name"] in ("cat", "dog")
    saved = find_saved("two", Path("outputs"))
    config = compose_run_config(saved, Request("predict"), ())
    assert not normalizes(saved, config, (28, 28, 1))  # a model of other images than digits


def test_all_mistakes_are_reported_at_once(cli: Cli, sweep: Path, golden: Golden):
    """Unknown, unfinished and other runs, and a folder that exists; nothing is written."""
    unfinished = sorted(sweep.glob("seed-*"))[2]
    result = json.loads((unfinished / "result.json").read_text())
    (unfinished / "result.json").write_text(json.dumps({**result, "status": "interrupted"}))
    (Path("there") / "file").mkdir(parents=True)
    before = sorted(Path.cwd().rglob("*"))
    golden(cli("ensemble", f"run=[{sweep},colour,nowhere]", "output=there", status=2).err)
    assert "at least two" in cli("ensemble", "run=[colour,colour]", status=2).err
    assert "run: missing" in cli("ensemble", status=2).err
    golden(cli("ensemble", f"run={sweep}/seed-0", "shifts=[[0,0],[28,1],[0,-28]]", status=2).err)
    golden(cli("ensemble", f"run={sweep}/seed-0", "shifts=[[0,0],[0,0]]", status=2).err)
    golden(cli("ensemble", f"run={sweep}/seed-0", "shifts=1", status=2).err)
    assert sorted(Path.cwd().rglob("*")) == before


def test_a_model_that_differs_is_not_kept(cli: Cli, sweep: Path, monkeypatch: pytest.MonkeyPatch):
    """Exit status 1, and no folder."""
    monkeypatch.setattr(ensembling, "average", lambda models, shifts: models[0])
    err = cli("ensemble", f"run={sweep.name}", "output=new/three", status=1).err
    assert "differs from the mean of its members" in err
    assert not Path("new").exists()


def test_trials_are_not_scored_on_the_test_part(cli: Cli, sweep: Path):
    """A search scores only its best trial on it: an ensemble with another trial is scored on validation images."""
    [first, second, _] = sorted(sweep.glob("seed-*"))
    result = json.loads((second / "result.json").read_text())
    (second / "result.json").write_text(json.dumps({**result, "withholds_test": True}))
    cli("ensemble", f"run=[{first},{second}]", "output=two")
    written = json.loads(Path("two/ensemble.json").read_text())
    assert written["data"]["part"] == "val"
    best = json.loads((second / "result.json").read_text())["best"]
    scored = {Path(member["path"]).name: member["metrics"] for member in written["members"]}[second.name]
    assert scored["accuracy"] == pytest.approx(best["val/accuracy"])
