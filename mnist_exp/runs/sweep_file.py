"""The description of a sweep (`sweep.json`), and how it is read and written."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mnist_exp.runs.atomic import write_text
from mnist_exp.runs.regular_files import read_text
from mnist_exp.text import as_json

SWEEP_FILE = "sweep.json"
_MOST_BYTES = 1 << 20


class SweepDescription(BaseModel):
    """The settings that a sweep varies."""

    model_config = ConfigDict(strict=True)

    name: str = ""
    started: float = Field(default=0, allow_inf_nan=False)
    """Seconds since 1970."""
    swept: list[str] = []
    """The swept keys, as in overrides."""
    fixed: list[str] = []
    """The overrides that all jobs share, without credentials."""


def read_sweep(folder: Path) -> SweepDescription | None:
    """Read the description of a sweep; None if it is missing or damaged."""
    try:
        return SweepDescription.model_validate_json(read_text(folder / SWEEP_FILE, _MOST_BYTES))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None


def write_sweep(folder: Path, sweep: SweepDescription) -> None:
    """Write the description of a sweep. Raises `OSError`."""
    write_text(folder / SWEEP_FILE, as_json(sweep.model_dump(), indent=2) + "\n")
