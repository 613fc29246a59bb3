"""The charts of MLflow's runs page in the views that `mnist-exp ui` shares.

By default, MLflow sorts sections of charts by the names of the metrics: `best/…` and `test/…`, with one value
each, come before the curves `train/…` and `val/…`. On a run's own page, nothing in the store changes this order.
Here, the curves come first, with training and validation in one chart, and single values are collapsed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CURVES = (("val/accuracy", "train/accuracy"), ("val/loss", "train/loss"), ("learning_rate",))
_RESULTS = ("test/accuracy", "best/val/accuracy", "time/total")
# The sections that MLflow would create, displayed, for the charts that it adds for the other metrics and images.
_COLLAPSED = ("best", "best/val", "test", "time", "train", "val", "watch", "Model metrics", "System metrics")
_MAPS_HEIGHT = 560  # pixels
_MOST_MAPS = 12  # charts of feature maps

Charts = dict[str, Any]
"""The fields of a view's state that describe its charts."""


def chart_runs() -> Charts:
    """Return the charts of several runs: their curves, and bars of their results."""
    results = [_chart("BAR", "results", number, metricKey=key) for number, key in enumerate(_RESULTS)]
    return _charts([*_curves(), *results], [_section("curves", "Curves", 2), _section("results", "Results", 2)])


def chart_run(maps: Mapping[str, int]) -> Charts:
    """Return the charts of one run: its curves and feature maps.

    Args:
        maps: The series of images with the feature maps, and the step of each to show first.
    """
    images = [
        _chart("IMAGE", "maps", number, imageKeys=[key], step=step, showRunParams=False)
        for number, (key, step) in enumerate([*maps.items()][:_MOST_MAPS])
    ]
    sections = [_section("curves", "Curves", 2)]
    if images:
        sections.append({**_section("maps", "Feature maps", 2), "cardHeight": _MAPS_HEIGHT})
    return _charts([*_curves(), *images], sections)


def _curves() -> list[dict[str, Any]]:
    # Without the last two fields, the settings of the page's axis and smoothing would not apply to the charts.
    return [
        _chart(
            "LINE",
            "curves",
            number,
            metricKey=keys[0],
            selectedMetricKeys=[*keys],
            useGlobalXaxisKey=True,
            useGlobalLineSmoothing=True,
        )
        for number, keys in enumerate(_CURVES)
    ]


def _chart(kind: str, section: str, number: int, **settings: Any) -> dict[str, Any]:
    return {"type": kind, "uuid": f"{section}-{number}", "metricSectionId": section, **settings}


def _section(identifier: str, name: str, columns: int, *, display: bool = True) -> dict[str, Any]:
    return {"uuid": identifier, "name": name, "display": display, "isReordered": True, "columns": columns}


def _charts(charts: list[dict[str, Any]], sections: list[dict[str, Any]]) -> Charts:
    collapsed = [_section(name, name, 3, display=False) for name in _COLLAPSED]
    return {
        "compareRunCharts": charts,
        "compareRunSections": [*sections, *collapsed],
        "isAccordionReordered": True,  # otherwise, MLflow sorts the sections by name
    }
