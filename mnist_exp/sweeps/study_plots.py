"""Optuna's plots of a study."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from mnist_exp.report.figure import pyplot_figure

# Importances computed from fewer trials are meaningless.
_FEWEST_TRIALS = 4


def draw_study(study: optuna.Study, metric: str, folder: Path) -> list[Path]:
    """Draw the history, slices, parallel coordinates and, with enough trials, importances; return the files."""
    from optuna.visualization import matplotlib as plots

    pictures: dict[str, Callable[..., Any]] = {
        "history": plots.plot_optimization_history,
        "slices": plots.plot_slice,
        "parallel_coordinates": plots.plot_parallel_coordinate,
    }
    if importances(study):
        pictures["importances"] = plots.plot_param_importances
    folder.mkdir(exist_ok=True)
    wide = max(6.4, 2.4 * len(study.best_params) + 1.6)
    drawn = []
    for name, plot in pictures.items():
        more = {} if name == "importances" else {"target_name": metric}
        with (
            warnings.catch_warnings(),
            pyplot_figure(
                wide if name in ("slices", "parallel_coordinates") else 6.4,
                study.study_name,
                folder / f"{name}.png",
            ),
        ):
            warnings.simplefilter("ignore")
            axes = plot(study, **more)
            for one in np.atleast_1d(axes) if name == "slices" else ():
                one.tick_params(axis="x", which="both", labelrotation=60, labelsize="x-small")
        drawn.append(folder / f"{name}.png")
    return drawn


def importances(study: optuna.Study) -> dict[str, float]:
    """Return the importance of each dimension, summing to 1; empty for few trials, or if all values are equal."""
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(finished) < _FEWEST_TRIALS or len({trial.value for trial in finished}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.importance.get_param_importances(study)
