"""Pictures of sweeps and searches."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from mnist_exp.report import search_plots
from mnist_exp.report.search_plots import Point

KEYS = ("optimizer.learning_rate", "model.layers.0.filters", "aug", "training.early_stopping.patience")


def points(count: int) -> list[Point]:
    """Return points with numbers, choices, and null among numbers; some pruned, some without a result."""
    values = [
        (f"{10 ** -(1 + number % 4)}", str(number + 8), ("none", "elastic")[number % 2], ("null", "3")[number % 2])
        for number in range(count)
    ]
    return [
        Point(number, dict(zip(KEYS, one, strict=True)), None if number == 5 else 0.9 + number / 1000, number != 6)
        for number, one in enumerate(values)
    ]


def draw_all(of: list[Point], metric: str, folder: Path) -> None:
    folder.mkdir()
    search_plots.history(of, metric, maximizes=True, title="title", path=folder / "history.png")
    search_plots.slices(of, metric, "title", folder / "slices.png")
    search_plots.parallel_coordinates(of, metric, maximizes=False, title="title", path=folder / "parallel.png")
    search_plots.ranking(of, metric, maximizes=True, title="title", path=folder / "ranking.png")


@pytest.mark.parametrize("metric", ["val/accuracy", "val/loss"])
@pytest.mark.parametrize("count", [1, 3, 100])
def test_any_number_of_trials_is_drawn(tmp_path: Path, count: int, metric: str):
    """Also a single one, pruned and failed ones, and keys with numbers, names and null."""
    draw_all(points(count), metric, tmp_path / "plots")
    for file in (tmp_path / "plots").iterdir():
        with Image.open(file) as image:
            assert max(image.size) < 2000, file
    assert len(list((tmp_path / "plots").iterdir())) == 4


@pytest.mark.parametrize(
    ("metric", "least", "step"),
    [("val/accuracy", 0.945, 0.004), ("val/accuracy", 0.99912, 0.00001), ("val/loss", 2.3021, 0.00002)],
)
def test_labels_of_the_results_do_not_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, least: float, step: float
):
    """However close the results are, each label has its place below the axis."""
    figures: list[Figure] = []
    monkeypatch.setattr(search_plots, "write", lambda figure, *rest, **more: figures.append(figure))
    jobs = [Point(number, {"seed": str(number)}, least + step * number) for number in range(9)]
    search_plots.ranking(jobs, metric, maximizes=True, title="t", path=tmp_path)
    [figure] = figures
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert len(boxes) >= 3
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_names_of_keys_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Long keys are wrapped, not cut; the best job is named first in the ranking."""
    texts: list[str] = []
    monkeypatch.setattr(
        search_plots,
        "write",
        lambda figure, *rest, **more: texts.extend(text.get_text() for text in figure.findobj(Text)),
    )
    some = points(4)
    for draw in (
        lambda: search_plots.parallel_coordinates(some, "val/loss", maximizes=True, title="t", path=tmp_path),
        lambda: search_plots.slices(some, "val/loss", "t", tmp_path),
        lambda: search_plots.importances(dict.fromkeys(KEYS, 0.25), "t", tmp_path),
    ):
        texts.clear()
        draw()
        assert set(KEYS) <= {text.replace("\n", "") for text in texts}
    texts.clear()
    search_plots.ranking(some, "val/loss", maximizes=True, title="t", path=tmp_path)
    listed = list(dict.fromkeys(text for text in texts if text.startswith(KEYS[0])))
    assert [text.split() for text in listed] == [point.label.split() for point in reversed(some)]


def test_pruned_trials_have_dotted_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In the parallel coordinates, on the axes of the finished ones; a trial without a value has no line."""
    drawn: list[Figure] = []
    monkeypatch.setattr(search_plots, "write", lambda figure, *rest, **more: drawn.append(figure))
    some = [*points(8), Point(8, points(8)[0].values, 0.2, is_finished=False)]
    search_plots.parallel_coordinates(some, "val/accuracy", maximizes=True, title="t", path=tmp_path)
    lines = [line for line in drawn[0].axes[0].get_lines() if len(line.get_xdata()) == len(KEYS) + 1]
    dotted = [line for line in lines if line.get_linestyle() == ":"]
    assert len(dotted) == 2  # 6 and 8
    assert len(lines) - len(dotted) == 6 + 1  # and the best one, highlighted
    assert dotted[1].get_ydata()[-1] == 0
    assert [text.get_text().split(":")[0] for text in drawn[0].legends[0].get_texts()] == ["pruned", "best"]


def test_all_of_the_best_are_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Several jobs may share the best result, as their table shows."""
    figures: list[Figure] = []
    monkeypatch.setattr(search_plots, "write", lambda figure, *rest, **more: figures.append(figure))
    some = [Point(number, {"seed": str(number)}, result) for number, result in enumerate((0.9, 0.8, 0.9, None))]
    search_plots.ranking(some, "val/accuracy", maximizes=True, title="t", path=tmp_path)
    search_plots.parallel_coordinates(some, "val/accuracy", maximizes=True, title="t", path=tmp_path)
    dots, lines = (figure.axes[0].lines for figure in figures)
    assert [dot.get_color() == search_plots.MARK for dot in dots] == [True, True, False]
    assert sum(line.get_color() == search_plots.VALIDATION for line in lines) == 2
    assert [text.get_text() for text in figures[1].legends[0].get_texts()] == ["best: seed=2 and 1 more"]
