"""Size limits for compressed files from untrusted sources, checked before anything is unpacked."""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from pathlib import Path

# Data sets and models compress to between a third and a twentieth of their size.
MOST_UNCHECKED = 64 * 2**20  # bytes; smaller files are accepted at any ratio
MOST_RATIO = 100
_MOST_JSON = 16 * 2**20  # bytes of a model's config: a thousand layers take 1 MB


def is_bomb(packed: int, unpacked: int) -> bool:
    """Return whether a file would unpack to an implausibly large size."""
    return unpacked > MOST_UNCHECKED and unpacked > MOST_RATIO * max(packed, 1)


def refuse_bombs(members: Collection[zipfile.ZipInfo], size: int) -> None:
    """Raise `ValueError` if a member of a ZIP archive, or all together, would unpack to an implausibly large size.

    `size` is that of the archive: declared compressed sizes may be false, and members may overlap.
    """
    sizes = [(member.filename, min(member.compress_size, size), member.file_size) for member in members]
    for name, packed, unpacked in (*sizes, ("the archive", size, sum(unpacked for _, _, unpacked in sizes))):
        if is_bomb(packed, unpacked):
            raise ValueError(
                f"{name} would unpack from {packed:,} to {unpacked:,} bytes; "
                f"the limit is {MOST_RATIO} times the compressed size"
            )


def refuse_oversized(file: Path) -> None:
    """Raise `ValueError` if a `.keras` file would unpack to an implausible size. Other files are accepted."""
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    refuse_bombs(members, file.stat().st_size)
    for member in members:
        if member.filename.endswith(".json") and member.file_size > _MOST_JSON:
            raise ValueError(f"{member.filename} has {member.file_size:,} bytes; at most {_MOST_JSON:,} are read")
