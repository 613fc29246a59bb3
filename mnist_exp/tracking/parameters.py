"""The parameters of a run in MLflow: the settings that were chosen, not all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mnist_exp.config.overrides import key_of
from mnist_exp.runs.journal import flatten

# Settings that do not affect the weights, describe the data's files, or are shown elsewhere. An overridden one is
# logged all the same.
_LEFT_OUT = (
    "any_version", "aug.elastic_sigma", "aug.fill_mode", "budget", "device", "save", "plots", "report",
    "debug.check_finite", "model.layers", "training.checkpoint_seconds", "training.keep_checkpoint",
    "data.class_names", "data.dir", "data.fallback", "data.files", "data.keras_cache", "data.mirrors",
    "data.source", "data.verify",
)  # fmt: skip
_NEVER = ("outputs", "sweep", "tracking")
_ALWAYS = ("seed", "data.split_seed")
_OFF = ("null", "false", "0", "0.0", "[]", "{}")


def chosen_parameters(config: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, str]:
    """Return the parameters of a run: overridden settings, and those that are neither off nor administrative."""
    overridden = [key for key in map(key_of, overrides) if "." in key]  # others are groups
    values = flatten({key: value for key, value in config.items() if key not in _NEVER})
    return {
        key: value
        for key, value in values.items()
        if _covers((*overridden, *_ALWAYS), key) or not (value in _OFF or _covers(_LEFT_OUT, key))
    }


def _covers(names: Iterable[str], key: str) -> bool:
    """Return whether one of the names is the key or the beginning of its dotted name."""
    return any(f"{key}.".startswith(f"{name}.") for name in names)
