"""Validate the URI of an MLflow store."""

from __future__ import annotations

import os
from importlib.util import find_spec

from mnist_exp.text import mask_credentials

_SERVERS = ("http", "https", "databricks")
# The databases that MLflow supports, and the Python package for each unless `+<driver>` names another.
_DRIVERS = {"sqlite": None, "mysql": "MySQLdb", "postgresql": "psycopg2", "mssql": "pyodbc"}
_MODULES = {"mysqldb": "MySQLdb", "mysqlconnector": "mysql"}  # drivers whose package has another name


def a_store(value: str | None) -> str | None:
    """Return the URI of an MLflow store, with an absolute path for SQLite; None if it is empty.

    Raises:
        ValueError: If it is not the URI of a database or server, or the database's driver is not installed.
    """
    if not value:
        return None
    scheme, separator, rest = value.partition("://")
    dialect, _, driver = scheme.partition("+")
    if not separator or dialect not in (*_SERVERS, *_DRIVERS):
        found = mask_credentials(value)
        raise ValueError(
            f"must be an MLflow store's URI (sqlite:///<path>, http://…), not a folder, found {found}"
        )
    if dialect == "sqlite":
        if driver or not rest[1:] or rest[0] != "/" or rest == "/:memory:" or "?" in rest:
            raise ValueError(f"must be sqlite:///<path to a file>, without options, found {value}")
        return "sqlite:///" + os.path.abspath(rest[1:])  # as runs may be resumed from other directories
    module = _MODULES.get(driver, driver) or _DRIVERS.get(dialect)
    if module is not None and not (module.isidentifier() and find_spec(module)):
        raise ValueError(f"{scheme}:// needs the Python package {module}, which is not installed")
    return value
