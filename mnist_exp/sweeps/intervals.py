"""What a few seeds say about a mean, and about differences of means.

All intervals are Student's: of how much the value varies with the seed, on the images that there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

ALPHA = 0.05
# Metrics are float32: what differs by less, relative to the largest, is the same.
_SAME = 1e-6

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mean:
    """The mean of n values, their standard deviation, and the 95 % interval of the mean.

    One value has neither; values that are all the same have no interval, as they tell nothing about others.
    """

    n: int
    mean: float
    deviation: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Difference:
    """A mean difference, its interval, and p; both are corrected for the number of differences asked about."""

    n: int
    mean: float
    interval: tuple[float, float] | None
    p: float

    @property
    def is_real(self) -> bool:
        """Whether it can be told from none."""
        return self.p < ALPHA


def mean_of(values: Sequence[float]) -> Mean:
    """Summarize at least one value."""
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
    """What paired t tests say about each pair of value lists (as long as each other, at least two seeds).

    The verdicts (`is_real`) are Holm's (A simple sequentially rejective multiple test procedure, Scandinavian
    Journal of Statistics 6, 1979): the chance that any of them finds a difference where there is none is at most
    5 %, however many pairs there are.

    The intervals are Bonferroni's (Dunn, Multiple comparisons among means, JASA 56, 1961): the chance that any of
    them misses is at most 5 %. Holm's later steps find differences that these do not exclude; the interval ends
    at 0 then, so that it never contradicts the verdict. Each by itself still covers with 95 % at least. Verdicts
    and intervals together are all right with at least 90 %, 5 % for each of the two (in simulations, 91.6 % at
    the worst): intervals that share Holm's 5 % would often say no more than the sign (Strassburger and Bretz,
    Statistics in Medicine 27, 2008).

    Differences that are all the same have no interval and are not real: two seeds on few images agree by chance.
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
    """Holm's p, to be compared with `ALPHA` itself, for p of as many tests."""
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    corrected = np.empty(len(p))
    corrected[order] = steps.clip(max=1)
    return corrected


def mcnemar(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> tuple[int, int, float]:
    """For two models' right answers on the same images (n,): how often only the first is right, how often only
    the second, and McNemar's exact p that neither is right more often (Psychometrika 12, 1947).
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    unlike = only_first + only_second
    return only_first, only_second, float(stats.binomtest(only_first, unlike).pvalue) if unlike else 1.0
