"""Limits for compressed files that may come from elsewhere, checked before anything is unpacked."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

# A compressed data set or model takes a third to a twentieth of its size.
MOST_UNCHECKED = 64 * 2**20  # bytes that are unpacked whatever the ratio
MOST_RATIO = 100
_MOST_JSON = 16 * 2**20  # bytes of a model's config: a thousand layers take 1 MB


def is_bomb(packed: int, unpacked: int) -> bool:
    """Whether a file promises implausibly more bytes than it has."""
    return unpacked > MOST_UNCHECKED and unpacked > MOST_RATIO * max(packed, 1)


def refuse_bombs(members: Iterable[zipfile.ZipInfo]) -> None:
    """Raise `ValueError` if a member of a ZIP archive promises implausibly many bytes."""
    for member in members:
        if is_bomb(member.compress_size, member.file_size):
            raise ValueError(
                f"{member.filename} promises {member.file_size:,} bytes in {member.compress_size:,}: "
                f"more than {MOST_RATIO} times as many are not unpacked"
            )


def refuse_oversized(file: Path) -> None:
    """Raise `ValueError` if a `.keras` file would unpack to implausibly many bytes. Other files are accepted."""
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    refuse_bombs(members)
    for member in members:
        if member.filename.endswith(".json") and member.file_size > _MOST_JSON:
            raise ValueError(f"{member.filename} has {member.file_size:,} bytes; at most {_MOST_JSON:,} are read")
