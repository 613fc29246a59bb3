"""A training run, from the command line to the files that it leaves."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.cli import PATIENCE, SMALL, Cli, start
from support.golden import Golden

# Everything that the contract promises of a finished run.
FILES = {
    "config.yaml", "history.csv", "result.json", "model.keras", "model.h5", "architecture.yaml", "architecture.md",
    "model.weights.h5", "journal.jsonl", "run.log", "plots/accuracy.png", "plots/loss.png", "plots/architecture.png",
    "plots/confusion_matrix.png", "plots/misclassified.png", "plots/augmentation.png",
}  # fmt: skip


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.mnist
def test_mnist_is_trained(cli: Cli):
    """`mnist-exp model=pyramid aug=rotate45` trains on the real files (one epoch of a part of them)."""
    done = cli("model=pyramid", "aug=rotate45", "data.limit=8000", "training.epochs=1", "tracking=none")
    assert done.result["data"]["images"] == {"train": 7200, "val": 800, "test": 1333}
    assert done.result["parameters"] == 8858
    assert done.result["data"]["stands_in_for"] is None


def test_a_run_leaves_everything(cli: Cli):
    """It leaves every file of the contract, and no temporary ones."""
    done = cli("plots=all", small=True)
    assert done.run is not None
    assert files(done.run) == FILES
    assert not (done.run / "checkpoint").exists()
    result = done.result
    assert result["status"] == "finished"
    assert result["epochs"] == 2
    assert len(result["fingerprint"]) == len(result["weights_sha256"]) == len(result["data"]["sha256"]) == 64
    assert set(result["versions"]) == {
        "python",
        "mnist-exp",
        "tensorflow",
        "keras",
        "numpy",
        "hydra-core",
        "mlflow",
    }
    assert {"start", "data", "build", "training", "save", "test", "plots", "total"} <= set(result["seconds"])
    assert result["device"]["threads"] >= 1
    assert result["device"]["precision"] in ("float32", "bfloat16")
    for word in ("test    accuracy", "saved   epoch", "device  CPU"):
        assert word in done.out
        assert word in (done.run / "run.log").read_text()


def test_history_has_a_row_per_epoch(cli: Cli):
    """Rows count from 1, with the columns in the contract's order."""
    done = cli("training.epochs=3", small=True)
    assert done.run is not None
    with (done.run / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "epoch", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "learning_rate", "seconds",
    ]  # fmt: skip
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    best = done.result["best"]
    assert float(rows[best["epoch"] - 1]["val/accuracy"]) == best["val/accuracy"]
    assert best["val/accuracy"] == max(float(row["val/accuracy"]) for row in rows)


@pytest.mark.slow
def test_the_same_command_gives_the_same_weights(cli: Cli):
    """They are bit-identical with augmentation and dropout; another seed gives others."""
    words = ("model=lenet5x5", "model.filters=[4,4,4]", "model.dense=16", "aug=rotate45", "training.epochs=1")
    first, again, other = (cli(*words, *more, small=True) for more in ([], [], ["seed=1"]))
    assert first.result["weights_sha256"] == again.result["weights_sha256"]
    assert first.result["fingerprint"] == again.result["fingerprint"]
    assert first.result["test"] == again.result["test"]
    assert first.result["weights_sha256"] != other.result["weights_sha256"]
    assert first.run != again.run


@pytest.mark.slow
def test_the_same_weights_in_another_process(cli: Cli, home_data: list[str]):
    """They do not depend on what ran before in a process."""
    here = cli("model=pyramid", "aug=shift", "name=here", small=True)
    words = [*SMALL, *home_data, "model=pyramid", "aug=shift", "name=there"]
    subprocess.run(
        [sys.executable, "-m", "mnist_exp", *words], check=True, capture_output=True, timeout=120 * PATIENCE
    )
    [there] = Path("outputs/runs").glob("there-*")
    result = json.loads((there / "result.json").read_text())
    assert result["weights_sha256"] == here.result["weights_sha256"]


# How a run's files are used with Keras alone.
PLAIN_KERAS = """
import json, sys, yaml, keras, numpy as np
run = sys.argv[1]
images = np.load(sys.argv[2])
model = keras.saving.load_model(f"{run}/model.keras")
hdf5 = keras.saving.load_model(f"{run}/model.h5")
rebuilt = keras.models.model_from_json(json.dumps(yaml.safe_load(open(f"{run}/architecture.yaml"))))
rebuilt.load_weights(f"{run}/model.weights.h5")
assert not any(name.startswith("mnist_exp") for name in sys.modules)
np.savez(sys.argv[3], *[m.predict(images, batch_size=1000, verbose=0) for m in (model, hdf5, rebuilt)])
assert model.optimizer.iterations.numpy() > 0
assert {layer.compute_dtype for layer in model.layers} == {"float32"}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "preprocess", "precision", "tolerance"),
    [
        ("pyramid", "unit", "float32", 0),
        ("lenet5x5", "standardize", "float32", 0),
        ("pyramid", "standardize", "bfloat16", 0.02),
        ("lenet5x5", "unit", "bfloat16", 0.02),
    ],
)
def test_saved_models_predict_as_the_model_in_memory(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    preprocess: str,
    precision: str,
    tolerance: float,
):
    """Plain Keras loads each format without this package and gives on raw pixels what the trained model gives: the
    same bits for float32 and as many threads, probabilities within 0.02 for bfloat16.
    """
    import tensorflow as tf

    from mnist_exp.engine import run as engine

    images = np.random.default_rng(0).integers(0, 256, (1000, 28, 28, 1), np.uint8)
    trained = []
    fit = engine.fit

    def spy(net, *arguments):  # type: ignore[no-untyped-def]
        fit(net, *arguments)
        trained.append(net.predict(images, batch_size=1000, verbose=0))  # after its only epoch, which is the best

    monkeypatch.setattr(engine, "fit", spy)
    words = (f"model={model}", f"preprocess={preprocess}", f"device.precision={precision}", "training.epochs=1")
    done = cli(*words, "data.limit=1000", small=True)
    np.save(tmp_path / "images.npy", images)
    script = tmp_path / "plain_keras.py"
    script.write_text(PLAIN_KERAS)
    # Some kernels split their sums by the number of threads.
    threads = {"TF_NUM_INTRAOP_THREADS": str(tf.config.threading.get_intra_op_parallelism_threads())}
    subprocess.run(
        [sys.executable, str(script), str(done.run), str(tmp_path / "images.npy"), str(tmp_path / "out.npz")],
        check=True, capture_output=True, timeout=120 * PATIENCE,
        env={**os.environ, "PYTHONWARNINGS": "ignore", **threads},
    )  # fmt: skip
    with np.load(tmp_path / "out.npz") as out:
        keras_file, hdf5, rebuilt = (out[name] for name in out)
    np.testing.assert_array_equal(hdf5, keras_file)
    np.testing.assert_array_equal(rebuilt, keras_file)
    np.testing.assert_allclose(keras_file, trained[0], rtol=0, atol=tolerance)
    assert len(np.unique(keras_file.round(4), axis=0)) > 100  # not one answer for everything


def test_test_metrics_are_those_of_the_saved_model(cli: Cli):
    """Counting with the loaded file gives the metrics in `result.json`."""
    from mnist_exp.config.overrides import Request
    from mnist_exp.config.schema import TrainConfig
    from mnist_exp.config.validation import compose_checked
    from mnist_exp.data.formats import find, prepare
    from mnist_exp.inference import scoring

    done = cli("training.epochs=5", small=True)
    assert done.run is not None
    config, _ = compose_checked(Request("train", tuple(done.result["overrides"])), TrainConfig)
    test = prepare(find(config.data, print), config.data).test
    assert test is not None
    predicted = scoring.predict(scoring.load(done.run / "model.keras"), test.images).argmax(axis=1)
    assert done.result["test"]["accuracy"] == pytest.approx((predicted == test.labels).mean(), abs=1e-6)


def test_the_test_set_is_scored_once_and_only_at_the_end(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """Its labels affect neither the weights nor the chosen epoch."""
    from mnist_exp.engine import results
    from mnist_exp.engine import run as engine

    honest = cli(small=True)
    prepare = engine.prepare

    def with_wrong_test_labels(source, data):  # type: ignore[no-untyped-def]
        dataset = prepare(source, data)
        dataset.test.labels[:] = 9 - dataset.test.labels
        return dataset

    monkeypatch.setattr(engine, "prepare", with_wrong_test_labels)
    score, scored = results.score, []
    monkeypatch.setattr(
        results, "score", lambda model, part, *more: scored.append(len(part)) or score(model, part, *more)
    )
    fooled = cli(small=True)
    assert scored == [fooled.result["data"]["images"]["test"]]
    assert fooled.result["weights_sha256"] == honest.result["weights_sha256"]
    assert fooled.result["best"] == honest.result["best"]
    assert fooled.result["test"] != honest.result["test"]


@pytest.mark.slow
def test_a_runs_config_runs_it_again(cli: Cli):
    """`from=` with a directory or a name gives the same weights; overrides are applied on top."""
    first = cli("model=pyramid", "aug=shift", "preprocess=standardize", small=True)
    assert first.run is not None
    for wanted in (first.run, first.run.name, "latest"):
        again = cli(f"from={wanted}", "tracking=none")
        assert again.result["weights_sha256"] == first.result["weights_sha256"]
    longer = cli(f"from={first.run}", "training.epochs=3", "aug=none", "tracking=none")
    assert longer.result["epochs"] == 3
    config = yaml.safe_load((longer.run / "config.yaml").read_text())  # type: ignore[operator]
    assert (config["aug"]["name"], config["model"]["name"], config["data"]["limit"]) == ("none", "pyramid", 300)


def test_the_fallback_is_reported_everywhere(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """It is in the first and last lines, the config, the result and the journal."""
    monkeypatch.delenv("MNIST_EXP_DATA", raising=False)
    done = cli("data.mirrors=[]", "model=linear", "training.epochs=1", "tracking=none")
    assert done.run is not None
    lines = done.out.strip().splitlines()
    assert "USING DIGITS INSTEAD OF MNIST" in done.out[: done.out.index("epoch 1/1")]
    assert lines[-1] == "warning: these results are for digits, the fallback for mnist"
    assert done.result["data"]["name"] == "digits"
    assert done.result["data"]["stands_in_for"] == "mnist"
    assert yaml.safe_load((done.run / "config.yaml").read_text())["data"]["name"] == "digits"
    run = json.loads((done.run / "journal.jsonl").read_text().splitlines()[0])
    assert run["tags"]["fallback"] == "mnist"
    assert run["tags"]["data"] == "digits"


def test_without_fallback_missing_data_is_an_error(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """This includes presets that claim an accuracy; nothing is created."""
    monkeypatch.delenv("MNIST_EXP_DATA", raising=False)
    for words in (["data.fallback=error"], ["experiment=lenet5x5"]):
        done = cli("data.mirrors=[]", *words, status=2)
        assert "mnist was not found in any of these places" in done.err
        assert "data.dir=…" in done.err
    assert not Path("outputs").exists()


def test_titles_of_plots_name_the_fallback(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """A picture that is passed on says what it shows."""
    from matplotlib.figure import Figure

    titles: list[str] = []
    suptitle = Figure.suptitle
    monkeypatch.setattr(
        Figure, "suptitle", lambda self, text, **more: (titles.append(text), suptitle(self, text, **more))[1]
    )
    monkeypatch.delenv("MNIST_EXP_DATA", raising=False)
    cli("data.mirrors=[]", "model=linear", "training.epochs=1", "tracking=none")
    assert len(titles) == 6
    assert all("digits, the fallback for mnist" in title.replace("\n", " ") for title in titles)


def test_a_training_that_diverges_is_marked(cli: Cli):
    """The exit status is 1, the reason is one line, and the run is marked as failed."""
    done = cli("model=lenet5x5", "optimizer.learning_rate=1e38", small=True, status=1)
    assert done.err.startswith("mnist-exp: the loss is no longer a number")
    assert done.result["status"] == "failed"
    assert "no longer a number" in done.result["reason"]


def test_a_checkpoint_is_kept_if_asked_for(cli: Cli):
    """Otherwise it is removed at the end of the run."""
    done = cli("training.keep_checkpoint=true", small=True)
    assert done.run is not None
    assert [file.name for file in (done.run / "checkpoint").iterdir()][-1].endswith(".state")


@pytest.mark.slow
def test_a_few_images_can_be_overfitted(cli: Cli, home_data: list[str]):
    """`debug=overfit` reaches a training accuracy near 1 for a model that can learn."""
    done = cli("debug=overfit", "tracking=none", *home_data)
    assert done.run is not None
    with (done.run / "history.csv").open() as file:
        assert round(float(list(csv.DictReader(file))[-1]["train/accuracy"]), 6) >= 0.95  # a float32


@pytest.mark.slow
def test_a_closed_pipe_does_not_end_a_run(home_data: list[str]):
    """`mnist-exp … | head -1` trains to its end."""
    words = shlex.join([sys.executable, "-m", "mnist_exp", *SMALL, *home_data])
    subprocess.run(f"{words} | head -1", shell=True, check=True, capture_output=True, timeout=120 * PATIENCE)
    [result] = Path("outputs/runs").glob("*/result.json")
    assert json.loads(result.read_text())["status"] == "finished"


def test_extra_metrics_get_columns(cli: Cli):
    """They are in the history and scored on the test set."""
    done = cli(
        "training.loss=categorical_crossentropy", "training.metrics=[top_k_categorical_accuracy]", small=True
    )
    assert done.run is not None
    assert "val/top_k_categorical_accuracy" in (done.run / "history.csv").read_text().splitlines()[0]
    assert done.result["test"]["top_k_categorical_accuracy"] >= done.result["test"]["accuracy"]


def test_only_an_epoch_chosen_by_its_accuracy_is_called_the_best_of_many(cli: Cli):
    """With another metric, other epochs may have had a higher accuracy."""
    assert "because it is the best of 2 epochs" in cli("data=digits", small=True).out
    by_loss = cli("data=digits", "training.select.metric=val/loss", "training.select.mode=min", small=True).out
    assert "warning: the validation accuracy is based on 30 images" in by_loss
    assert "the best of" not in by_loss


def test_a_metric_has_the_same_name_everywhere(cli: Cli):
    """The name does not depend on metrics created before; the metric can select the epoch."""
    words = (
        "training.loss=categorical_crossentropy",
        "training.metrics=[precision]",
        "training.select.metric=val/precision",
    )
    for _ in range(2):
        done = cli(*words, small=True)
        assert "precision" in done.result["test"]
        assert "val/precision" in done.result["best"]


@pytest.fixture
def endless(home_data: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a training run that continues until it is terminated."""
    words = ["model=pyramid", "training.epochs=5000", "data.limit=300", "tracking=none"]
    process = start(*words, *home_data)
    yield process
    process.kill()
    process.communicate()


def wait_for_epochs(process: subprocess.Popen[str], count: int) -> Path:
    """Wait for a number of epochs; returns the run's directory."""
    assert process.stdout is not None
    path, seen = None, 0
    for line in process.stdout:
        if line.startswith("run "):
            path = Path(line.split(None, 1)[1].strip())
        seen += line.startswith("epoch ")
        if seen == count:
            assert path is not None
            return path
    raise AssertionError("the training ended by itself")


def test_ctrl_c_keeps_the_best_epoch(cli: Cli, endless: subprocess.Popen[str]):
    """The exit status is 130, the run is marked, and the test set is not scored."""
    path = wait_for_epochs(endless, 3)
    endless.send_signal(signal.SIGINT)
    _, err = endless.communicate(timeout=60 * PATIENCE)
    assert endless.returncode == 130, err
    assert "Traceback" not in err
    result = json.loads((path / "result.json").read_text())
    assert result["status"] == "interrupted"
    assert result["epochs"] >= 3
    assert result["test"] is None
    assert len((path / "history.csv").read_text().splitlines()) == result["epochs"] + 1
    assert {"model.keras", "plots/accuracy.png"} <= files(path)
    assert list((path / "checkpoint").iterdir())
    assert "interrupted" in cli("runs").out


def test_a_run_killed_with_sigkill_is_marked(cli: Cli, endless: subprocess.Popen[str]):
    """It is shown and marked as killed, and its files are intact."""
    path = wait_for_epochs(endless, 3)
    endless.kill()
    endless.communicate(timeout=60 * PATIENCE)
    shown = cli("runs").out
    assert "killed" in shown
    assert "0/5000" not in shown  # what had been reached is shown
    result = json.loads((path / "result.json").read_text())
    assert result["status"] == "killed"
    assert 0 < result["ended"] - result["started"] < 120
    assert len((path / "history.csv").read_text().splitlines()) >= 4


def test_an_early_stop_is_reported(cli: Cli):
    """It is in the output and the result; the planned number of epochs is unchanged."""
    patience = ("training.early_stopping.patience=1", "training.early_stopping.min_delta=0.9")
    done = cli("training.epochs=5", *patience, small=True)
    assert "stopped early: 1 epoch without improvement" in done.out
    assert done.result["stopped_early"] is True
    assert (done.result["epochs"], done.result["planned_epochs"]) == (2, 5)
    assert "stopped_early" not in cli(small=True).result


def test_a_run_keeps_what_it_is_told_to(cli: Cli, golden: Golden):
    """`save` selects the files; commands that need a model report that none was kept."""
    done = cli("save=[yaml]", "plots=all", small=True)
    assert done.run is not None
    expected = {name for name in FILES if not name.startswith("plots/")} - {"model.keras", "model.h5"}
    assert files(done.run) == expected
    assert "accuracy" in done.result["test"]
    events = (done.run / "journal.jsonl").read_text().splitlines()
    assert not any(json.loads(event)["kind"] == "model" for event in events)
    refused = [cli("evaluate", "run=latest", status=2), cli("init_from=latest", small=True, status=2)]
    golden("\n".join(outcome.err for outcome in refused))


@pytest.mark.parametrize(
    ("words", "drawn"),
    [
        (
            ["plots=[loss,learning_rate,misclassified]", "schedule=cosine"],
            ["learning_rate", "loss", "misclassified"],
        ),
        (["plots=[learning_rate,accuracy]", "plots.dpi=50"], ["accuracy"]),  # a constant rate has no picture
        (["plots=false"], []),
        (["plots=all", "save=[]"], []),
    ],
)
def test_plots_are_selected(cli: Cli, words: list[str], drawn: list[str]):
    """`plots` names the pictures that a run draws, and `false` draws none; nothing else depends on it."""
    done = cli(*words, small=True)
    assert done.run is not None
    assert sorted(path.stem for path in (done.run / "plots").glob("*")) == drawn
    assert (done.run / "plots").exists() == bool(drawn)
    assert "accuracy" in done.result["test"]


@pytest.mark.parametrize("setting", ["save=[h5]", "sweep.keep_models=best"])
def test_a_search_keeps_models(cli: Cli, setting: str, golden: Golden):
    """Its best trial's model is scored at its end."""
    words = ("data=digits", "model=linear", "optimizer.learning_rate=0.1,0.2", "tune.sampler=grid", setting)
    golden(cli("tune", *words, status=2).err)
    assert not Path("outputs").exists()
