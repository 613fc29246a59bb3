"""Tables of a search's trials: all of them as CSV, and the best ones for display."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from mnist_exp.sweeps.optuna_study import Trial
from mnist_exp.sweeps.report_target import TABLE as TABLE
from mnist_exp.sweeps.search import Search

_SHOWN = 10  # maximum number of trials in the printed table


def rank_trials(search: Search, trials: Sequence[Trial]) -> list[Trial]:
    """Return the ended trials: finished ones by value, best first, then pruned, then failed ones."""
    order = ["finished", "pruned", "failed"]
    sign = -1 if search.maximizes else 1
    ended = [trial for trial in trials if trial.state in order]
    return sorted(ended, key=lambda trial: (order.index(trial.state), sign * (trial.value or 0.0), trial.number))


def best_trial(search: Search, trials: Sequence[Trial]) -> Trial | None:
    """Return the finished trial with the best value; of equal ones, the earliest."""
    return next((trial for trial in rank_trials(search, trials) if trial.state == "finished"), None)


def shorten(value: str) -> str:
    """Round a number to four significant digits; return integers and other text unchanged."""
    try:
        return value if value.lstrip("+-").isdigit() else f"{float(value):.4g}"
    except ValueError:
        return value


def format_csv(search: Search, order: Sequence[Trial]) -> str:
    """Return the table of all trials as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", search.metric, *search.space.keys, "seconds", "reason"])
    for trial in sorted(order, key=lambda trial: trial.number):
        writer.writerow(
            [trial.number, trial.state, trial.value, *trial.values.values(), trial.seconds, trial.reason]
        )
    return text.getvalue()


def format_best_trials(search: Search, order: Sequence[Trial]) -> tuple[list[str], list[list[str]]]:
    """Return the header and rows of the table of the best trials."""
    header = ["trial", "state", search.metric, *search.space.keys, "seconds"]
    rows = [
        [
            str(trial.number), trial.state, search.format_value(trial.value), *map(shorten, trial.values.values()),
            "–" if trial.seconds is None else f"{trial.seconds:.1f}",
        ]
        for trial in order[:_SHOWN]
    ]  # fmt: skip
    return header, rows
