"""Check the locations of artifacts in an output folder's own MLflow database.

MLflow keeps absolute locations, and writes and reads files wherever they point. A database that came from
someone else could name any folder or server, so all locations must lie in `mlartifacts`, next to the database.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from mnist_exp.runs.directory import RUNS, SWEEPS
from mnist_exp.runs.regular_files import first_irregular
from mnist_exp.text import display_path, escape_controls, mask_credentials

ARTIFACTS = "mlartifacts"
_MOST_SHOWN = 3
_LONGEST_SHOWN = 200  # characters of a location in a message


@dataclass(frozen=True)
class _Column:
    """A column that holds locations, and the location below `mlartifacts` that replaces a foreign one."""

    table: str
    name: str
    own: str
    """An SQL expression for the latter."""
    where: str = "1"


# MLflow's own experiment 'Default' (0) has a location in the working directory. It is never used here.
_COLUMNS = (
    _Column("experiments", "artifact_location", "''", "experiment_id != 0"),
    _Column("runs", "artifact_uri", "'/' || run_uuid || '/artifacts'", "experiment_id != 0"),
    _Column("logged_models", "artifact_location", "'/models/' || model_id || '/artifacts'", "experiment_id != 0"),
    _Column("model_versions", "source", "'/versions/' || hex(name) || '/' || version"),
    _Column("model_versions", "storage_location", "'/versions/' || hex(name) || '/' || version"),
)
LOCATIONS = tuple((column.table, column.name) for column in _COLUMNS)
"""The tables and columns of MLflow's database that hold the location of artifacts."""


class ForeignLocation(Exception):
    """The database contains a location outside the output folder; the message says how to repair it."""


def is_of_an_output_folder(database: Path) -> bool:
    """Return whether a database is an output folder's own store, rather than one that the user keeps elsewhere."""
    return any((database.parent / name).exists() for name in (RUNS, SWEEPS, ARTIFACTS))


def refuse_foreign_locations(database: Path) -> None:
    """Raise `ForeignLocation` if a location is outside the output folder. May raise `sqlite3.Error`."""
    root = database.resolve().parent / ARTIFACTS
    if root.is_symlink():
        raise ForeignLocation(f"{display_path(root)}: is a symbolic link; the folder of artifacts must not be one")
    if (irregular := _first_irregular(root)) is not None:
        raise ForeignLocation(f"{display_path(irregular)}: is not a regular file, as artifacts must be")
    foreign = [text for column in _COLUMNS for text in _foreign(database, column, root.as_uri())]
    if foreign:
        shown = [escape_controls(mask_credentials(text[:_LONGEST_SHOWN]), one_line=True) for text in foreign]
        more = f"\n  and {len(foreign) - _MOST_SHOWN} more" if len(foreign) > _MOST_SHOWN else ""
        lines = "".join(f"\n  {text}" for text in shown[:_MOST_SHOWN]) + more
        raise ForeignLocation(
            f"{display_path(database)}: artifacts must be in {display_path(root)}, but it names:{lines}\n"
            f"'mnist-exp sync outputs={display_path(database.parent)} repair=true' replaces these locations"
        )


@lru_cache(maxsize=8)
def _first_irregular(root: Path) -> Path | None:
    return first_irregular(root)


def repair_locations(database: Path) -> int:
    """Replace the locations outside the output folder with ones inside it.

    Returns their number. Raises `sqlite3.Error`.
    """
    root = (database.resolve().parent / ARTIFACTS).as_uri()
    repaired = 0
    for column in _COLUMNS:
        foreign = _foreign(database, column, root)
        with closing(sqlite3.connect(database)) as connection, connection:
            for text in foreign:
                done = connection.execute(
                    f"update {column.table} set {column.name} = ? || {column.own} "
                    f"where {column.name} = ? and {column.where}",
                    (root, text),
                )
                repaired += done.rowcount
    return repaired


def link_artifact(file: Path, location: str, name: str, database: Path) -> bool:
    """Store a run's file as an artifact without copying it, as a hard link, and return whether that was possible.

    A later version of the file doesn't change the artifact: a run's files are replaced, never written in place.
    Only `run.log` grows, with its artifact.

    Args:
        file: A regular file.
        location: The artifact location of a run or model in an output folder's own store.
        name: The artifact's path below the location.
        database: The store's database.
    """
    root = database.resolve().parent / ARTIFACTS
    target = root / unquote(location.removeprefix(root.as_uri())).strip("/") / name
    if not _is_inside(location, root.as_uri()) or root.is_symlink():
        return False
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        if not target.resolve().is_relative_to(root):
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, temporary, follow_symlinks=False)
        temporary.replace(target)
    except (OSError, NotImplementedError):  # another file system, or one without hard links
        return False
    finally:
        with suppress(OSError):  # left over if the target already is a link to the file
            temporary.unlink(missing_ok=True)
    return True


def _foreign(database: Path, column: _Column, root: str) -> list[str]:
    """Return the distinct locations in a column that do not lie in `root`."""
    with closing(sqlite3.connect(database)) as connection:
        known = {row[1] for row in connection.execute(f"pragma table_info({column.table})")}
        if column.name not in known:
            return []
        rows = connection.execute(f"select distinct {column.name} from {column.table} where {column.where}")
        return [str(text) for (text,) in rows if text and not _is_inside(str(text), root)]


def _is_inside(location: str, root: str) -> bool:
    rest = location.removeprefix(root)
    plain = unquote(rest)
    return (
        location.startswith(root)
        and rest[:1] in ("", "/")
        and ".." not in plain.split("/")
        and not set("?#\\\0") & set(plain)
    )
