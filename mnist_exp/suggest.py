"""Suggest valid names for mistyped ones."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, candidates: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the candidate that `name` was probably meant to be, ignoring case; None if none is similar.

    Args:
        name: The mistyped name.
        candidates: The valid names.
        cutoff: The minimum similarity, from 0 to 1, as defined by `difflib`.
    """
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    matches = get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[matches[0]] if matches else None


def near_or_all(name: str, candidates: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)`, or `; choose from x, y, …` if no candidate is similar."""
    candidates = sorted(candidates)
    return did_you_mean(name, candidates) or f"; choose from {', '.join(candidates)}"


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)`, or an empty string if no candidate is similar."""
    match = nearest(name, candidates)
    return f" (did you mean '{match}'?)" if match else ""
