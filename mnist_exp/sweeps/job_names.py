"""Name sweeps and their jobs."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence

from hydra.errors import HydraException

from mnist_exp.config.hydra_adapter import parse_override
from mnist_exp.config.overrides import key_of
from mnist_exp.runs.directory import safe_name
from mnist_exp.sweeps.grid import Grid

_LONGEST = 120  # maximum number of characters in a name; file systems allow 255 bytes
# Keys that do not affect the result of a job.
_WITHOUT_EFFECT = ("outputs", "tracking", "sweep", "hydra", "budget", "name", "plots", "report")


def job_names(grid: Grid) -> tuple[str, ...]:
    """Return a unique name for each job, made of the swept keys and the job's values: `model-linear_seed-0`."""
    names: list[str] = []
    for job in grid.jobs:
        values = {key_of(text): text.split("=", 1)[1] for text in job if "=" in text}
        parts = [safe_name(f"{key.rsplit('.', 1)[-1]}-{values[key]}") for key in sorted(grid.swept)]
        name = "_".join(parts)[:_LONGEST] or "job"
        others = (f"{name}.{number}" for number in itertools.count(2))
        names.append(name if name not in names else next(other for other in others if other not in names))
    return tuple(names)


def sweep_name(swept: Sequence[str], fixed: Sequence[str]) -> str:
    """Return a sweep's name: the swept keys and a digest of any fixed overrides, as in `aug-model-seed-1f0c3a`.

    The name does not depend on the order of the overrides, on quotes, or on keys that do not affect a job.
    """
    keys = "-".join(sorted(key.rsplit(".", 1)[-1] for key in swept)) or "sweep"
    settings = {key_of(text): _value(text) for text in fixed if key_of(text).split(".")[0] not in _WITHOUT_EFFECT}
    if not settings:
        return safe_name(keys[:_LONGEST])
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
    return safe_name(f"{keys[:_LONGEST]}-{digest[:6]}")


def _value(text: str) -> object:
    """Return an override's value, regardless of notation, and whether it sets or removes (`~key`) the key."""
    try:
        override = parse_override(text)
    except HydraException:
        return text
    value = override.value()
    is_whole = isinstance(value, float) and value.is_integer()
    return ["~" if text.startswith("~") else "=", int(value) if is_whole else value]  # type: ignore[arg-type]
