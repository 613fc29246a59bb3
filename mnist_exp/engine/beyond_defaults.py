"""Find the settings of a config that differ from the defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mnist_exp.config.compose import compose
from mnist_exp.config.overrides import Request
from mnist_exp.errors import MnistExpError
from mnist_exp.runs.journal import flatten
from mnist_exp.runs.selection import differing_settings

# Groups of the config whose options have names.
_NAMED = ("data", "preprocess", "aug", "model", "debug")
# Locations of files and what a run keeps: not part of the question.
_PLACES = ("data.dir", "data.mirrors", "data.files", "data.keras_cache", "data.fallback", "report", "save")
_TYPED = ("optimizer.", "schedule.")  # settings that are listed even if the type differs, too
_EMPTY = (None, "null", "false", "{}", "[]")


def name_of(values: Mapping[str, Any], group: str) -> str:
    """Return the name of the option that a config chose in a group."""
    options = values.get(group)
    return str(options.get("name", "?")) if isinstance(options, Mapping) else "?"


def settings_beyond_defaults(values: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the settings that differ from the defaults or, within a group, from the chosen option's values."""
    defaults = compose(Request("train")).values
    rows = [
        (group, name_of(values, group), name_of(defaults, group))
        for group in _NAMED
        if name_of(values, group) != name_of(defaults, group)
    ]
    configs = [dict(values), _options_of([(group, name) for group, name, _ in rows])]
    ours, theirs = map(flatten, configs)
    rows += [
        (key, ours.get(key, "–"), theirs.get(key, "–"))
        for key in dict.fromkeys([*differing_settings(configs), *(key for key in ours if key.startswith(_TYPED))])
        if not key.startswith(_PLACES) and not key.endswith(".name") and not _equal(ours.get(key), theirs.get(key))
    ]
    return rows


def _equal(first: str | None, second: str | None) -> bool:
    """Return whether two values, as text, mean the same; a missing key equals an empty value."""
    if first in _EMPTY and second in _EMPTY:
        return True
    try:
        return float(first or "") == float(second or "")
    except ValueError:
        return first == second


def _options_of(chosen: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the default config with options; options that do not exist (any more) are left out."""
    accepted: tuple[str, ...] = ()
    for group, name in chosen:
        try:
            composed = compose(Request("train", (*accepted, f"{group}={name}")))
        except MnistExpError:
            continue
        if not composed.problems:
            accepted += (f"{group}={name}",)
    return compose(Request("train", accepted)).values
