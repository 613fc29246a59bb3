"""The files of a logged model are those that MLflow itself would write: fails first when it changes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mlflow import pyfunc
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc import scoring_server
from mlflow.utils.environment import _mlflow_conda_env, _PythonEnv
from support.device import set_up_tensorflow

from mnist_exp.tracking import mlflow_model

REQUIREMENTS = ["mlflow==3.17.0", "keras==3.15.0"]


def test_environment_files_are_as_mlflow_writes_them(tmp_path: Path):
    """From `conda.yaml`, `python_env.yaml` and `requirements.txt`, MLflow creates an environment."""
    file = tmp_path / "model.keras"
    file.write_bytes(b"x")
    folder = tmp_path / "model"
    mlflow_model.save_model(str(folder), Model(), file, (28, 28, 1), 10, REQUIREMENTS)
    conda = yaml.safe_load((folder / "conda.yaml").read_text())
    assert conda == _mlflow_conda_env(additional_pip_deps=REQUIREMENTS)
    python = yaml.safe_load((folder / "python_env.yaml").read_text())
    assert python == _PythonEnv.current().to_dict()
    assert (folder / "requirements.txt").read_text().split() == REQUIREMENTS
    assert Model.load(str(folder)).flavors["python_function"]["loader_module"] == mlflow_model.LOADER


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a logged model of grey images of 4×3 pixels in two classes, as MLflow loads it."""
    set_up_tensorflow()
    import keras

    folder = tmp_path_factory.mktemp("logged")
    layers = [keras.layers.Input((4, 3, 1)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()]
    keras.Sequential([*layers, keras.layers.Dense(2, activation="softmax")]).save(folder / "model.keras")
    mlflow_model.save_model(str(folder / "m"), Model(), folder / "model.keras", (4, 3, 1), 2, REQUIREMENTS)
    return pyfunc.load_model(str(folder / "m"))


def ask(model: Any, body: str) -> tuple[int, str]:
    """Return the status and the body of the answer of `mlflow models serve`."""
    try:
        found = scoring_server.invocations(body, "application/json", model, model.metadata.get_input_schema())
    except MlflowException as error:
        return error.get_http_status_code(), error.serialize_as_json()
    return found.status, found.response


def test_all_number_types_and_ranks_give_the_same_probabilities(logged: Any):
    """This holds for MLflow's `predict` and for a served model."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3))
    expected = logged.predict(pixels.astype(np.float32))
    assert expected.shape == (5, 2)
    for dtype in (np.uint8, np.int64, np.float32, np.float64):
        for images in (pixels.astype(dtype), pixels[..., np.newaxis].astype(dtype)):
            np.testing.assert_array_equal(logged.predict(images), expected)
            status, body = ask(logged, json.dumps({"inputs": images.tolist()}))
            assert status == 200
            np.testing.assert_allclose(json.loads(body)["predictions"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ("NaN", (1, 4, 3)), ("null", (1, 4, 3)), ("Infinity", (1, 4, 3)), ("-1", (1, 4, 3)), ("255.5", (1, 4, 3)),
        ('"17"', (1, 4, 3)), ('{"a": 17}', (1, 4, 3)), ("1e999", (1, 4, 3)), ("9" * 400, (1, 4, 3)),
        ("17", (1, 3, 4)), ("17", (4, 3)), ("17", (1, 4, 3, 3)),
    ],
)  # fmt: skip
def test_a_served_model_refuses_wrong_input(logged: Any, value: str, shape: tuple[int, ...]):
    """The answer is one sentence with status 400, without the input or a path of the server."""
    images = json.dumps(np.full(shape, 7654321).tolist()).replace("7654321", value, 1)
    status, body = ask(logged, f'{{"inputs": {images}}}')
    assert status == 400
    answer = json.loads(body)
    assert answer.keys() == {"error_code", "message"}
    assert not any(text in body for text in ("7654321", "17", "255.5", "999", "/", "Traceback", "\\n"))


def test_a_served_model_refuses_images_of_different_shapes(logged: Any):
    """The input is not part of the answer."""
    status, body = ask(logged, '{"inputs": [[[1, 2], [3]], 7654321]}')
    assert status == 400
    assert json.loads(body)["message"] == "all images must have the same shape"
