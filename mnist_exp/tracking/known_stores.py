"""Decide which MLflow stores may be contacted.

A journal or a config may come from someone else, so its address cannot be trusted. An address is used if this user
gives it (on the command line or in `MLFLOW_TRACKING_URI`), if it is the output folder's own store, or if the user
gave it earlier. Used addresses are remembered without credentials, one per line, in a private file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mnist_exp.runs.system_calls import is_owned_by_this_user, make_private, only_owner_writes, open_descriptor
from mnist_exp.text import mask_credentials, without_credentials

GIVEN = "MNIST_EXP_TRACKING_URI"
"""The variable in which a process passes the address, with credentials, to the uploader that it starts."""


class NotPermitted(Exception):
    """The address must not be contacted, or needs credentials that are not stored; the message says which."""


def state_file() -> Path:
    """Return the path of the file that lists the addresses this user has used."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "mnist-exp" / "stores"


def identify_store(uri: str) -> str:
    """Return a store's identity: its address without credentials or a trailing slash."""
    return without_credentials(uri).rstrip("/")


def remember(uri: str) -> None:
    """Remember that this user uses a store. Does nothing if the file cannot be written."""
    address = identify_store(uri)
    if address in read_known_stores() or "\n" in address or mask_credentials(address) != address:
        return
    file = state_file()
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = open_descriptor(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            make_private(descriptor)
            os.write(descriptor, f"{address}\n".encode())
        finally:
            os.close(descriptor)


def read_known_stores() -> set[str]:
    """Return the addresses that this user has used; an empty set if other users could write to the file."""
    try:
        with state_file().open("rb") as file:
            status = os.fstat(file.fileno())
            if not (is_owned_by_this_user(status) and only_owner_writes(status)):
                return set()
            return set(file.read().decode("utf-8", errors="replace").splitlines())
    except OSError:
        return set()


def resolve_permitted(uri: str, own: str | None, given: Iterable[str] = ()) -> str:
    """Check an address that was read from a file; return it with the credentials that the user gave.

    Args:
        uri: The address as read, perhaps with masked credentials.
        own: The output folder's own store, if known.
        given: Addresses from the command line.

    Raises:
        NotPermitted: This user has not used the address, or its credentials are not given.
    """
    variables = (os.environ.get(name) for name in (GIVEN, "MLFLOW_TRACKING_URI"))
    for mine in (*given, *filter(None, variables)):
        if identify_store(mine) == identify_store(uri) and "://***@" not in mine:
            return mine
    if uri == own:
        return uri
    if identify_store(uri) not in read_known_stores():
        raise NotPermitted(f"{mask_credentials(uri)} is not a store that you have used")
    signed_in = any(os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "TOKEN"))
    if "***" in mask_credentials(uri) and not signed_in:
        raise NotPermitted(f"the credentials of {mask_credentials(uri)} are not stored")
    return identify_store(uri)
