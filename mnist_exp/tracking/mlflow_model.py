"""An MLflow model around a finished `.keras` file, with the layout of `mlflow.keras`.

`mlflow.keras.save_model` wants a live model; a journal is delivered by a process that has no TensorFlow. Used
as the `flavor` of `mlflow.models.Model.log`. Loads with `mlflow.keras.load_model`, and with `mlflow.pyfunc` by
`pyfunc_loader`, of which it holds a copy.
"""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mlflow import pyfunc
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from mlflow.utils.environment import _mlflow_conda_env, _PythonEnv

from mnist_exp.tracking import pyfunc_loader

LOADER = "mnist_exp_raw_images"
"""What MLflow imports to load the model: a name that is nobody else's."""


def save_model(
    path: str,
    mlflow_model: Model,
    file: Path,
    shape: tuple[int, int, int],
    classes: int,
    requirements: list[str],
    **_: Any,
) -> None:
    """Write the MLflow model's directory.

    Input: raw pixels (-1, *shape), for one channel (-1, height, width); output: (-1, classes).
    """
    pixels = shape[:2] if shape[2] == 1 else shape
    folder = Path(path)
    (folder / "data").mkdir(parents=True)
    shutil.copyfile(file, folder / "data" / "model.keras")
    (folder / "data" / "keras_module.txt").write_text("keras")
    mlflow_model.signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *pixels))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, classes))]),
    )
    mlflow_model.add_flavor(
        "keras",
        data="data",
        keras_version=version("keras"),
        keras_backend="tensorflow",
        save_exported_model=False,
    )
    (folder / "code").mkdir()
    shutil.copyfile(pyfunc_loader.__file__, folder / "code" / f"{LOADER}.py")
    pyfunc.add_to_model(
        mlflow_model, loader_module=LOADER, code="code", conda_env="conda.yaml", python_env="python_env.yaml"
    )
    mlflow_model.model_size_bytes = file.stat().st_size
    mlflow_model.save(str(folder / "MLmodel"))
    environment = _mlflow_conda_env(additional_pip_deps=requirements)
    (folder / "conda.yaml").write_text(yaml.safe_dump(environment, sort_keys=False))
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n")
    _PythonEnv.current().to_yaml(str(folder / "python_env.yaml"))
