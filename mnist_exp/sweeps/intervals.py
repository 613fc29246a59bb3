"""Confidence intervals and significance tests for results over a few seeds.

All intervals are based on Student's t distribution. They describe how a value varies with the seed, for a fixed
set of images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

ALPHA = 0.05
POWER = 0.8
"""The probability of detecting a difference with `Difference.enough` seeds."""
STRICT = 0.01
"""The significance level for groups of unequal spread, whose differences may be skewed."""
UNEQUAL, EXTREME = 1.5, 10.0
"""Ratios of two groups' spreads: above the first, verdicts need `STRICT`; above the second, there are none.

In simulations of 3 to 10 seeds and 2 to 6 groups, these limits keep false verdicts below 5 % for normal values and
below 7 % for exponentially distributed ones, whatever the groups' spreads (docs/comparing.md)."""
SIGN_FLIP_SEEDS = 6
"""The smallest number of seeds for which the sign-flip test can find a difference at `ALPHA`: 2 / 2⁶ = 0.031."""
# Metrics are float32: values count as equal if they differ by less than this, relative to the largest.
_SAME = 1e-6

Values = npt.NDArray[np.float64]
Verdict = Literal[
    "different",
    "indistinguishable",
    "unequal",  # withheld: significant at 5 %, but not at the level for unequal spreads
    "extreme",  # withheld: a group's spread is more than ten times another's
    "diverged",  # withheld: a run of one of the groups diverged
]


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
    smallest: float | None = None
    """The smallest difference that would be significant with these numbers of seeds and pairs and this spread."""
    enough: int | None = None
    """The number of seeds that detects a difference of this size and spread with the probability `POWER`."""
    spread_ratio: float = 1.0
    """The larger standard deviation of the two groups, divided by the smaller one."""

    @property
    def verdict(self) -> Verdict:
        """The verdict on this pair by itself."""
        if self.spread_ratio > EXTREME:
            return "extreme"
        if not self.is_real:
            return "indistinguishable"
        return "different" if self.spread_ratio <= UNEQUAL or self.p < STRICT else "unequal"

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

    The intervals use Bonferroni's method (Dunn, Multiple comparisons among means, JASA 56, 1961): the probability
    that any of them misses the true difference is at most 5 %. Holm's later steps also find differences whose
    intervals contain 0; such an interval is cut off at 0, so that it never contradicts the verdict. Each interval
    by itself still has a coverage of at least 95 %. All verdicts and intervals together are correct with a
    probability of at least 90 %, as 5 % is allowed for each of the two (in simulations, 91.6 % at worst).
    Intervals that share Holm's 5 % would often show no more than the sign (Strassburger and Bretz, Statistics in
    Medicine 27, 2008).

    If a pair has the same difference for all seeds, it has no interval and is not significant: two seeds on few
    images may agree by chance.

    Args:
        pairs: Lists of equal length with the values of the same two or more seeds.
    """
    count = len(pairs)
    if not count:
        return []
    by_seed = [np.subtract(first, second, dtype=float) for first, second in pairs]
    means = np.array([values.mean() for values in by_seed])
    freedom = np.array([len(values) - 1 for values in by_seed])
    errors = np.array([values.std(ddof=1) / len(values) ** 0.5 for values in by_seed])
    same = np.array([_is_constant(*pair) for pair in pairs])
    t = np.divide(np.abs(means), errors, out=np.zeros(count), where=~same)
    p = holm(2 * stats.t.sf(t, freedom))
    margins = stats.t.ppf(1 - ALPHA / (2 * count), freedom) * errors
    ratios = np.array([_spread_ratio(*pair) for pair in pairs])
    levels = np.where(ratios > UNEQUAL, STRICT, ALPHA)
    smallest = stats.t.ppf(1 - levels / (2 * count), freedom) * errors
    low, high = _cut_intervals(means, margins, p < ALPHA)
    return [
        Difference(
            len(values),
            float(mean),
            None if alike else (float(bottom), float(top)),
            float(chance),
            None if alike else float(least),
            None if alike else sample_size(float(mean), float(values.std(ddof=1)), level / count),
            float(ratio),
        )
        for values, mean, alike, bottom, top, chance, least, level, ratio in zip(
            by_seed, means, same, low, high, p, smallest, levels, ratios, strict=True
        )
    ]


def sample_size(mean: float, deviation: float, alpha: float) -> int | None:
    """Return the number of seeds with which a paired t test detects a mean difference with a probability of 80 %.

    This is the normal approximation with Guenther's correction for the t test (Sample size formulas for normal
    theory t tests, The American Statistician 35, 1981).

    Args:
        mean: The true mean of the differences; None is returned for 0.
        deviation: The standard deviation of the differences.
        alpha: The significance level of the two-sided test.
    """
    if not mean:
        return None
    z = NormalDist().inv_cdf(1 - alpha / 2)  # SciPy's takes a hundred times as long
    n = ((z + NormalDist().inv_cdf(POWER)) * deviation / mean) ** 2 + z**2 / 2
    return max(2, math.ceil(n)) if math.isfinite(n) else None


def _is_constant(first: Sequence[float], second: Sequence[float]) -> bool:
    """Return whether the difference is the same for all seeds."""
    return bool(np.ptp(np.subtract(first, second, dtype=float)) <= _SAME * np.abs([first, second]).max())


def _cut_intervals(means: Values, margins: Values, is_real: npt.NDArray[np.bool_]) -> tuple[Values, Values]:
    """Return the bounds of the intervals; those of significant differences are cut off at 0."""
    low, high = means - margins, means + margins
    low[is_real & (means > 0)] = low[is_real & (means > 0)].clip(min=0)
    high[is_real & (means < 0)] = high[is_real & (means < 0)].clip(max=0)
    return low, high


def _spread_ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the ratio of the larger to the smaller standard deviation; infinite if only one of them is 0."""
    large, small = max(np.std(first), np.std(second)), min(np.std(first), np.std(second))
    negligible = _SAME * float(max(np.abs(first).max(), np.abs(second).max()))
    if small > negligible:
        return float(large / small)
    return 1.0 if large <= negligible else np.inf


def verdicts(tested: Sequence[Difference]) -> list[Verdict]:
    """Return the verdict on each of several pairs that were tested together.

    If one group's spread is more than ten times another's, no verdict is reliable, and all are withheld.
    """
    if any(difference.verdict == "extreme" for difference in tested):
        return ["extreme"] * len(tested)
    return [difference.verdict for difference in tested]


def sign_flip(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Test a paired difference by flipping the signs of all subsets of the seeds' differences.

    Unlike the t test, it does not assume normality, only that differences are as likely too large as too small.

    Returns:
        The two-sided p-value (exact for up to 14 seeds, else from 16,384 random flips); None if there are too few
        seeds to ever show a difference.
    """
    if len(first) < SIGN_FLIP_SEEDS:
        return None
    tested = stats.permutation_test(
        (np.subtract(first, second, dtype=float),), np.mean, permutation_type="samples", n_resamples=2**14, rng=0
    )
    return float(tested.pvalue)


def holm(p: Values) -> Values:
    """Adjust the p-values of several tests by Holm's method, so that each can be compared with `ALPHA` itself."""
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
