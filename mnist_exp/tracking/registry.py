"""MLflow's model registry: register a run's model, and resolve `models:/…` URIs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_exp.errors import first_line
from mnist_exp.tracking.mlflow_upload import Delivery
from mnist_exp.tracking.store import connect, database_path, import_mlflow

_VERSIONS_TAG = "mlflow.modelVersions"  # MLflow's UI finds a model's versions in this tag of the logged model


class NotRegistered(Exception):
    """A `models:/…` URI does not resolve to a model."""


@dataclass(frozen=True)
class Registered:
    """A version of a registered model."""

    uri: str
    """The model's URI: `models:/<name>@<alias>` or `models:/<name>/<version>`."""
    version: int
    store: str
    """The store's URI."""


def register(run: Path, store: str | None, name: str, alias: str | None) -> Registered:
    """Register a finished run's model as the next version of a registered model, unless it already is a version.

    Events of the run that the store lacks are delivered first.

    Raises:
        FileNotFoundError: MLflow has no model of the run.
        Exception: Any exception of MLflow.
    """
    delivery = Delivery(run, store)
    delivery.pending()
    delivery.note_run_id()
    logged = delivery.logged_model()
    if logged is None:
        raise FileNotFoundError("MLflow has no model for this run")
    client = connect(str(delivery.uri))
    try:
        client.create_registered_model(name)
    except import_mlflow().exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = client.search_model_versions(f"name = '{name}'", max_results=10_000)
    place, run_id = logged.artifact_location, logged.source_run_id
    version = next((of.version for of in versions if of.run_id == run_id), None)
    if version is None:
        version = client.create_model_version(name, place, run_id, model_id=logged.model_id).version
        known = json.loads(logged.tags.get(_VERSIONS_TAG, "[]"))
        tag = json.dumps([*known, {"name": name, "version": version}])
        client.set_logged_model_tags(logged.model_id, {_VERSIONS_TAG: tag})
    if alias is not None:
        client.set_registered_model_alias(name, alias, version)
    uri = f"models:/{name}@{alias}" if alias is not None else f"models:/{name}/{version}"
    return Registered(uri, int(version), str(delivery.uri))


@dataclass(frozen=True)
class Origin:
    """A model that a `models:/…` URI resolves to."""

    name: str
    run_id: str | None
    """The MLflow run that the model comes from."""
    place: str
    """The location of the model's files."""
    store: str
    """The store's URI."""

    def download(self, folder: Path) -> Path:
        """Download the model into a folder, and its run's `config.yaml` if there is one.

        Returns:
            The model's file.

        Raises:
            FileNotFoundError: The model was not saved by MLflow's Keras flavour.
            Exception: Any exception of MLflow.
        """
        (folder / "model").mkdir()
        to = str(folder / "model")
        fetched = import_mlflow().artifacts.download_artifacts(self.place, dst_path=to, tracking_uri=self.store)
        file = Path(fetched) / "data" / "model.keras"
        if not file.is_file():
            raise FileNotFoundError("contains no data/model.keras: it was not saved by MLflow's Keras flavour")
        if self.run_id is not None:
            client = connect(self.store)
            if any(entry.path == "config.yaml" for entry in client.list_artifacts(self.run_id)):
                client.download_artifacts(self.run_id, "config.yaml", str(folder))
        return file


def look_up(uri: str, store: str) -> Origin:
    """Resolve `models:/<name>/<version>`, `…/latest`, `models:/<name>@<alias>` or `models:/<model id>`.

    Raises:
        NotRegistered: There is no such model.
        Exception: Any exception that MLflow raises if the store does not respond.
    """
    database = database_path(store)
    if database is not None and not database.is_file():
        raise NotRegistered(f"there is no MLflow store at {database}")
    form = re.fullmatch(
        r"models:/(?:(?P<id>m-[0-9a-f]{32})|(?P<name>[^/@]+)(?:@(?P<alias>.+)|/(?P<version>\d+|latest)))", uri
    )
    if form is None:
        raise NotRegistered("expected models:/<name>/<version>, models:/<name>/latest or models:/<name>@<alias>")
    client = connect(store)
    try:
        if form["id"]:
            logged = client.get_logged_model(form["id"])
            return Origin(logged.name, logged.source_run_id, logged.artifact_location, store)
        version = _version(client, form["name"], form["alias"], form["version"])
        place = client.get_model_version_download_uri(version.name, version.version)
    except import_mlflow().exceptions.MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise NotRegistered(f"{first_line(error)} ({store})") from error
    return Origin(f"{version.name}-{version.version}", version.run_id, place, store)


def _version(client: Any, name: str, alias: str | None, version: str | None) -> Any:
    if alias is not None:
        return client.get_model_version_by_alias(name, alias)
    if version == "latest":
        client.get_registered_model(name)  # raises a clear error if there is none
        versions = client.search_model_versions(f"name = '{name}'", max_results=10_000)
        version = str(max((int(of.version) for of in versions), default=0))
    return client.get_model_version(name, str(version))
