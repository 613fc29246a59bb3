"""Runs that differ by their seed alone are a group, and a group is called by what it differs in from others."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_exp.runs.directory import RunSummary
from mnist_exp.runs.fingerprint import with_effect
from mnist_exp.runs.journal import flatten

# Parts of a config whose option has a name, which says more than the values that it stands for.
_NAMED = ("model", "aug", "preprocess", "data", "debug")
_DIGEST = "data.sha256"

Settings = Mapping[str, str]
"""Values as text under dotted names."""


@dataclass(frozen=True)
class Trained:
    """A finished run, its resolved config, and what of it makes a difference beside the seed."""

    summary: RunSummary
    values: Mapping[str, Any]
    seed: int
    names: Mapping[str, str]
    """Of the options that have one."""
    settings: Settings

    @property
    def data(self) -> str:
        """SHA-256 of its images and labels."""
        return str(self.summary.result.data.sha256)

    def value(self, metric: str) -> float | None:
        """`val/…` of the saved epoch, `test/…` of the saved model, or the `seconds` that the run took."""
        result = self.summary.result
        part, _, name = metric.partition("/")
        found = {
            "val": (result.best or {}).get(metric),
            "test": (result.test or {}).get(name),
            "seconds": result.training_seconds,
        }.get(part)
        return None if found is None else float(found)

    @property
    def metrics(self) -> list[str]:
        """The metrics that it has a value of, but for `seconds`."""
        result = self.summary.result
        validated = [name for name in result.best or {} if name.startswith("val/")]
        return validated + [f"test/{name}" for name in result.test or {}]


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seed alone, one per seed, in the order of the seeds."""

    mark: str
    label: str
    runs: tuple[Trained, ...]

    def values(self, metric: str) -> dict[int, float]:
        """The metric's value for each seed that has one."""
        return {run.seed: value for run in self.runs if (value := run.value(metric)) is not None}


def trained(summary: RunSummary, values: Mapping[str, Any]) -> Trained:
    """Raises `KeyError`, `TypeError`, `ValueError`, `AttributeError` for what is not a run's config or result."""
    config = with_effect(values)
    del config["seed"]
    result = summary.result
    if result.device.precision is None or result.data.sha256 is None:
        raise ValueError("its result lacks the device or the data")
    config["device"] = {"kind": result.device.kind, "precision": result.device.precision}
    config["data"] = {**config["data"], "sha256": result.data.sha256[:8]}
    if origin := result.init_from:
        config["init_from"] = f"{Path(origin.run).name} ({origin.weights_sha256[:8]})"
    names = {part: str(values[part]["name"]) for part in _NAMED}
    return Trained(summary, values, int(values["seed"]), names, flatten(config))


def repeated(runs: Sequence[Trained]) -> dict[Path, Path]:
    """Runs that repeat another's settings and seed, and the newest of them, which counts for all."""
    newest: dict[tuple[Any, ...], Trained] = {}
    for run in sorted(runs, key=lambda run: run.summary.result.started):
        newest[_key(run), run.seed] = run
    return {
        run.summary.path: other.summary.path
        for run in runs
        if (other := newest[_key(run), run.seed]).summary.path != run.summary.path
    }


def grouped(runs: Sequence[Trained]) -> list[Group]:
    """The groups that runs of different seeds make, in the order of their first runs."""
    members: dict[tuple[Any, ...], list[Trained]] = {}
    for run in runs:
        members.setdefault(_key(run), []).append(run)
    labels = _labels([of[0] for of in members.values()])
    ordered = [tuple(sorted(of, key=lambda run: run.seed)) for of in members.values()]
    return [Group("", label, of) for label, of in zip(labels, ordered, strict=True)]


def marked(groups: Sequence[Group]) -> list[Group]:
    """The same groups, called A, B, … Z, A2, … in this order."""
    letters = string.ascii_uppercase
    marks = [
        letters[number % 26] + (str(number // 26 + 1) if number >= 26 else "") for number in range(len(groups))
    ]
    return [Group(mark, group.label, group.runs) for mark, group in zip(marks, groups, strict=True)]


def _key(run: Trained) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(run.settings.items()))


def _labels(runs: Sequence[Trained]) -> list[str]:
    """What tells one run's settings from the others', as short as it can be said: `model=pyramid aug=none`."""
    if len(runs) == 1:
        return [f"model={runs[0].names['model']} aug={runs[0].names['aug']}"]
    keys = list(dict.fromkeys(key for run in runs for key in run.settings))
    differing = [key for key in keys if len({run.settings.get(key) for run in runs}) > 1]
    columns: list[list[str]] = []
    parts = {key.split(".")[0]: None for key in differing}
    for part in [*filter(parts.__contains__, _NAMED), *filter(lambda part: part not in _NAMED, parts)]:
        columns += _columns(part, [key for key in differing if key.split(".")[0] == part], runs)
    return [" ".join(filter(None, texts)) or "–" for texts in zip(*columns, strict=True)]


def _columns(part: str, keys: Sequence[str], runs: Sequence[Trained]) -> list[list[str]]:
    """What to say of a part of the config, for each run: its names if they tell all, else knobs, else layers."""

    def told_by(chosen: Sequence[str]) -> set[tuple[str | None, ...]]:
        return {(name, *map(run.settings.get, chosen)) for name, run in zip(names, runs, strict=True)}

    names = [run.names.get(part, "") for run in runs]
    # An option's values are not told beside its name, unless they differ under the same name.
    within = [key for key in keys if len(told_by([key])) > len(set(names))]
    knobs = [key for key in within if key != _DIGEST and not any(word.isdigit() for word in key.split("."))]
    chosen = next((some for some in (knobs[:0], knobs) if len(told_by(some)) == len(told_by(keys))), within)
    named = [[f"{part}={name}" for name in names]] if len(set(names)) > 1 else []
    return named + [
        [f"{key}={run.settings[key]}" if key in run.settings else "" for run in runs] for key in chosen
    ]
