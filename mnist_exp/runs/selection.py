"""Select and sort runs by conditions on their results and settings, and find the settings that differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mnist_exp.config.conditions import Condition
from mnist_exp.errors import RequestError
from mnist_exp.runs.directory import RunSummary
from mnist_exp.runs.journal import flatten
from mnist_exp.runs.lookup import read_config
from mnist_exp.runs.result import RunResult
from mnist_exp.suggest import did_you_mean

# Keys that say where a run is and how it is tracked, not what it trains.
_ADMINISTRATIVE = ("name", "outputs", "from", "any_version", "sweep", "tracking", "budget", "plots", "report")
# Groups whose options have names: if the names differ, the values that the options set are not listed.
_NAMED = ("model", "aug", "preprocess", "data", "debug", "optimizer", "schedule")


@dataclass(frozen=True)
class ListedRun:
    """A run with its config; the config is empty if it cannot be read."""

    summary: RunSummary
    config: Mapping[str, Any]

    @classmethod
    def read(cls, summary: RunSummary) -> ListedRun:
        """Read the config of a run."""
        try:
            return cls(summary, read_config(summary.path))
        except RequestError:  # damaged, or not written yet
            return cls(summary, {})

    def lookup(self, name: str) -> Any:
        """Return a figure of the result, or the value of a key of the config; None if the run has neither.

        The value of a group that has a name, such as `model`, is that name.
        """
        figures = figures_of(self.summary)
        if name in figures:
            return figures[name]
        value = self.setting(name)
        return value.get("name", value) if isinstance(value, Mapping) else value

    def setting(self, key: str) -> Any:
        """Return the value at a dotted path of the config; None if there is none."""
        value: Any = self.config
        for part in key.split("."):
            if isinstance(value, list) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
            else:
                value = value.get(part) if isinstance(value, Mapping) else None
        return value

    @property
    def names(self) -> set[str]:
        """The names that conditions can refer to."""
        return {*figures_of(self.summary), *flatten(dict(self.config)), *self.config}


def metrics_of(result: RunResult) -> dict[str, float]:
    """Return a run's `val/…` metrics of the saved epoch and `test/…` metrics of the saved model."""
    best = {name: value for name, value in (result.best or {}).items() if name.startswith("val/")}
    return {**best, **{f"test/{name}": value for name, value in (result.test or {}).items()}}


def figures_of(run: RunSummary) -> dict[str, Any]:
    """Return the metrics and fields of a run that conditions can refer to."""
    result = run.result
    return {
        "run": run.name,
        "path": str(run.path),
        "status": run.status,
        "started": result.started,
        "epochs": result.epochs,
        "parameters": result.parameters,
        "seconds": result.training_seconds,
        "best_epoch": result.best_epoch,
        "fallback_for": result.data.stands_in_for,
        "tags": result.tags,
        "note": result.note,
        **metrics_of(result),
    }


def select_runs(runs: Sequence[ListedRun], where: Condition | None, sort: str | None) -> list[ListedRun]:
    """Return the runs that satisfy a condition, sorted.

    Args:
        runs: The runs, newest first.
        where: The condition; None for all runs.
        sort: A name such as `test/accuracy`, preceded by `-` for descending order; None to keep the order. Runs
            without a value come last.

    Raises:
        RequestError: A name occurs in no run.
    """
    key = sort.removeprefix("-") if sort else None
    _refuse_unknown_names(runs, where, key)
    selected = [run for run in runs if where is None or where.holds(run.lookup)]
    return selected if key is None or sort is None else _sorted(selected, key, descending=sort.startswith("-"))


def _refuse_unknown_names(runs: Sequence[ListedRun], where: Condition | None, key: str | None) -> None:
    """Raise `RequestError` with every name of a condition or sort key that occurs in no run."""
    wanted = [("where", name) for name in (where.names if where else ())]
    wanted += [("sort", key)] if key else []
    missing = [(option, name) for option, name in wanted if runs and all(run.lookup(name) is None for run in runs)]
    known = {name for run in runs for name in run.names} if missing else set()
    problems = [
        f"{option}: {name} is neither a metric nor a key of any of these runs{_suggest(name, known)}"
        for option, name in missing
        if name not in known
    ]
    if problems:
        raise RequestError("\n".join(problems))


def _suggest(name: str, known: set[str]) -> str:
    """Return what was probably meant: for `val` and `test`, as in the table of runs, the accuracy."""
    column = f"{name}/accuracy"
    return f" (did you mean '{column}'?)" if column in known else did_you_mean(name, known)


def _sorted(runs: Sequence[ListedRun], key: str, *, descending: bool) -> list[ListedRun]:
    valued = [run for run in runs if _has_order(run.lookup(key))]
    are_numbers = all(isinstance(run.lookup(key), (int, float)) for run in valued)
    order = sorted(
        valued,
        key=lambda run: run.lookup(key) if are_numbers else str(run.lookup(key)),
        reverse=descending,
    )
    return [*order, *(run for run in runs if not _has_order(run.lookup(key)))]


def _has_order(value: Any) -> bool:
    """Return whether a value can be sorted: it is there, and not NaN."""
    return value is not None and value == value


def differing_settings(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the keys whose values differ between configs.

    If the configs use different options of a group, only the key with the option's name is returned.
    """
    flat = [_settings(config) for config in configs if config]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    differing = [key for key in keys if len({settings.get(key) for settings in flat}) > 1]
    named = {key.partition(".")[0] for key in differing if key in [f"{group}.name" for group in _NAMED]}
    named |= {key.partition(".")[0] for key in differing if key in ("optimizer.type", "schedule.type")}
    return [
        key for key in differing if key.partition(".")[0] not in named or key.partition(".")[2] in ("name", "type")
    ]


def _settings(config: Mapping[str, Any]) -> dict[str, str]:
    return flatten({key: value for key, value in config.items() if key not in _ADMINISTRATIVE})
