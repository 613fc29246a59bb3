"""The progress of a journal's delivery: for each store, the MLflow run's id and the number of delivered lines."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mnist_exp.runs.atomic import write_text
from mnist_exp.runs.regular_files import read_text
from mnist_exp.tracking.known_stores import identify_store

STATE = "delivery.json"


@dataclass
class Delivered:
    """The progress of delivery to one store, and the MLflow run there."""

    run_id: str | None = None
    lines: int = 0

    @classmethod
    def read(cls, folder: Path, store: str) -> Delivered:
        """Read the progress from a run's directory; empty if there is none, or the file is damaged."""
        try:
            return cls(**_read_stores(folder)[store])
        except (KeyError, TypeError):
            return cls()

    def write(self, folder: Path, store: str) -> None:
        """Write the progress into a run's directory."""
        write_text(folder / STATE, json.dumps({**_read_stores(folder), store: asdict(self)}, indent=2) + "\n")


def _read_stores(folder: Path) -> dict[str, Any]:
    try:
        stores = json.loads(read_text(folder / STATE))
    except (OSError, ValueError):
        return {}
    # Earlier versions stored whole addresses.
    return {identify_store(store): state for store, state in stores.items()} if isinstance(stores, dict) else {}
