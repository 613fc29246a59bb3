"""Group runs that differ only by seed, and label each group by the settings that set it apart."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_exp.runs.directory import RunSummary
from mnist_exp.runs.fingerprint import with_effect
from mnist_exp.runs.journal import flatten

# Config groups whose options have names, which are more informative than the values.
_NAMED = ("model", "aug", "preprocess", "data", "debug")
_DIGEST = "data.sha256"

Settings = Mapping[str, str]
"""Values as text, by dotted key."""


@dataclass(frozen=True)
class TrainedRun:
    """A finished run, its resolved config, and the settings by which it is grouped (all but the seed)."""

    summary: RunSummary
    values: Mapping[str, Any]
    seed: int
    names: Mapping[str, str]
    """The names of the chosen options, by config group."""
    settings: Settings

    @classmethod
    def of(cls, summary: RunSummary, values: Mapping[str, Any]) -> TrainedRun:
        """Return a finished run in the form used for grouping and comparison.

        Args:
            summary: The run.
            values: Its resolved config.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: The config or result is not that of a finished run.
        """
        config = with_effect(values)
        del config["seed"]
        result = summary.result
        if result.device.precision is None or result.data.sha256 is None:
            raise ValueError("its result lacks the device or the data")
        device = result.device  # as resolved: these settings can change the weights
        config["device"] |= {"kind": device.kind, "precision": device.precision, "threads": device.threads}
        config["data"] = {**config["data"], "sha256": result.data.sha256[:8]}
        if origin := result.init_from:
            config["init_from"] = f"{Path(origin.run).name} ({origin.weights_sha256[:8]})"
        if result.teacher:
            config["teacher"] = f"{Path(result.teacher.run).name} ({result.teacher.sha256[:8]})"
        names = {part: str(values[part]["name"]) for part in _NAMED}
        return cls(summary, values, int(values["seed"]), names, flatten(config))

    @property
    def data(self) -> str:
        """The SHA-256 of the run's images and labels."""
        return str(self.summary.result.data.sha256)

    def value(self, metric: str) -> float | None:
        """Return the run's value of a metric; None if it has none.

        Args:
            metric: `val/…` (of the saved epoch), `test/…` (of the saved model), or `seconds` (the training time).
        """
        result = self.summary.result
        part, _, name = metric.partition("/")
        figure = {
            "val": (result.best or {}).get(metric),
            "test": (result.test or {}).get(name),
            "seconds": result.training_seconds,
        }.get(part)
        return None if figure is None else float(figure)

    @property
    def metrics(self) -> list[str]:
        """The metrics for which the run has values, except `seconds`."""
        result = self.summary.result
        validated = [name for name in result.best or {} if name.startswith("val/")]
        return validated + [f"test/{name}" for name in result.test or {}]


@dataclass(frozen=True)
class Group:
    """Runs that differ only by seed, one per seed, sorted by seed."""

    mark: str
    label: str
    runs: tuple[TrainedRun, ...]

    def values(self, metric: str) -> dict[int, float]:
        """Return the values of a metric by seed; seeds without a value are left out."""
        return {run.seed: value for run in self.runs if (value := run.value(metric)) is not None}


def map_repeated(runs: Sequence[TrainedRun]) -> dict[Path, Path]:
    """Map each run that was repeated with the same settings and seed to the newest repetition.

    Only the newest is compared.
    """
    newest: dict[tuple[Any, ...], TrainedRun] = {}
    for run in sorted(runs, key=lambda run: run.summary.result.started):
        newest[group_key(run), run.seed] = run
    return {
        run.summary.path: other.summary.path
        for run in runs
        if (other := newest[group_key(run), run.seed]).summary.path != run.summary.path
    }


def group_runs(runs: Sequence[TrainedRun]) -> list[Group]:
    """Group runs that differ only by seed; the groups are in the order of their first runs."""
    members: dict[tuple[Any, ...], list[TrainedRun]] = {}
    for run in runs:
        members.setdefault(group_key(run), []).append(run)
    labels = _labels([same[0] for same in members.values()])
    ordered = [tuple(sorted(same, key=lambda run: run.seed)) for same in members.values()]
    return [Group("", label, same) for label, same in zip(labels, ordered, strict=True)]


def mark_groups(groups: Sequence[Group]) -> list[Group]:
    """Return the groups marked A, B, … Z, A2, … in their order."""
    letters = string.ascii_uppercase
    marks = [
        letters[number % 26] + (str(number // 26 + 1) if number >= 26 else "") for number in range(len(groups))
    ]
    return [Group(mark, group.label, group.runs) for mark, group in zip(marks, groups, strict=True)]


def group_key(run: TrainedRun) -> tuple[tuple[str, str], ...]:
    """Return what runs of the same group have in common: all settings but the seed."""
    return tuple(sorted(run.settings.items()))


def _labels(runs: Sequence[TrainedRun]) -> list[str]:
    """Return a short label per run, made of the settings that set it apart: `model=pyramid aug=none`."""
    if len(runs) == 1:
        return [f"model={runs[0].names['model']} aug={runs[0].names['aug']}"]
    keys = list(dict.fromkeys(key for run in runs for key in run.settings))
    differing = [key for key in keys if len({run.settings.get(key) for run in runs}) > 1]
    columns: list[list[str]] = []
    parts = {key.split(".")[0]: None for key in differing}
    for part in [*filter(parts.__contains__, _NAMED), *filter(lambda part: part not in _NAMED, parts)]:
        columns += _columns(part, [key for key in differing if key.split(".")[0] == part], runs)
    return [" ".join(filter(None, texts)) or "–" for texts in zip(*columns, strict=True)]


def _columns(part: str, keys: Sequence[str], runs: Sequence[TrainedRun]) -> list[list[str]]:
    """Return the parts of the labels that describe one config group, as columns with a text for each run.

    The names of the options are enough if they account for all differences. Otherwise parameters are added or, if
    these do not account for the rest either, all differing values, including those of layers.
    """

    def shown_with(chosen: Sequence[str]) -> set[tuple[str | None, ...]]:
        return {(name, *map(run.settings.get, chosen)) for name, run in zip(names, runs, strict=True)}

    names = [run.names.get(part, "") for run in runs]
    # An option's values are shown only if they differ between runs with the same option.
    within = [key for key in keys if len(shown_with([key])) > len(set(names))]
    parameters = [key for key in within if key != _DIGEST and not _is_in_list(key)]
    chosen = next(
        (some for some in (parameters[:0], parameters) if len(shown_with(some)) == len(shown_with(keys))), within
    )
    named = [[f"{part}={name}" for name in names]] if len(set(names)) > 1 else []
    return named + [
        [f"{key}={run.settings[key]}" if key in run.settings else "" for run in runs] for key in chosen
    ]


def _is_in_list(key: str) -> bool:
    """Return whether a key belongs to an entry of a list, such as an argument of a layer."""
    return any(word.isdigit() for word in key.split("."))
