"""`mnist-exp schema`: print JSON Schemas for editors and for programs that read `format=json`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mnist_exp.config.command_schemas import SchemaConfig
from mnist_exp.config.json_schema import GROUPS, config_schema, group_schema
from mnist_exp.config.overrides import Request
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.config.validation import compose_checked
from mnist_exp.errors import Problem, RequestError
from mnist_exp.report.documents import DOCUMENTS, document_schema
from mnist_exp.runs.atomic import cannot_write, write_text
from mnist_exp.suggest import near_or_all


def schema(request: Request, started: float) -> None:
    """Print the schema, or write those of the config and all groups into a folder.

    Raises:
        RequestError: The group or document does not exist, or the folder cannot be written.
    """
    config, _ = compose_checked(request, SchemaConfig)
    if config.folder is not None:
        _write_all(Path(config.folder))
        return
    if config.output is not None:
        _refuse_unknown("output", config.output, DOCUMENTS)
        found = document_schema(config.output)
    elif config.group is not None:
        _refuse_unknown("group", config.group, GROUPS)
        found = group_schema(config.group)
    else:
        found = config_schema()
    print(_text(found), end="")


def _text(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _write_all(folder: Path) -> None:
    """Write `config.json` and a file for each group."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, found in {"config": config_schema(), **{group: group_schema(group) for group in GROUPS}}.items():
            write_text(folder / f"{name}.json", _text(found))
    except OSError as error:
        raise cannot_write(error, None) from error
    print(f"{len(GROUPS) + 1} schemas in {folder}")


def _refuse_unknown(key: str, name: str, known: Iterable[str]) -> None:
    names = list(known)
    if name not in names:
        message = f"{key}={name}: there is no such schema{near_or_all(name, names)}"
        raise RequestError([Problem("unknown-option", COMMAND_LINE, message, key)])
