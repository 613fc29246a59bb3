"""Confidence intervals and significance tests for results over a few seeds.

All intervals are Student's. They describe how a value varies with the seed, for a fixed set of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

ALPHA = 0.05
# Metrics are float32: values are equal if they differ by less than this, relative to the largest.
_SAME = 1e-6

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mean:
    """The mean of n values, their standard deviation, and the 95 % confidence interval of the mean.

    A single value has neither deviation nor interval. Equal values have no interval, as they say nothing about the
    values of other seeds.
    """

    n: int
    mean: float
    deviation: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Difference:
    """A mean difference with its interval and p-value, both corrected for the number of differences tested."""

    n: int
    mean: float
    interval: tuple[float, float] | None
    p: float

    @property
    def is_real(self) -> bool:
        """Whether the difference is significant, at the level `ALPHA`."""
        return self.p < ALPHA


def mean_of(values: Sequence[float]) -> Mean:
    """Summarize one or more values."""
    array = np.asarray(values, float)
    n, mean = len(array), float(array.mean())
    if n == 1:
        return Mean(n, mean, None, None)
    if np.ptp(array) <= _SAME * np.abs(array).max():
        return Mean(n, mean, 0.0, None)
    deviation = float(array.std(ddof=1))
    margin = float(stats.t.ppf(1 - ALPHA / 2, n - 1)) * deviation / n**0.5
    return Mean(n, mean, deviation, (mean - margin, mean + margin))


def differences(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> list[Difference]:
    """Run a paired t test on each pair of value lists, corrected for the number of pairs.

    The verdicts (`is_real`) use Holm's method (A simple sequentially rejective multiple test procedure,
    Scandinavian Journal of Statistics 6, 1979): the probability that any of them is a false positive is at most
    5 %, however many pairs there are.

    The intervals use Bonferroni's (Dunn, Multiple comparisons among means, JASA 56, 1961): the probability that
    any of them misses the true difference is at most 5 %. Holm's later steps find differences that these intervals
    do not exclude; such an interval is cut off at 0, so that it never contradicts the verdict. Each interval by
    itself still has a coverage of at least 95 %. All verdicts and intervals together are correct with a
    probability of at least 90 %, as 5 % is allowed for each of the two (in simulations, 91.6 % at worst).
    Intervals that share Holm's 5 % would often show no more than the sign (Strassburger and Bretz, Statistics in
    Medicine 27, 2008).

    If a pair has the same difference for all seeds, it has no interval and is not significant: two seeds on few
    images agree by chance.

    Args:
        pairs: Lists of equal length with the values of the same two or more seeds.
    """
    count = len(pairs)
    if not count:
        return []
    found = [np.subtract(first, second, dtype=float) for first, second in pairs]
    means = np.array([values.mean() for values in found])
    freedom = np.array([len(values) - 1 for values in found])
    errors = np.array([values.std(ddof=1) / len(values) ** 0.5 for values in found])
    same = np.array(
        [np.ptp(values) <= _SAME * np.abs(pair).max() for values, pair in zip(found, pairs, strict=True)]
    )
    t = np.divide(np.abs(means), errors, out=np.zeros(count), where=~same)
    p = holm(2 * stats.t.sf(t, freedom))
    margins = stats.t.ppf(1 - ALPHA / (2 * count), freedom) * errors
    low, high = means - margins, means + margins
    low[(p < ALPHA) & (means > 0)] = low[(p < ALPHA) & (means > 0)].clip(min=0)
    high[(p < ALPHA) & (means < 0)] = high[(p < ALPHA) & (means < 0)].clip(max=0)
    return [
        Difference(len(values), float(mean), None if alike else (float(bottom), float(top)), float(chance))
        for values, mean, alike, bottom, top, chance in zip(found, means, same, low, high, p, strict=True)
    ]


def holm(p: Values) -> Values:
    """Return Holm's adjusted p-values, each to be compared with `ALPHA` itself, for those of several tests."""
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    corrected = np.empty(len(p))
    corrected[order] = steps.clip(max=1)
    return corrected


def mcnemar(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> tuple[int, int, float]:
    """Compare two models by McNemar's exact test (Psychometrika 12, 1947).

    Args:
        first: Whether the first model classifies each image correctly, shape (images,).
        second: The same for the second model and the same images.

    Returns:
        The number of images that only the first model classifies correctly, the number that only the second does,
        and the p-value of the hypothesis that neither is correct more often.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    unlike = only_first + only_second
    return only_first, only_second, float(stats.binomtest(only_first, unlike).pvalue) if unlike else 1.0
