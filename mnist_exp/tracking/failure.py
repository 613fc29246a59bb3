"""Explain in one line why something could not be delivered to an MLflow store."""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from mnist_exp.runs.system_calls import is_owned_by_this_user
from mnist_exp.text import display_path, mask_credentials, shorten
from mnist_exp.tracking.locations import ForeignLocation
from mnist_exp.tracking.store import database_path, restoring_command

_OTHER_VERSION = r"out-of-date database schema|Can't locate revision"
_DAMAGED = r"malformed|not a database"
_STATUS = r"API request to endpoint .* failed with error code (\d+) "
_NO_JSON = "API request to endpoint was successful but the response body was not"


def describe_failure(error: BaseException, uri: str | None = None) -> str:
    """Return the reason for a failure.

    Args:
        error: Any error of MLflow, SQLAlchemy, SQLite or the system.
        uri: The store's address, if known.
    """
    if isinstance(error, ForeignLocation):
        return str(error)
    text = str(error).strip().split("\n")[0] or type(error).__name__
    store = f"{_address(uri)}: " if uri else ""
    return _explain_request(text, uri, store) or _explain_cause(error, uri, store) or shorten(text, 500)


def _explain_request(text: str, uri: str | None, store: str) -> str | None:
    """Return an explanation of a message about a failed server request, or None for any other message."""
    if request := re.match(r"API request to (\w+://[^/ ]+).* failed with (?:timeout )?exception (.*)", text):
        system = re.search(r"\[Errno -?\d+\] ([^\"')]+)", request[2])
        why = system[1] if system else "no answer" if "timed out" in text else request[2]
        return f"{request[1]}: {why}{_through_proxy(request[1])}"
    if answer := re.match(_STATUS, text):
        return f"{store}the server answered {_status(int(answer[1]))}{_through_proxy(uri)}"
    if text.startswith(_NO_JSON):
        return f"{store}the response did not come from MLflow; is the address correct?{_through_proxy(uri)}"
    if uri and (deleted := re.match(r"The run (\w+) must be in the 'active' state", text)):
        return f"{store}the run {deleted[1]} was deleted: {restoring_command(uri, 'run', deleted[1])}"
    return None


def _explain_cause(error: BaseException, uri: str | None, store: str) -> str | None:
    """Return an explanation of the innermost database or file error; None if there is no such error."""
    database = database_path(uri) if uri else None
    for cause in _innermost_first(error):
        if re.search(_OTHER_VERSION, str(cause)) and uri:
            command = f"'mlflow db upgrade {mask_credentials(uri)}'"
            return f"{store}was created by another version of MLflow; back it up, then upgrade it with {command}"
        if isinstance(cause, sqlite3.Error):
            return (
                f"{store}{cause}{_restoring(database) if re.search(_DAMAGED, str(cause)) else _sharing(database)}"
            )
        if isinstance(cause, OSError) and isinstance(cause.filename, (str, bytes)) and cause.strerror:
            return f"{display_path(Path(os.fsdecode(cause.filename)))}: {cause.strerror}{_sharing(database)}"
    return None


def _innermost_first(error: BaseException) -> Iterator[BaseException]:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return reversed(chain)


def _address(uri: str) -> str:
    database = database_path(uri)
    return mask_credentials(uri) if database is None else str(display_path(database))


def _restoring(database: Path | None) -> str:
    """Return advice for a damaged database."""
    if database is None:
        return ""
    return (
        "; restore a backup, or move it and the runs' delivery.json files away: "
        f"'mnist-exp sync outputs={display_path(database.parent)}' then delivers everything again"
    )


def _sharing(database: Path | None) -> str:
    """Return advice for a database that another user owns; an empty string if there is none."""
    with suppress(OSError):
        if database is not None and not is_owned_by_this_user(status := database.stat()):
            return (
                f"; user {status.st_uid} owns the store and can share it with a group: "
                f"'chmod -R g+w {shlex.quote(str(display_path(database.parent)))}'; "
                "tracking.uri=sqlite:///<path> delivers to a store of your own"
            )
    return ""


def _status(code: int) -> str:
    try:
        phrase = HTTPStatus(code).phrase
    except ValueError:
        return str(code)
    return f"{code} {phrase}"


def _through_proxy(uri: str | None) -> str:
    """Return a note on the proxy that the environment sets for a server; an empty string if there is none."""
    parts = urlsplit(uri or "")
    if parts.scheme not in ("http", "https") or parts.hostname is None or proxy_bypass(parts.hostname):
        return ""
    proxy = getproxies().get(parts.scheme)
    return f" (through the proxy {mask_credentials(proxy)})" if proxy else ""
