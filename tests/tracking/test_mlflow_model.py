"""The files of a logged model are those that MLflow itself would write: fails first when it changes them."""

from __future__ import annotations

from pathlib import Path

import yaml
from mlflow.models import Model
from mlflow.utils.environment import _mlflow_conda_env, _PythonEnv

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
