"""The names of a sweep's jobs."""

from __future__ import annotations

from mnist_exp.config.grid import Grid
from mnist_exp.config.request import key_of
from mnist_exp.runs.directory import safe_name

_LONGEST = 120  # a file system takes 255 bytes


def job_names(grid: Grid) -> tuple[str, ...]:
    """`model-linear_seed-0`: what is swept, and the job's values. No two are the same."""
    names: list[str] = []
    for job in grid.jobs:
        values = {key_of(text): text.split("=", 1)[1] for text in job if "=" in text}
        parts = [safe_name(f"{key.rsplit('.', 1)[-1]}-{values[key]}") for key in grid.swept]
        name = "_".join(parts)[:_LONGEST] or "job"
        taken = names.count(name)
        names.append(f"{name}.{taken + 1}" if taken else name)
    return tuple(names)
