"""The plots of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mnist_exp.config.schema import TrainConfig
from mnist_exp.report import search_plots
from mnist_exp.report.figure import resolution
from mnist_exp.report.search_plots import Point
from mnist_exp.runs.directory import PLOTS
from mnist_exp.sweeps.leaderboard import METRIC, Outcome, swept_values


def draw_sweep(
    outcomes: Sequence[Outcome], swept: Sequence[str], config: TrainConfig, directory: Path
) -> list[Path]:
    """Draw a sweep's jobs by their validation accuracy and, for several keys, parallel coordinates.

    Returns the files. Nothing is drawn if the config selects no plots, or no job has an accuracy.
    """
    points = [Point(number, swept_values(outcome, swept), outcome.val) for number, outcome in enumerate(outcomes)]
    if not config.drawn_plots or all(point.result is None for point in points):
        return []
    folder, title = directory / PLOTS, directory.name
    folder.mkdir(exist_ok=True)
    files = [folder / "jobs.png"]
    with resolution(config.plots.dpi):
        search_plots.ranking(points, METRIC, maximizes=True, title=title, path=files[0])
        if sum(len({point.values[key] for point in points}) > 1 for key in swept) > 1:
            files.append(folder / "parallel_coordinates.png")
            search_plots.parallel_coordinates(points, METRIC, maximizes=True, title=title, path=files[1])
    return files
