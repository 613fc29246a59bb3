"""`mnist-exp export`: formats that run elsewhere and agree with the model are kept, others are not."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import mlflow
import numpy as np
import pytest
from mlflow.utils.validation import (
    _validate_model_alias_name,
    _validate_model_alias_name_reserved,
    _validate_model_name,
)
from support.cli import MNIST, PATIENCE, SMALL, Cli, soak, start
from support.device import set_up_tensorflow
from support.golden import Golden
from support.servers import ModelServer, Server
from training.test_catalogue import NETS

from mnist_exp.commands import export
from mnist_exp.config.command_schemas import ExportConfig, Format
from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import ModelConfig, TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.engine.saved_model import Saved
from mnist_exp.errors import RequestError
from mnist_exp.inference.export_formats import FORMATS, run_all
from mnist_exp.inference.scoring import predict
from mnist_exp.model import backend
from mnist_exp.model.build import build
from mnist_exp.model.preprocessing import statistics
from mnist_exp.tracking.registry import Registered

FILES = {
    "model.keras", "model.h5", "architecture.yaml", "model.weights.h5", "saved_model", "model.onnx", "model.tflite",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _device() -> None:
    set_up_tensorflow()  # `export` leaves its threads alone, and a test that trains may follow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run without a tracker."""
    folder = tmp_path_factory.mktemp("trained")
    words = (*SMALL, "model=linear", "data.limit=100", "training.epochs=1", "name=a", f"outputs={folder}")
    process = start(*words, *([] if MNIST else ["data=digits"]))
    _, err = process.communicate(timeout=300 * PATIENCE)
    assert process.returncode == 0, err
    [found] = (folder / "runs").iterdir()
    return found


@pytest.fixture
def run(trained: Path, use: Callable[[str], None]) -> Path:
    """Return a copy of that run in this test's folder."""
    use("mnist" if MNIST else "digits")
    found = Path("outputs/runs").resolve() / trained.name
    shutil.copytree(trained, found)
    return found


def expected(run: Path, images: Any) -> Any:
    return keras.saving.load_model(run / "model.keras").predict(images, batch_size=250, verbose=0)


def in_its_runtime(folder: Path) -> dict[str, Callable[[Any], Any]]:
    """Run the exported files as another program would."""
    import onnxruntime
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    interpreter = Interpreter(str(folder / "model.tflite"))
    saved_model = tf.saved_model.load(str(folder / "saved_model"))

    def litert(images: Any) -> Any:
        interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], images.shape)
        return interpreter.get_signature_runner()(pixels=images)["output_0"]

    return {
        "onnx": lambda images: session.run(None, {"pixels": images})[0],
        "litert": litert,
        "savedmodel": lambda images: saved_model.signatures["serving_default"](pixels=images)["output_0"].numpy(),
        "keras": lambda images: keras.saving.load_model(folder / "model.keras").predict(images, verbose=0),
        "h5": lambda images: keras.saving.load_model(folder / "model.h5").predict(images, verbose=0),
    }


@pytest.mark.slow
@pytest.mark.parametrize("model", ["lenet5x5", "vgg_bn"])
def test_every_format(cli: Cli, model: str):
    """All formats are written and verified without library output, and agree with the model in other programs."""
    trained = cli(f"model={model}", "data.limit=100", "training.epochs=1", "name=a", small=True)
    assert trained.run is not None
    process = start("export", "run=latest", "format=all", "output=an odd [folder]=1")
    out, err = process.communicate(timeout=300 * PATIENCE)
    assert process.returncode == 0, err
    assert err == ""
    assert "TensorFlow does not load a SavedModel from a folder with '['" in out
    folder = Path("an odd [folder]=1").rename("plain")
    assert {path.name for path in folder.iterdir()} == FILES
    rows = dict(re.findall(r"^ (\w+) .* (\d\S*) +[\d.]+ +[\d.]+ *$", out, re.MULTILINE))
    assert set(rows) == {"keras", "h5", "yaml", "savedmodel", "onnx", "litert"}
    assert all(float(difference) < 1e-5 for difference in rows.values())
    assert rows["keras"] == rows["h5"] == rows["yaml"] == "0"
    images = trained.result["data"]["images"]["test"]
    assert f"on all {images} test images: same classes, and probabilities within 0.0001" in " ".join(out.split())
    with h5py.File(folder / "model.weights.h5") as weights:
        assert "optimizer" not in weights
    for count in (1, 7):  # any number of images
        pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28, 1)).astype(np.float32)
        for name, run in in_its_runtime(folder).items():
            np.testing.assert_allclose(run(pixels), expected(trained.run, pixels), atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "net", [net if net in ("convolutions", "merges", "recurrent") else soak(net) for net in sorted(NETS)]
)
def test_every_layer_in_every_format(net: str, tmp_path: Path):
    """Every allowed layer can be exported, except recurrent ones in LiteRT."""
    config, _ = compose_checked(Request("train", ("data=digits",)), TrainConfig)
    config = config.model_copy(update={"model": ModelConfig(name="test", layers=tuple(NETS[net]))})
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28, 1), np.uint8)
    model = build(config, statistics(images, config.preprocess), "float32")
    wanted = predict(model, images)
    for name, form in FORMATS.items():
        folder = tmp_path / name
        folder.mkdir()
        with backend.quiet():
            model.save(tmp_path / "model.keras")
            form.write(keras.saving.load_model(tmp_path / "model.keras"), folder)
        if (net, name) == ("recurrent", "litert"):
            with pytest.raises(ValueError, match="LiteRT"):
                form.load(folder)
            continue
        with backend.quiet():
            found = run_all(form.load(folder), images)
        np.testing.assert_allclose(found, wanted, atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.soak  # minutes
@pytest.mark.parametrize("model", ["lenet5x5", "vgg_bn"])
def test_every_format_on_the_whole_test_set(cli: Cli, model: str):
    """The formats agree with a trained model on all test images."""
    epochs = 1 if MNIST else 4  # the built-in digits are 1,497: too few batches for batch normalization in one
    trained = cli(f"model={model}", "name=a", "data.limit=5000", f"training.epochs={epochs}", small=True)
    assert trained.result["test"]["accuracy"] > 0.5
    out = cli("export", "run=latest", "format=all", "data.limit=null").out
    assert f"on all {'10,000' if MNIST else '300'} test images" in " ".join(out.split())


@pytest.mark.slow
def test_a_format_that_cannot_be_written_is_not_kept(cli: Cli):
    """The reason is reported (LiteRT has no recurrent layers), and the other formats are written."""
    layers = "[{type: Reshape, target_shape: [28,28]},{type: LSTM, units: 4},{type: Dense, units: 10},Softmax]"
    cli(f"model.layers={layers.replace(': ', ':')}", "data.limit=100", "training.epochs=1", small=True)
    done = cli("export", "run=latest", "format=[litert,onnx]", "output=here", status=1)
    assert "formats not kept:\n  litert: " in done.err
    assert "recurrent" in done.err
    assert "This format agrees with the model" in done.out
    assert [path.name for path in Path("here").iterdir()] == ["model.onnx"]
    done = cli("export", "run=latest", "format=litert", "output=there", status=1)
    assert "nothing was written:\n  litert: " in done.err
    assert {path.name for path in Path().iterdir()} == {"here", "outputs"}


def test_a_format_that_disagrees_is_not_kept(cli: Cli, run: Path):
    """Probabilities must agree within the tolerance, and classes exactly."""
    from mnist_exp.engine.exporting import Unfit, refuse_difference

    done = cli("export", "run=a", "format=[onnx,keras]", "tolerance=1e-12", "output=here", status=1)
    assert re.search(r"onnx: its probabilities differ by up to \S+, more than tolerance=1e-12", done.err)
    assert [path.name for path in Path("here").iterdir()] == ["model.keras"]
    ours = np.array([[0.5, 0.5], [0.4, 0.6]], np.float32)
    refuse_difference(ours + np.float32(0.001), ours, 0.01)
    with pytest.raises(Unfit, match="another class for 1 of 2 images"):
        refuse_difference(np.array([[0.499, 0.501], [0.4, 0.6]], np.float32), ours, 0.01)
    with pytest.raises(Unfit, match="differ by up to nan"):
        refuse_difference(np.array([[np.nan, 0.5], [0.4, 0.6]], np.float32), ours, 0.01)


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_colours_two_classes_and_no_test_part(cli: Cli):
    """The output says which images were used; a model without a run needs named data."""
    rng = np.random.default_rng(0)
    np.savez("data.npz", x_train=rng.integers(0, 256, (60, 12, 9, 3), np.uint8), y_train=np.arange(60) % 2)
    data = ["data=npz", "data.dir=.", "data.shape=[12,9,3]", "data.classes=2"]
    cli("model=linear", "training.epochs=1", "tracking=none", *data)
    [run] = Path("outputs/runs").iterdir()
    done = cli("export", "run=latest", "format=[onnx,litert]")
    assert "6 validation images" in done.out
    [folder] = Path("outputs/exports").iterdir()
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "model.tflite"}
    done = cli("export", f"run={run}/model.h5", "format=keras", "output=mine.keras", *data)
    assert "optimizer" in done.out
    assert keras.saving.load_model("mine.keras").input_shape == (None, 12, 9, 3)
    done = cli("export", f"run={run}/model.keras", "format=onnx", "data=digits", status=2)
    assert "takes images of 12×9×3, but those of scikit-learn are 28×28×1" in done.err


def test_one_format_into_one_file(cli: Cli, run: Path):
    """The extension selects the format; an existing file is not overwritten."""
    told = cli("export", "run=a", "format=onnx", "output=new/digits.onnx").out
    page = Path(__file__).parents[1] / "docs/exporting.md"
    [documented] = re.findall(r"(?m)^\| (format \| files .*) \|$", page.read_text())
    assert documented.split(" | ") in [re.split("  +", line.strip()) for line in told.splitlines()]
    assert "digits.onnx" in next(line for line in told.splitlines() if line.startswith(" onnx"))
    before = Path("new/digits.onnx").read_bytes()
    assert [path.name for path in Path("new").iterdir()] == ["digits.onnx"]
    done = cli("export", "run=a", "format=onnx", "output=new/digits.onnx", status=2)
    assert "already exists" in done.err
    assert Path("new/digits.onnx").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ([], "format:"),
        (["format=onxx"], "format"),
        (["format=[onnx,al]"], "format.1=al:"),
        (["format=onnx", "alias=champion"], "alias:"),
        (["register=a", "output=here"], "output:"),
        (["register=a", "data.limit=3"], "data.limit:"),
        (["format=onnx", "device.threads=1"], "device.threads:"),
        (["format=onnx", "tolerance=-1"], "tolerance=-1:"),
        (["format=onnx", "output=."], "output:"),
        (["format=onnx", "data.dir=nowhere", "data=mnist"], "nowhere:"),
        (["register=a/b", "alias=latest"], "2 problems"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_reported_before_anything_is_written(
    cli: Cli, run: Path, words: list[str], place: str, golden: Golden
):
    """The message names the key, the exit status is 2, and no file is added."""
    before = sorted(Path().rglob("*"))
    done = cli("export", "run=a", *words, status=2)
    assert place in done.err
    golden(done.err)
    assert sorted(Path().rglob("*")) == before


def test_a_missing_package_is_named(cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch):
    """The message has the extra that installs it."""
    monkeypatch.setattr("mnist_exp.commands.export.find_spec", lambda name: None if "onnx" in name else name)
    done = cli("export", "run=a", "format=all", status=2)
    assert (
        "format=onnx: needs tf2onnx, onnx, onnxruntime; install the extra export: pip install '.[export]'"
        in done.err
    )
    assert not Path("outputs/exports").exists()
    cli("export", "run=a", "format=keras")


def test_a_model_error_comes_before_a_data_error(cli: Cli):
    """A file that holds no classifier is reported even if the data is missing."""
    Path("damaged.keras").write_bytes(b"no model")
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save("vector.keras")
    for name, told in (
        ("damaged.keras", "not a model"),
        ("vector.keras", "not an image classifier"),
    ):
        err = cli("export", f"run={name}", "format=onnx", "data=mnist", "data.dir=gone", status=2).err
        assert f"{name}: {told}" in err
        assert "there is no such folder" not in err
    assert not Path("outputs").exists()


def test_unusable_models_are_refused(cli: Cli, run: Path):
    """A model that is not an image classifier, one that returns NaN, and a run without a model are not exported."""
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save("other.keras")
    done = cli("export", "run=other.keras", "format=onnx", "data=digits", status=2)
    assert "takes (None, 4), returns (None, 2)" in done.err
    model = keras.saving.load_model(run / "model.keras")
    model.set_weights([np.full_like(weights, np.nan) for weights in model.get_weights()])
    model.save("nan.keras")
    done = cli("export", "run=nan.keras", "format=onnx", "data=digits", status=1)
    assert "NaN" in done.err
    (run / "model.keras").unlink()
    assert "kept no model.keras" in cli("export", "run=a", "format=onnx", status=2).err
    assert not Path("outputs/exports").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("name", name) for name in ("digits", "a.b-c_1", "a/b", "a:b", "..", " ", "-x")),
        *(("alias", alias) for alias in ("champion", "a-b_c", "latest", "Latest", "v1", "V12", "v1a", "a.b", "a b")),
    ],
)  # fmt: skip
def test_names_and_aliases_are_those_that_mlflow_takes(key: str, value: str):
    """No name is accepted that MLflow would refuse later."""
    words = [f"register='{value}'"] if key == "name" else ["register=a", f"alias='{value}'"]
    try:
        compose_checked(Request("export", ("run=a", *words)), ExportConfig)
    except RequestError:
        return
    if key == "name":
        _validate_model_name(value)
    else:
        _validate_model_alias_name(value)
        _validate_model_alias_name_reserved(value)


def test_aliases_that_mlflow_takes_are_taken():
    """The valid aliases of the previous test are accepted."""
    for alias in ("champion", "a-b_c", "v1a"):
        config, _ = compose_checked(
            Request("export", ("run=a", "register=digits", f"alias={alias}")), ExportConfig
        )
        assert config.alias == alias


def test_all_are_the_formats_that_there_are():
    """`all` selects every format; a single name selects one."""
    config, _ = compose_checked(Request("export", ("run=a", "format=all")), ExportConfig)
    assert set(config.formats) == set(Format.__args__) - {"all"} == set(FORMATS)
    config, _ = compose_checked(Request("export", ("run=a", "format=[onnx,all]")), ExportConfig)
    assert set(config.formats) == set(FORMATS)


@pytest.mark.slow
def test_the_registry(cli: Cli, run: Path):
    """A run unknown to the tracker is delivered first, a version is created once, and `run=` accepts every URI."""
    for _ in range(2):
        done = cli("export", "run=a", "register=digits", "alias=champion")
        assert "as version 1 of digits" in done.out
    store = f"sqlite:///{Path('outputs/mlflow.db').resolve()}"
    assert f"MLFLOW_TRACKING_URI={store} mlflow models serve -m models:/digits@champion" in done.out
    result = json.loads((run / "result.json").read_text())
    client = mlflow.MlflowClient(store)
    version = client.get_model_version_by_alias("digits", "champion")
    assert version.run_id == result["mlflow_run_id"]
    assert {path.name for path in Path().iterdir()} == {"outputs"}
    for number, name in enumerate(
        ["models:/digits@champion", "models:/digits/1", "models:/digits/latest", version.run_id]
    ):
        done = cli("export", f"run={name}", "format=keras", f"output=same-{number}.keras")
        assert f"model   {run.name}," in done.out
    for name, told in {
        "models:/digits@other": "alias other not found",
        "models:/digits/2": "version=2",
        "models:/none/latest": "none not found",
        "models:/digits": "expected models:/<name>/<version>",
        "0" * 32: "has this MLflow run id",
    }.items():
        assert told in cli("export", f"run={name}", "format=keras", status=2).err


@pytest.mark.slow
def test_a_registered_model_whose_run_is_not_here(cli: Cli, run: Path):
    """It is downloaded from MLflow with its config; searching creates no store."""
    cli("export", "run=a", "register=digits")
    run.rename("elsewhere")
    done = cli("export", "run=models:/digits/1", "format=onnx", "output=digits.onnx")
    assert "model   digits-1, 7,850 parameters" in done.out
    assert re.search(r"on all \d\d test images", done.out)  # by its config: data.limit=100
    done = cli("export", "run=models:/digits/1", "format=onnx", "outputs=empty", status=2)
    assert "there is no MLflow store" in done.err
    done = cli("export", "run=elsewhere", "register=digits", "tracking.uri=http://127.0.0.1:9", status=1)
    assert "not registered: http://127.0.0.1:9: Connection refused" in done.err
    assert not Path("empty").exists()


def test_only_a_finished_run_is_registered(cli: Cli, run: Path, golden: Golden):
    """A model file and an interrupted run are refused."""
    golden(cli("export", f"run={run}/model.keras", "register=a", status=2).err)
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "status": "interrupted"}))
    golden(cli("export", "run=a", "register=a", status=2).err)
    assert not Path("outputs/mlflow.db").exists()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path)
    found.start()
    yield found
    found.kill()


def ask(url: str, content: Any) -> Any:
    request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30 * PATIENCE) as answer:
        return json.load(answer)


@pytest.mark.slow
@pytest.mark.parametrize("kept_by", ["sqlite", "server"])
def test_a_served_model_answers(cli: Cli, run: Path, kept_by: str, request: pytest.FixtureRequest, tmp_path: Path):
    """It answers a raw image over HTTP, served with the command that `export` prints."""
    words = [] if kept_by == "sqlite" else [f"tracking.uri={request.getfixturevalue('server').uri}"]
    out = cli("export", "run=a", "register=digits", "alias=champion", *words).out
    uri, name = re.findall(r"^serve   MLFLOW_TRACKING_URI=(\S+) mlflow models serve -m (\S+)", out, re.MULTILINE)[
        0
    ]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 28, 28))
    wanted = expected(run, pixels[..., None].astype(np.float32))
    run.rename("elsewhere")
    with ModelServer(name, uri, tmp_path) as model:
        for images in (pixels[:1], pixels):
            answer = ask(f"{model.url}/invocations", {"inputs": images.tolist()})
            np.testing.assert_allclose(answer["predictions"], wanted[: len(images)], atol=1e-5)
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(f"{model.url}/invocations", {"inputs": pixels[:, :20].tolist()})
        assert refused.value.code == 400
        assert "(images, 28, 28, 1), found (2, 20, 28)" in refused.value.read().decode()
        page = (Path(__file__).parent.parent / "docs" / "exporting.md").read_text(encoding="utf-8")
        [serve] = re.findall(r"^MLFLOW_TRACKING_URI=\S+ (mlflow models serve .*)", page, re.MULTILINE)
        assert f" {serve}\n" in out  # the documented command is the one that `export` prints
        [lines] = re.findall(r"^python -c .*\ncurl .*", page, re.MULTILINE)
        lines = lines.replace("http://127.0.0.1:5001", model.url).replace("python", shlex.quote(sys.executable), 1)
        done = subprocess.run(
            ["sh", "-ec", lines], capture_output=True, text=True, timeout=60 * PATIENCE, check=True
        )
        assert np.shape(json.loads(done.stdout)["predictions"]) == (1, 10)


@pytest.mark.parametrize(
    ("words", "expected"), [((), "sqlite:///env.db"), (("tracking.uri=http://h",), "http://h")]
)
def test_register_uses_the_store_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], expected: str
):
    """Unless the command line names another: the printed commands then work in the same shell."""
    stores = []

    def register(run: Path, store: str, name: str, alias: str | None) -> Registered:
        stores.append(store)
        return Registered("models:/a/1", 1, store)

    monkeypatch.setattr("mnist_exp.tracking.registry.register", register)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///env.db")
    config, _ = compose_checked(Request("export", ("run=a", "register=a", *words)), ExportConfig)
    export.register(config, Saved("a", Path("a/model.keras"), Path("a"), None))
    assert stores == [expected]
