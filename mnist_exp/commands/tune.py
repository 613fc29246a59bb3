"""`mnist-exp tune`: search a space of configs with Optuna.

Everything is checked before anything is created. Each trial is an ordinary run that is not scored on the test set;
when the search has ended, the best trial's saved model is scored on it, once.
"""

from __future__ import annotations

import time
from pathlib import Path

from mnist_exp.config.overrides import Request
from mnist_exp.engine.store_permission import permit_parent
from mnist_exp.report.documents import TuneDocument
from mnist_exp.runs.log import say, warn
from mnist_exp.sweeps.reports import add_report
from mnist_exp.sweeps.search import check_search
from mnist_exp.text import display_path


def tune(request: Request, started: float) -> TuneDocument:
    """Search, and score the best trial. Raises `RequestError` before anything is created, `WorkError` after."""
    search = check_search(request)
    permit_parent(request, search.config.tracking, Path(search.config.outputs), search.directory)
    from mnist_exp.sweeps.study import run_search  # Keras, Optuna
    from mnist_exp.sweeps.study_results import tune_document

    directory, trials = run_search(search, request.overrides)
    add_report(directory, search.config)
    say(f"{display_path(directory)}: done in {time.perf_counter() - started:.1f} s")
    if search.stands_in_for:
        warn(f"these results are for {search.config.data.name}, the fallback for {search.stands_in_for}")
    return tune_document(search, trials, directory)
