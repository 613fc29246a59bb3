"""Delete runs in MLflow."""

from __future__ import annotations

from pathlib import Path

from mnist_exp.tracking.mlflow_upload import Delivery
from mnist_exp.tracking.store import connect


def delete_run(folder: Path, run_id: str | None) -> None:
    """Delete a run directory's MLflow run from the store that it was delivered to.

    Raises `ValueError` if there is no such run or the store must not be contacted, and any exception of MLflow.
    """
    delivery = Delivery(folder)
    if delivery.uri is None:
        raise ValueError(delivery.refusal or "its MLflow store is unknown")
    if run_id is None:
        raise ValueError("it has no run in MLflow")
    client = connect(delivery.uri)
    if not delivery.is_of(client.get_run(run_id)):
        raise ValueError(f"the run {run_id} in MLflow belongs to another directory")
    client.delete_run(run_id)
