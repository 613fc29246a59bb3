"""Refuse data that does not fit into memory, before it is read."""

from __future__ import annotations

from pathlib import Path

from mnist_exp.config.data_schema import DataConfig
from mnist_exp.errors import RequestError
from mnist_exp.text import shape_override

_COPIES = 3  # copies of the pixels at the peak: as read, as split, and as tensors
_LEAST_SIDE = 8  # pixels: smaller images are not suggested
_UNITS = ("bytes", "KB", "MB", "GB", "TB", "PB")


def available() -> int:
    """Return the bytes of memory that this process may still allocate; a very large number if it is unknown."""
    found = 2**62
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        inactive = (group / "memory.stat").read_text(encoding="ascii").split("inactive_file ")[1].split()[0]
        if limit != "max":
            found = min(found, int(limit) - used + int(inactive))
    except (OSError, ValueError, IndexError, StopIteration):
        pass  # not Linux, or no control group: use what is known so far
    return found


def refuse_too_large(images: int, values: int, data: DataConfig, itemsize: int = 1) -> None:
    """Raise `RequestError` if images do not fit into memory.

    Args:
        images: The number of images.
        values: The number of values per image.
        data: The config, for the advice in the message.
        itemsize: The size of a value in the file, in bytes.
    """
    free = available()
    needed = images * values * (_COPIES + (itemsize if itemsize > 1 else 0))
    if needed <= free:
        return
    advice = ""
    if data.source == "folder" and data.alternative is None:
        channels = data.shape[2]
        side = int((free / (images * channels * _COPIES)) ** 0.5) // 8 * 8
        if side >= _LEAST_SIDE:
            how = data.resize or "fit"
            advice = f"; data.resize={how} {shape_override((side, side, channels))} fits"
    raise RequestError(
        f"{data.dir}: {images:,} images of {values:,} values need {_size(needed)} of memory, but "
        f"only {_size(free)} is available{advice}"
    )


def _size(count: float) -> str:
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.1f} {_UNITS[unit]}" if unit else f"{count:.0f} bytes"
