"""Delete runs in MLflow."""

from __future__ import annotations

from pathlib import Path

from mnist_exp.tracking.delivery import Delivery


def delete_run(folder: Path, run_id: str | None) -> None:
    """Delete the MLflow run of a run's directory, in the store that it was delivered to.

    Raises `ValueError` if there is no such run or the store must not be contacted, and any exception of MLflow.
    """
    delivery = Delivery(folder)
    if delivery.uri is None:
        raise ValueError(delivery.refusal or "its MLflow store is unknown")
    if run_id is None:
        raise ValueError("it is not in MLflow")
    import mlflow

    mlflow.MlflowClient(tracking_uri=delivery.uri).delete_run(run_id)
