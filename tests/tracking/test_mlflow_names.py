"""Names that MLflow accepts."""

from __future__ import annotations

import pytest

from mnist_exp.tracking.mlflow_names import image_key, model_name


@pytest.mark.parametrize("run", ["linear-none-20261128-085002", "lr=0.1", "a/b:c.d%e\"f'g", "\n", "", "é" * 300])
def test_a_model_can_have_its_runs_name(run: str):
    """MLflow accepts it; a usual name is kept."""
    from mlflow.utils.validation import _validate_logged_model_name

    _validate_logged_model_name(model_name(run))
    assert run != "linear-none-20261128-085002" or model_name(run) == run


def test_a_series_has_its_layers_name():
    """Characters other than MLflow's are replaced."""
    assert image_key("watch/conv2d_1") == "watch/conv2d_1"
    assert image_key("watch/schräg+step") == "watch/schr_g_step"
