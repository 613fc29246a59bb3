"""Search spaces: keys with several values, in Hydra's sweep syntax."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from mnist_exp.config.compose import split_parsable
from mnist_exp.config.hydra_adapter import config_loader, parse_override
from mnist_exp.config.overrides import Request, key_of, quoted
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.errors import Problem
from mnist_exp.suggest import did_you_mean

LOG = "log"
"""The tag of an interval that is sampled on a log scale."""


@dataclass(frozen=True)
class Choices:
    """A key with a list of values, as written in overrides."""

    key: str
    text: str
    values: tuple[str, ...]

    @property
    def corners(self) -> tuple[str, ...]:
        """The values to check before a search starts."""
        return self.values

    @property
    def points(self) -> tuple[str, ...]:
        """All values."""
        return self.values


@dataclass(frozen=True)
class Numbers:
    """A key with the numbers from `low` to `high`, both included; `step` is None for all floats in between."""

    key: str
    text: str
    low: float
    high: float
    step: float | None
    log: bool

    @property
    def whole(self) -> bool:
        """Whether the numbers are integers."""
        return isinstance(self.low, int)

    @property
    def corners(self) -> tuple[str, ...]:
        """The values to check before a search starts."""
        return tuple(dict.fromkeys((repr(self.low), repr(self.high))))

    @property
    def points(self) -> tuple[str, ...] | None:
        """All values; None if there are infinitely many."""
        if self.step is None:
            return None
        count = round((self.high - self.low) / self.step) + 1
        return tuple(repr(self.low + number * self.step) for number in range(count))


Dimension = Choices | Numbers


@dataclass(frozen=True)
class Space:
    """A search space."""

    dimensions: tuple[Dimension, ...]
    fixed: tuple[str, ...]
    """The overrides of every trial."""
    problems: tuple[Problem, ...]
    """Problems with overrides. Invalid overrides are neither in `dimensions` nor in `fixed`."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the dimensions."""
        return tuple(dimension.key for dimension in self.dimensions)

    @property
    def texts(self) -> dict[str, str]:
        """The space as written, by key."""
        return {dimension.key: dimension.text for dimension in self.dimensions}

    def corners(self) -> list[tuple[str, ...]]:
        """Return the overrides of the points to check before a search starts.

        The points are: the first values of all dimensions; each other end or choice, combined with the first
        values of the remaining dimensions; and the last values of all dimensions.
        """
        ends = [dimension.corners for dimension in self.dimensions]
        first = [values[0] for values in ends]
        points = [first]
        for place, values in enumerate(ends):
            points += [[*first[:place], value, *first[place + 1 :]] for value in values[1:]]
        points.append([values[-1] for values in ends])
        return [self.overrides(point) for point in dict.fromkeys(map(tuple, points))]

    def overrides(self, values: Sequence[str]) -> tuple[str, ...]:
        """Return the overrides of a point, given its values as written."""
        return (*self.fixed, *(f"{key}={value}" for key, value in zip(self.keys, values, strict=True)))

    def grid(self) -> list[tuple[str, ...]]:
        """Return all points of a finite space; the last dimension changes fastest."""
        return list(itertools.product(*(dimension.points or () for dimension in self.dimensions)))


def read_space(request: Request, preset: Mapping[str, Any]) -> Space:
    """Return the space given by the command line and a preset (`tune.space`); the former takes precedence."""
    dimensions: dict[str, Dimension] = {}
    with config_loader(request.config_dir) as loader:
        good, problems = split_parsable(request.overrides)
        given = [loader.parse(text) for text in good]
        keys = [key_of(text) for text in good]
        for key, value in preset.items():
            place = f"tune.space.{key}"
            try:
                override = loader.parse(f"{key}={_as_written(value)}")
            except HydraException:
                problems.append(Problem("invalid-override", place, f"{value}: not in Hydra's sweep syntax", place))
                continue
            if not override.is_sweep_override():
                problems.append(
                    Problem(
                        "missing-value",
                        place,
                        f"{value}: has a single value, so there is nothing to search",
                        place,
                    )
                )
            elif key not in keys:
                dimensions |= _read(override, place, problems)
        for override in filter(Override.is_sweep_override, given):
            if keys.count(key := key_of(str(override.input_line))) > 1:
                problems.append(Problem("given-twice", COMMAND_LINE, f"{key}: given twice", key))
            dimensions |= _read(override, COMMAND_LINE, problems)
    fixed = tuple(str(override.input_line) for override in given if not override.is_sweep_override())
    return Space(tuple(dimensions.values()), fixed, tuple(dict.fromkeys(problems)))


def without_space(request: Request) -> Request:
    """Return the request without the searched keys: the part that all trials have in common."""
    swept = {text for text in split_parsable(request.overrides)[0] if parse_override(text).is_sweep_override()}
    return replace(request, overrides=tuple(text for text in request.overrides if text not in swept))


def _as_written(value: Any) -> str:
    """Return a YAML value in Hydra's syntax: a list as a choice."""
    if not isinstance(value, (list, tuple)):
        return str(value)
    texts = [quoted(entry) if isinstance(entry, str) else json.dumps(entry) for entry in value]
    return f"choice({','.join(texts)})"


def _read(override: Override, place: str, problems: list[Problem]) -> dict[str, Dimension]:
    """Return the dimension of a swept override by its key; if invalid, add to `problems` and return nothing."""
    key, text = override.get_key_element(), (override.input_line or "").partition("=")[2]
    faults = list(_faults(override.value()))
    sweep = override.value()
    if faults:
        problems += [Problem("invalid-override", place, f"{key}={text}: {fault}", key) for fault in faults]
        return {}
    if isinstance(sweep, IntervalSweep):
        assert sweep.start is not None
        assert sweep.end is not None
        step = 1 if isinstance(sweep.start, int) else None
        return {key: Numbers(key, text, sweep.start, sweep.end, step, LOG in sweep.tags)}
    if isinstance(sweep, RangeSweep):
        values = list(sweep.range())
        return {key: Numbers(key, text, min(values), max(values), abs(sweep.step), False)}
    choices = tuple(dict.fromkeys(override.sweep_string_iterator()))
    if not choices:
        problems.append(Problem("missing-value", place, f"{key}={text}: has no value", key))
        return {}
    return {key: Choices(key, text, choices)}


def _faults(sweep: Any) -> Iterator[str]:
    """Yield a message for each fault of a swept value that does not depend on its key."""
    if getattr(sweep, "shuffle", False):
        yield "shuffle(…) has no effect in a search: the sampler determines the order"
    tags: set[str] = getattr(sweep, "tags", set())
    for tag in sorted(tags - {LOG}):
        yield f"tag {tag}: no such tag{did_you_mean(tag, [LOG])}; a log scale is tag({LOG}, interval(low, high))"
    if isinstance(sweep, IntervalSweep):
        yield from _interval_faults(sweep, LOG in tags)
        return
    if LOG in tags:
        yield f"a log scale needs an interval: tag({LOG}, interval(low, high))"
    if isinstance(sweep, RangeSweep) and not any(True for _ in sweep.range()):
        yield "the range is empty"


def _interval_faults(sweep: IntervalSweep, log: bool) -> Iterator[str]:
    """Yield a message for each fault of an interval's bounds; `log` means that it is sampled on a log scale."""
    assert sweep.start is not None
    assert sweep.end is not None
    low, high = sweep.start, sweep.end
    if not (math.isfinite(low) and math.isfinite(high)):
        yield "both bounds must be finite numbers"
    elif low > high:
        yield f"bounds are in the wrong order: must be interval({high:g},{low:g})"
    elif low == high:
        yield f"both bounds are {low:g}; give a single value"
    if log and low <= 0:
        yield f"a log scale must begin above 0, found {low:g}"
