"""The nearest valid name to one that was mistyped."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, candidates: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The candidate that `name` was probably meant to be, or None. Case does not count."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    matches = get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[matches[0]] if matches else None


def near_or_all(name: str, candidates: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or `; there are x, y, …` where no candidate is near."""
    candidates = sorted(candidates)
    return did_you_mean(name, candidates) or f"; there are {', '.join(candidates)}"


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or nothing where no candidate is near."""
    match = nearest(name, candidates)
    return f" (did you mean '{match}'?)" if match else ""
