"""The axes of parallel coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_LOGARITHMIC = 50  # ratio of the ends of an axis from which it is logarithmic
_TICK_GAP = 0.04  # smallest distance of labels on an axis of parallel coordinates


@dataclass(frozen=True)
class ParallelAxis:
    """An axis from 0 to 1."""

    places: Sequence[float]
    """The place of each value."""
    ticks: Mapping[str, float]
    """The places of the labels."""
    is_numeric: bool = True


def axis_of(texts: Sequence[str], most_ticks: int = 6) -> ParallelAxis:
    """Return the axis of a column: numbers by size (logarithmic over wide ranges), other text in equal steps.

    Up to `most_ticks` different numbers are labelled themselves, unless they are too close; otherwise, five evenly
    spaced marks are.
    """
    distinct = list(dict.fromkeys(texts))
    numbers = {text: number for text in distinct if (number := _number(text)) is not None}
    if len(numbers) < len(distinct):
        steps = dict(zip(sorted(distinct), np.linspace(0, 1, len(distinct)).tolist(), strict=True))
        return ParallelAxis([steps[text] for text in texts], steps, is_numeric=False)
    low, high = min(numbers.values()), max(numbers.values())
    if low == high:
        return ParallelAxis([0.5] * len(texts), {f"{low:.4g}": 0.5})
    is_log = low > 0 and high / low >= _LOGARITHMIC
    scale = np.log if is_log else np.asarray
    places = {
        text: float((scale(number) - scale(low)) / (scale(high) - scale(low))) for text, number in numbers.items()
    }
    own = {f"{number:.4g}": places[text] for text, number in numbers.items()}
    fits = len(own) <= most_ticks and np.diff(sorted(own.values())).min(initial=1) >= _TICK_GAP
    return ParallelAxis([places[text] for text in texts], own if fits else _even_ticks(low, high, is_log=is_log))


def _even_ticks(low: float, high: float, *, is_log: bool) -> dict[str, float]:
    marks = np.geomspace(low, high, 5) if is_log else np.linspace(low, high, 5)
    return {f"{mark:.4g}": index / 4 for index, mark in enumerate(marks)}


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
