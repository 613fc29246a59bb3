"""Refuse to contact an MLflow store that this user has not chosen."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from mnist_exp.config.compose import compose
from mnist_exp.config.overrides import Request, key_of
from mnist_exp.config.schema import TrackingConfig
from mnist_exp.errors import Problem, RequestError
from mnist_exp.text import mask_credentials
from mnist_exp.tracking.known_stores import NotPermitted, remember, resolve_permitted
from mnist_exp.tracking.locations import ForeignLocation
from mnist_exp.tracking.mlflow_upload import Delivery
from mnist_exp.tracking.store import check_own_store, find_deleted, own_store_uri, tracking_uri

_ADVICE = "'tracking.uri=…' on the command line, or MLFLOW_TRACKING_URI, selects the store; "


def permit_store(
    request: Request,
    tracking: TrackingConfig,
    outputs: Path,
    place: str = "config",
    run_id: str | None = None,
) -> TrackingConfig:
    """Return the settings with the address to contact, and remember that this user uses it.

    Args:
        request: The command line.
        tracking: The settings, perhaps from an untrusted file.
        outputs: The output folder.
        place: The file that contains the address, if it was not given on the command line.
        run_id: The MLflow run to continue.

    Raises:
        RequestError: The address comes from a file and this user has never used it; or the output folder's own
            store keeps artifacts elsewhere; or the experiment or the run was deleted.
    """
    if not tracking.enabled:
        return tracking
    tracking = _with_permitted_store(request, tracking, outputs, place)
    deleted = find_deleted(tracking_uri(tracking, outputs), tracking.experiment, run_id)
    if deleted and request.verb != "ui":  # the UI can restore it
        message = (
            f"tracking.experiment: {deleted}; tracking.experiment=… selects another, "
            "tracking.enabled=false disables tracking"
        )
        raise RequestError([Problem("unusable", place, message, "tracking.experiment")])
    return tracking


def permit_parent(request: Request, tracking: TrackingConfig, outputs: Path, directory: Path) -> None:
    """Permit the store of a sweep or search, perhaps an existing one, whose MLflow run must not be deleted.

    Raises `RequestError` as `permit_store` does.
    """
    run_id = None
    with suppress(OSError, ValueError):  # no journal yet, or a damaged one, which is reported when it is continued
        run_id = Delivery(directory, tracking.uri).delivered().run_id
    permit_store(request, tracking, outputs, run_id=run_id)


def _with_permitted_store(request: Request, tracking: TrackingConfig, outputs: Path, place: str) -> TrackingConfig:
    if tracking.uri is None:
        try:
            check_own_store(outputs)
        except ForeignLocation as error:
            raise RequestError(str(error)) from error
        return tracking
    keys = [key_of(text) for text in request.overrides]
    given = [tracking.uri] if "tracking.uri" in keys else [*_packaged_uri(request)]
    try:
        uri = resolve_permitted(tracking.uri, own_store_uri(outputs), given)
    except NotPermitted as error:
        message = f"tracking.uri: {error}; {_ADVICE}tracking.enabled=false disables tracking"
        raise RequestError([Problem("invalid-value", place, mask_credentials(message), "tracking.uri")]) from error
    if uri != own_store_uri(outputs):
        remember(uri)
    return tracking.model_copy(update={"uri": uri})


def _packaged_uri(request: Request) -> list[str]:
    """Return the address in the built-in option that the command line selects, if any."""
    chosen = tuple(text for text in request.overrides if key_of(text) == "tracking")
    uri = compose(Request("ui", chosen)).values["tracking"].get("uri") if chosen else None
    return [uri] if isinstance(uri, str) else []
