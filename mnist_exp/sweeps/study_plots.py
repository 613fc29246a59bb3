"""The plots of a study."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import TrialState

from mnist_exp.report import search_plots
from mnist_exp.report.figure import resolution
from mnist_exp.report.search_plots import Point
from mnist_exp.sweeps.optuna_study import Study, Trial
from mnist_exp.sweeps.search import Search
from mnist_exp.sweeps.trial_table import shorten

# Importances computed from fewer trials are meaningless.
_FEWEST_TRIALS = 4


def draw_study(search: Search, study: Study, trials: Sequence[Trial], folder: Path) -> list[Path]:
    """Draw the history, slices, parallel coordinates and, with enough trials, importances; return the files.

    Nothing is drawn if the config selects no plots.
    """
    if not search.config.plots.draw:
        return []
    points = [
        Point(
            trial.number,
            {key: shorten(value) for key, value in trial.values.items()},
            None if trial.state == "failed" else trial.value,
            trial.state == "finished",
        )
        for trial in trials
    ]
    title, metric, maximizes = study.optuna.study_name, search.metric, search.maximizes
    pictures = {
        "history": partial(search_plots.history, points, metric, maximizes=maximizes),
        "slices": partial(search_plots.slices, points, metric),
        "parallel_coordinates": partial(search_plots.parallel_coordinates, points, metric, maximizes=maximizes),
    }
    if shares := importances(study.optuna):
        pictures["importances"] = partial(search_plots.importances, shares)
    folder.mkdir(exist_ok=True)
    with resolution(search.config.plots.dpi):
        for name, draw in pictures.items():
            draw(title=title, path=folder / f"{name}.png")
    return [folder / f"{name}.png" for name in pictures]


def importances(study: optuna.Study) -> dict[str, float]:
    """Return the importance of each dimension, summing to 1; empty for few trials, or if all values are equal."""
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(finished) < _FEWEST_TRIALS or len({trial.value for trial in finished}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.importance.get_param_importances(study)
