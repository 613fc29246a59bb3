"""Format paths and shapes for messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def display_path(path: Path) -> Path:
    """Return the path relative to the working directory if it is inside it, else unchanged."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def format_shape(shape: Sequence[int]) -> str:
    """Format a shape or size for a message, such as `28×28×1`."""
    return "×".join(map(str, shape))
