"""Create an MLflow model from a `.keras` file, in the layout of `mlflow.keras`.

`mlflow.keras.save_model` needs a live model, but the process that uploads to MLflow does not load TensorFlow. The
result can be loaded with `mlflow.keras.load_model`, and with `mlflow.pyfunc` through its copy of `pyfunc_loader`.
"""

from __future__ import annotations

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mlflow import pyfunc
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from mnist_exp.tracking import pyfunc_loader

LOADER = "mnist_exp_raw_images"
"""The module that MLflow imports to load the model; no other package has this name."""

KERAS_FILE = "data/model.keras"
"""The path of the Keras model in an MLflow model's directory."""


def save_model(
    path: str,
    mlflow_model: Model,
    file: Path,
    shape: tuple[int, int, int],
    classes: int,
    requirements: list[str],
    *,
    with_file: bool = True,
    **_: Any,
) -> None:
    """Write the MLflow model's directory.

    The model's input is raw pixels (-1, *shape), also (-1, height, width) for one channel, of any number type. Its
    output is (-1, classes).

    Args:
        path: The directory.
        mlflow_model: The model's description, which this function completes and writes.
        file: The model that Keras saved.
        shape: The height, width and channels of an image.
        classes: The number of classes.
        requirements: The packages that loading needs, including MLflow, as in `requirements.txt`.
        with_file: Whether to copy the model that Keras saved; otherwise, the caller puts it there.
    """
    folder = Path(path)
    (folder / "data").mkdir(parents=True)
    if with_file:
        shutil.copyfile(file, folder / KERAS_FILE)
    (folder / "data" / "keras_module.txt").write_text("keras")
    mlflow_model.signature = _signature(classes)
    mlflow_model.metadata = {"image_shape": list(shape), "pixels": "0…255"}
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
    _write_environment(folder, requirements)


def _signature(classes: int) -> ModelSignature:
    # A signature allows one type and one shape. This one allows any: `pyfunc_loader` checks the input.
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(object), (-1,))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, classes))]),
    )


def _write_environment(folder: Path, requirements: list[str]) -> None:
    """Write the three files from which MLflow creates the environment that serves the model."""
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n")
    conda = pyfunc.get_default_conda_env()
    conda["dependencies"] = [
        {"pip": requirements} if isinstance(dependency, dict) else dependency
        for dependency in conda["dependencies"]
    ]
    (folder / "conda.yaml").write_text(yaml.safe_dump(conda, sort_keys=False))
    python = {
        "python": platform.python_version(),
        "build_dependencies": [_pinned(name) for name in ("pip", "setuptools", "wheel")],
        "dependencies": ["-r requirements.txt"],
    }
    (folder / "python_env.yaml").write_text(yaml.safe_dump(python, sort_keys=False))


def _pinned(package: str) -> str:
    try:
        return f"{package}=={version(package)}"
    except PackageNotFoundError:
        return package
