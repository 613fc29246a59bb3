"""The views of MLflow's runs page that `mnist-exp ui` opens: the table of all runs, and the charts of one run.

MLflow keeps each shared view as a tag of the experiment, and restores the one that an address names, without
changing the user's own view. The format of these tags is not documented. Only this module writes them, and
`tests/tracking/test_runs_view.py` compares them with the installed MLflow's UI.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mnist_exp.runs.directory import SWEEPS
from mnist_exp.runs.events import ImageEvent, ParamsEvent
from mnist_exp.runs.journal import FILE, read
from mnist_exp.runs.sweep_file import SWEEP_FILE, read_sweep
from mnist_exp.tracking.mlflow_names import image_key
from mnist_exp.tracking.run_charts import chart_run, chart_runs
from mnist_exp.tracking.server import post

TAG = "mlflow.sharedViewState."
"""The beginning of the name of an experiment's tag that contains a view; the view's key follows."""
PARAMETER = "viewStateShareKey"
"""The parameter of the page's address that contains a view's key."""
CHART_MODE = "compareRunsMode=CHART"
"""The parameter of the page's address that selects charts instead of the table."""
_KEY = "mnist-exp"
# Widths of columns in pixels. On a fresh browser profile, MLflow's Assistant covers the right quarter of the page;
# on a page of 1440 pixels, these columns and one for a swept key fit next to it.
_LEFT = {
    "attributes.`Run Name`": 230,
    "runDateAndNestInfo": 40,
}  # of the latter, the icon of the status is visible
_RESULTS = {
    "metrics.`test/accuracy`": 74,
    "metrics.`best/val/accuracy`": 74,
    "params.`model.name`": 74,
    "params.`aug.name`": 84,
}
_SWEPT_WIDTH = 68
_SECONDS = {"metrics.`time/total`": 72}
_DURATION = {"duration": 68}  # last, as it repeats the seconds
_MOST_SWEPT = 3  # columns of swept keys, those of the newest sweep first
# The parameters that state the chosen options of groups.
_OPTIONS = {group: f"{group}.name" for group in ("model", "aug", "preprocess", "data", "debug")} | {
    group: f"{group}.type" for group in ("optimizer", "schedule")
}


def share_runs_view(address: str, experiment: str, swept: Sequence[str]) -> str:
    """Create or update the view in an experiment of a server, and return the address parameter that selects it.

    Args:
        address: The server's address, perhaps with credentials.
        experiment: The experiment's id.
        swept: The swept keys to show.

    Raises:
        OSError: There is no answer (`URLError`), or one with another status than 200 (`HTTPError`).
    """
    _share(address, experiment, _KEY, view_state(swept))
    return f"{PARAMETER}={_KEY}"


def share_run_charts(address: str, experiment: str, run_id: str, maps: Mapping[str, int]) -> str:
    """Create or update the view of a run's charts, and return the address parameters that select it.

    Each run has a view of its own, so that an address always shows the same run.

    Args:
        address: The server's address, perhaps with credentials.
        experiment: The experiment's id.
        run_id: The run's id, which the server has confirmed.
        maps: The run's series of feature maps and the last step of each, from `find_feature_maps`.

    Raises:
        OSError: There is no answer (`URLError`), or one with another status than 200 (`HTTPError`).
    """
    key = f"{_KEY}-{run_id}"
    _share(address, experiment, key, run_charts_state(run_id, maps))
    return f"{CHART_MODE}&{PARAMETER}={quote(key, safe='')}"


def _share(address: str, experiment: str, key: str, state: Mapping[str, Any]) -> None:
    tag = {"experiment_id": experiment, "key": f"{TAG}{key}", "value": json.dumps(state)}
    post(address, "experiments/set-experiment-tag", tag, timeout=10)


def view_state(swept: Sequence[str]) -> dict[str, Any]:
    """Return the state of the runs page: results and swept keys as columns, the best run first."""
    keys = {f"params.`{_OPTIONS.get(key, key)}`": _SWEPT_WIDTH for key in swept}
    selected = _RESULTS | {name: width for name, width in keys.items() if name not in _RESULTS} | _SECONDS
    widths = {**_LEFT, **selected, **_DURATION}
    columns = {"selectedColumns": [*selected], "columnOrder": [*widths], "columnWidths": widths}
    return {**_facets(), **columns, **chart_runs()}


def run_charts_state(run_id: str, maps: Mapping[str, int]) -> dict[str, Any]:
    """Return the state of the runs page that shows the charts of one run, without the list of runs."""
    return {**_facets(f"attributes.run_id = '{run_id}'"), **chart_run(maps), "runListHidden": True}


def _facets(search_filter: str = "") -> dict[str, Any]:
    """Return the part of a state that selects and orders runs: by default all runs, the best one first."""
    return {
        "orderByKey": "metrics.`best/val/accuracy`",  # ordered by a metric, jobs are not folded under their sweep
        "orderByAsc": False,
        "searchFilter": search_filter,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
    }


def find_feature_maps(run: Path) -> dict[str, int]:
    """Return a run's series of images in MLflow and the last step of each; none if its journal is damaged."""
    try:
        events = read(run)
    except (OSError, ValueError):
        return {}
    return {image_key(event.key): event.step for event in events if isinstance(event, ImageEvent)}


def find_swept_keys(outputs: Path) -> list[str]:
    """Return the keys that the sweeps and studies of an output folder vary, those of the newest first."""
    folders = [file.parent for file in (outputs / SWEEPS).glob(f"*/{FILE}")]
    folders += [file.parent for file in (outputs / SWEEPS).glob(f"*/{SWEEP_FILE}") if file.parent not in folders]
    found = [_keys_of_sweep(folder) or _read_study(folder) for folder in folders]
    newest_first = sorted(filter(None, found), reverse=True)
    return list(dict.fromkeys(key for _, keys in newest_first for key in keys))[:_MOST_SWEPT]


def _keys_of_sweep(folder: Path) -> tuple[float, list[str]] | None:
    """Return when a sweep started and its swept keys; None if its description is missing or damaged."""
    sweep = read_sweep(folder)
    return None if sweep is None else (sweep.started, list(_valid_keys(sweep.swept)))


def _read_study(directory: Path) -> tuple[float, list[str]] | None:
    """Return when a study started and its searched keys, from its journal; None if the journal is damaged."""
    try:
        events = read(directory)[:2]
    except (OSError, ValueError):
        return None
    keys = [key.lstrip("+") for event in events if isinstance(event, ParamsEvent) for key in event.values]
    return (events[0].time / 1000, list(_valid_keys(keys))) if keys else None


def _valid_keys(keys: Iterable[str]) -> Iterable[str]:
    return (key for key in keys if re.fullmatch(r"[\w.]{1,100}", key))
