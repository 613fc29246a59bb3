"""`mnist-exp evaluate`: the figures of a saved run on its own data and on other data."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image
from support.cli import SMALL, Cli
from support.golden import Golden
from support.surroundings import photograph

from mnist_exp.config.hydra_adapter import parse_override
from mnist_exp.data import digits
from mnist_exp.engine.saved_model import declared_overrides


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an output folder with one run on the built-in digits, shared by many tests."""
    from mnist_exp.cli import main

    outputs = tmp_path_factory.mktemp("trained") / "outputs"
    assert main([*SMALL, "data=digits", "training.metrics=[top_k_categorical_accuracy]",
                 "training.loss=categorical_crossentropy", f"outputs={outputs}", "name=small"]) == 0  # fmt: skip
    return outputs


def kept(out: str) -> tuple[Path, dict[str, Any]]:
    """Return the folder with the written figures, and the figures."""
    folder = Path(next(line for line in out.splitlines() if line.startswith("saved"))[8:])
    return folder, json.loads((folder / "evaluation.json").read_text())


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_scored_again_with_the_same_figures(cli: Cli, run: Path):
    """They are bit-identical to those of the run, whose directory is not changed."""
    before = contents(run)
    done = cli("evaluate", "run=latest")
    assert "same    bit-identical to the results in the run's result.json" in done.out
    assert contents(run) == before
    folder, found = kept(done.out)
    result = json.loads((run / "result.json").read_text())
    assert found["metrics"] == result["test"]
    assert found["weights_sha256"] == result["weights_sha256"]
    assert folder.parent == Path("outputs/evaluate")
    assert {path.name for path in folder.iterdir()} == {
        "evaluation.json", "per_class.csv", "predictions.csv", "confusion_matrix.png", "reliability.png",
        "misclassified.png",
    }  # fmt: skip


def test_all_figures_are_those_of_the_predictions(cli: Cli, run: Path):
    """This covers figures by class, overall figures, and the confusion matrix."""
    from sklearn.metrics import confusion_matrix, recall_score

    done = cli("evaluate", "run=small", "output=new/scored")
    folder, found = kept(done.out)
    assert folder == Path("new/scored")
    predictions = rows_of(folder / "predictions.csv")
    true, predicted = ([row[key] for row in predictions] for key in ("true", "class"))
    assert len(predictions) == found["data"]["images"]
    assert found["confusion"] == confusion_matrix(true, predicted).tolist()
    recalls = [float(row["recall"]) for row in rows_of(folder / "per_class.csv")]
    assert recalls == pytest.approx(recall_score(true, predicted, average=None))
    low, high = found["interval"]
    assert low < found["accuracy"] < high
    assert f"interval {100 * low:.2f} … {100 * high:.2f} (Wilson)" in done.out
    assert f"expected calibration error {found['expected_calibration_error']:.2%}".replace("%", " %") in done.out


def test_scores_on_training_and_validation_parts_are_qualified(cli: Cli, run: Path):
    """The output says that the model was trained, or the epoch selected, on these images."""
    out = cli("evaluate", "run=latest", "part=train").out
    assert "the model was trained on these images" in out
    assert kept(out)[1]["data"]["images"] == 270
    out = cli("evaluate", "run=latest", "part=val").out
    assert "the saved epoch was selected on these images" in out


def test_another_validation_accuracy_during_training_is_reported(cli: Cli, run: Path):
    """It can differ because training may compute in bfloat16."""
    file = run / "result.json"
    result = json.loads(file.read_text())
    result["best"]["val/accuracy"] = kept(cli("evaluate", "run=latest", "part=val").out)[1]["metrics"]["accuracy"]
    file.write_text(json.dumps(result))
    assert "during training" not in cli("evaluate", "run=latest", "part=val").out
    result["best"]["val/accuracy"] += 0.1
    result["device"]["precision"] = "bfloat16"
    file.write_text(json.dumps(result))
    recorded = f"{100 * result['best']['val/accuracy']:.2f} %"
    out = cli("evaluate", "run=latest", "part=val").out
    assert f"during training, the accuracy was {recorded}, computed in bfloat16" in out


def test_two_in_one_second_have_a_folder_each(cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch):
    """Folders are named by the second, with a number if the name is taken."""
    monkeypatch.setattr("mnist_exp.engine.evaluation.add_timestamp", lambda name: f"{name}-now")
    folders = [kept(cli("evaluate", "run=latest").out)[0].name for _ in range(2)]
    assert folders == [f"{run.name}-now", f"{run.name}-now-2"]


def write_other_data(classes: int = 10, side: int = 28) -> None:
    rng = np.random.default_rng(0)
    lines = [f"{label % classes}," + ",".join(map(str, rng.integers(0, 256, side * side))) for label in range(40)]
    for part in ("train", "test"):
        (Path("other") / f"{part}.csv").parent.mkdir(exist_ok=True)
        (Path("other") / f"{part}.csv").write_text("\n".join(lines) + "\n")


def test_other_data_is_scored_without_giving_shape_and_classes(cli: Cli, run: Path):
    """They are taken from the run or from the model file."""
    write_other_data()
    done = cli("evaluate", "run=latest", "data=csv", "data.dir=other")
    assert "data    csv from" in done.out
    assert "not the data of the run" in done.out
    assert "result.json" not in done.out
    found = kept(done.out)[1]
    assert (found["data"]["images"], found["data"]["of_the_run"]) == (40, False)
    alone = cli("evaluate", f"run={run / 'model.keras'}", "data=csv", "data.dir=other", "output=alone").out
    assert kept(alone)[1]["accuracy"] == found["accuracy"]
    assert kept(alone)[1]["run"] is None


def test_hdf5_files_are_scored_silently(cli: Cli, run: Path):
    """The result is that of the `.keras` file; Keras' warnings are not shown."""
    first = kept(cli("evaluate", f"run={run / 'model.keras'}", "data=digits").out)[1]
    done = cli("evaluate", f"run={run / 'model.h5'}", "data=digits")
    assert kept(done.out)[1]["accuracy"] == first["accuracy"]
    assert done.err == ""


def test_colour_folders_keep_their_class_names(cli: Cli):
    """Other image folders are read with the run's shape and classes; the class names must agree."""
    for folder, names in (("a", ("ash", "oak")), ("b", ("ash", "oak")), ("c", ("elm", "oak"))):
        for part in ("train", "test"):
            for shade, name in enumerate(names):
                (Path(folder) / part / name).mkdir(parents=True)
                for number in range(4):
                    pixels = np.full((9, 7, 3), 200 * shade + number + (folder == "b"), np.uint8)
                    Image.fromarray(pixels).save(Path(folder) / part / name / f"{number}.png")
    words = ["data=folder", "data.dir=a", "data.shape=[9,7,3]", "data.classes=2", "data.val_fraction=0.25"]
    cli(*words, "model=linear", "training.epochs=1", "tracking=none")
    out = cli("evaluate", "run=latest", "data=folder", "data.dir=b", "data.val_fraction=0").out
    assert kept(out)[1]["data"]["class_names"] == ["ash", "oak"]
    err = cli("evaluate", "run=latest", "data=folder", "data.dir=c", status=2).err
    assert "elm, oak" in err
    assert "ash, oak" in err


def test_differences_from_the_runs_result_are_reported(cli: Cli, run: Path):
    """The warning is for other weights; the note has both figures and the changed setting."""
    file = run / "result.json"
    result = json.loads(file.read_text())
    result["weights_sha256"] = "0" * 64
    result["test"]["accuracy"] = 0.5
    result["device"]["threads"] = 64
    file.write_text(json.dumps(result))
    out = cli("evaluate", "run=latest").out
    warning, note = (line for line in out.splitlines() if "result.json" in line)
    assert warning.startswith("warning: ")
    assert "accuracy 0.5" in note
    assert "threads" in note
    assert "64" in note


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ([], "run=latest"),
        (["run=nope"], "nope: "),
        (["run=nope.keras"], "run=nope.keras: "),
        (["run=damaged.keras"], "damaged.keras: "),
        (["run=damaged.keras", "data=csv", "data.dir=nowhere"], "damaged.keras: "),
        (["run=latest", "part=tests"], "part=tests: "),
        (["run=latest", "data.dri=x"], "data.dri=x: "),
        (["run=latest", "output=there"], "output: "),
        (["run=latest", "data=csv", "data.dir=other"], "data.shape=[8,8,1]"),
        (["run=latest", "data=csv", "data.dir=other", "data.shape=[8,8,1]"], "28×28×1"),
        (["run=latest", "data=csv", "data.dir=five", "data.classes=5"], "5 classes"),
        (["run=latest", "data=kaggle", "data.dir=five", "part=test"], "part=train or part=val"),
        (["run=latest", "data=mnist", "data.dir=nowhere"], "nowhere"),
        (["run=latest", "model=mlp"], "model=mlp: "),
        (["run=latest", "part=x", "data.clases=3"], "2 problems"),
        (["run=latest", "-m"], "-m "),
        (["run=latest", "normalize=true"], "normalize: "),
        (["run=latest", "data=folder", "data.dir=there", "normalize=true", "part=val"], "normalize: "),
    ],
)
def test_a_wrong_request_writes_nothing(cli: Cli, run: Path, words: list[str], place: str, golden: Golden):
    """The message names the key or file, and the exit status is 2."""
    Path("damaged.keras").write_bytes(b"no model")
    Path("there").mkdir()
    Path("there/mine").write_text("mine")
    write_other_data(classes=5)
    Path("other").rename("five")
    write_other_data(side=8)
    before = contents(Path())
    err = cli("evaluate", *words, status=2).err
    assert place in err
    golden(err)
    assert contents(Path()) == before


def test_a_model_error_comes_before_a_data_error(cli: Cli, run: Path):
    """A file that holds no classifier is reported even if the data is missing."""
    Path("damaged.keras").write_bytes(b"no model")
    inputs = keras.Input((5,))
    keras.Model(inputs, keras.layers.Dense(3)(inputs)).save("vector.keras")
    for name, told in (
        ("damaged.keras", "not a model"),
        ("vector.keras", "not a classifier"),
    ):
        err = cli("evaluate", f"run={name}", "data=mnist", "data.dir=gone", status=2).err
        assert f"{name}: {told}" in err
        assert "there is no such folder" not in err


def test_data_without_a_training_part_is_scored(cli: Cli, run: Path):
    """CSV, NPZ, IDX and folders with test images alone, and class folders alone, give the same figures."""
    for kind in ("csv", "npz", "idx", "folder"):
        cli("dataset", "convert", "data=digits", "data.limit=100", f"to={kind}", f"output={kind}")
    Path("csv/train.csv").unlink()
    for file in Path("idx").glob("train-*"):
        file.unlink()
    with np.load("npz/data.npz") as arrays:
        np.savez("npz/data.npz", x_test=arrays["x_test"], y_test=arrays["y_test"])
    shutil.rmtree("folder/train")
    shutil.copytree("folder/test", "alone")
    scored = {
        place: kept(cli("evaluate", "run=latest", f"data={kind}", f"data.dir={place}").out)[1]
        for kind, place in (
            ("csv", "csv"),
            ("npz", "npz"),
            ("idx", "idx"),
            ("folder", "folder"),
            ("folder", "alone"),
        )
    }
    [digest] = {found["data"]["sha256"] for found in scored.values()}
    assert {found["data"]["part"] for found in scored.values()} == {"test"}
    assert scored["csv"]["data"]["images"] == len(list(Path("alone").rglob("*.png")))
    whole = kept(cli("evaluate", f"run={run / 'model.keras'}", "data=csv", "data.dir=csv", "data.classes=10").out)[
        1
    ]
    assert whole["data"]["sha256"] == digest
    assert "x_train" in cli("evaluate", "run=latest", "data=npz", "data.dir=npz", "part=train", status=2).err


def test_some_classes_are_enough(cli: Cli, run: Path):
    """Images of a class that the model does not have are refused with the nearest name."""
    cli("dataset", "convert", "data=digits", "data.limit=100", "to=folder", "output=all")
    shutil.copytree("all/test/7", "few/7")
    found = kept(cli("evaluate", "run=latest", "data=folder", "data.dir=few").out)[1]
    assert [figures["images"] > 0 for figures in found["classes"]] == [number == 7 for number in range(10)]
    shutil.copytree("all/test/7", "few/77")
    err = cli("evaluate", "run=latest", "data=folder", "data.dir=few", status=2).err
    assert "77" in err
    assert "'7'" in err


def test_a_copy_of_the_runs_folder_is_split_as_in_training(cli: Cli):
    """Class folders that were trained on are not scored as if they were new images."""
    rng = np.random.default_rng(0)
    for name in ("ash", "oak"):
        (Path("mine") / name).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(rng.integers(0, 256, (9, 7), np.uint8)).save(f"mine/{name}/{number}.png")
    cli(
        "data=folder",
        "data.dir=mine",
        "model=linear",
        "training.epochs=1",
        "tracking=none",
        "data.val_fraction=0.2",
    )
    shutil.copytree("mine", "copy")
    for place in ("mine", "copy"):
        found = kept(cli("evaluate", "run=latest", f"data.dir={place}").out)[1]
        assert (found["data"]["part"], found["data"]["images"]) == ("val", 4)


def test_labelled_photographs_are_scored_in_mnists_form(cli: Cli, run: Path, golden: Golden):
    """Every photograph is classified as `predict` does it, and its path and warning are listed."""
    part = digits.load().test
    assert part is not None
    for number in range(12):
        digit, label = part.images[number, ..., 0], part.labels[number]
        file = Path("photos") / str(label) / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        photograph("torn_sheet", digit, number).save(file, quality=90)
    two = np.hstack([255 - part.images[0, ..., 0]] * 2)
    Image.fromarray(two).resize((400, 200)).save("photos/0/two.png")
    words = ("data=folder", "data.dir=photos", "normalize=true")
    folder, found = kept(cli("evaluate", "run=latest", *words).out)
    rows = {row["image"]: row for row in rows_of(folder / "predictions.csv")}
    cli("predict", "run=latest", "inputs=photos", "output=predicted.csv")
    predicted = {str(Path(row["input"]).resolve()): row for row in rows_of(Path("predicted.csv"))}
    assert {path: row["class"] for path, row in rows.items()} == {p: row["class"] for p, row in predicted.items()}
    assert {path for path, row in rows.items() if row["warning"]} == {str(Path("photos/0/two.png").resolve())}
    assert all(row["true"] == Path(path).parent.name for path, row in rows.items())
    assert (found["data"]["normalized"], found["data"]["images"], found["data"]["part"]) == (True, 13, "test")
    Image.fromarray(np.full((90, 90), 200, np.uint8)).save("photos/3/blank.png")
    golden(cli("evaluate", "run=latest", *words, status=2).err)
    skipped = cli("evaluate", "run=latest", *words, "data.skip_bad=true").out
    assert kept(skipped)[1]["metrics"] == found["metrics"]


@pytest.mark.parametrize("coloured", [False, True])
def test_the_advice_on_photographs_works(cli: Cli, run: Path, coloured: bool):
    """The shape is the model's, so no message advises another; what a message names leads to results."""
    sides = np.random.default_rng(0).integers(80, 120, (10, 2))
    for number, (height, width) in enumerate(sides):
        Path(f"photos/{number}").mkdir(parents=True)
        size = (28, 28, 3) if coloured else (height, width)
        paper = np.full(size, 230, np.uint8)
        paper[10:20, 12:15] = (120, 0, 0) if coloured else 20
        Image.fromarray(paper).save(f"photos/{number}/1.png")
    words = ["evaluate", "run=latest", "data=folder", "data.dir=photos"]
    refused = cli(*words, status=2).err
    assert "data.shape=" not in refused
    advised = re.findall(r"[a-z.]+=\w+", refused.partition("; ")[2])
    assert advised == (["normalize=true"] if coloured else ["data.resize=fit", "normalize=true"])
    for advice in advised:
        assert kept(cli(*words, advice).out)[1]["data"]["images"] == 10
    if not coloured:
        declared = cli(*words, "data.resize=fit", "data.shape=[80,80,1]", status=2).err
        advised = re.findall(r"data\.\w+=(?:\[[\d,]+\]|\w+)", declared)
        assert advised == ["data.resize=fit", "data.shape=[28,28,1]", "data.classes=10"]
        rows = rows_of(kept(cli(*words, *advised).out)[0] / "predictions.csv")
        assert [row["path"] for row in rows] == [str(Path(f"photos/{n}/1.png").resolve()) for n in range(10)]
        assert [row["image"] for row in rows] == [str(number) for number in range(10)]


def test_other_files_of_the_runs_kind_are_read_as_its_own():
    """From the same column and with the same range; data of another kind is not."""
    data = {"source": "csv", "shape": [2, 3, 1], "classes": 2, "label_column": "my label", "scale": [255, 0]}
    data |= {"label_offset": None, "transpose": True}
    request = ("data=csv", "data.dir=there", "data.transpose=false")
    found = [parse_override(text) for text in declared_overrides({"data": data}, request)]
    assert {one.key_or_group: one.value() for one in found} == {
        "data.shape": [2, 3, 1], "data.classes": 2, "data.scale": [255, 0], "data.label_column": "my label",
    }  # fmt: skip
    assert len(declared_overrides({"data": data}, ("data=npz",))) == 2
