"""Plots: texts that come from files, many classes, one epoch."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnist_exp.report import charts, confusion_plots, fonts, plots
from mnist_exp.report.figure import DPI, new_figure, resolution, wrap_title, write


def size(file: Path) -> tuple[int, int]:
    with Image.open(file) as image:
        return image.size


def draw_mistakes(folder: Path, names: list[str], shape: tuple[int, int, int] = (8, 8, 1)) -> None:
    """Draw the two pictures of a test set in which every second image is misclassified."""
    labels = np.arange(2 * len(names)) % len(names)
    predicted = np.where(np.arange(len(labels)) < len(names), labels, (labels + 1) % len(names))
    probabilities = np.eye(len(names), dtype=np.float32)[predicted]
    plots.confusion_matrix(labels, predicted, names, "title", folder / "matrix.png")
    images = np.zeros((len(labels), *shape), np.uint8)
    plots.misclassified(images, labels, probabilities, names, "title", folder / "misclassified.png")


@pytest.mark.parametrize(
    ("title", "lines"),
    [("aaaa bbbb · cccc dddd · eeee", ["aaaa bbbb · cccc dddd", "eeee"]), ("aaaa bbbb cccc ddd · eeee", ["aaaa bbbb cccc ddd", "eeee"]),
     ("a\n\nb", ["a", "", "b"])],
)  # fmt: skip
def test_no_line_of_a_title_begins_or_ends_with_a_separator(title: str, lines: list[str]):
    """Lines of two inches have 22 characters."""
    assert wrap_title(title, 2).split("\n") == lines


def test_control_characters_are_escaped(tmp_path: Path):
    """They have no glyphs: Matplotlib would warn, which is an error in tests."""
    strange = "\x1b[31mred\x07"
    labels = np.array([0, 1, 1])
    plots.confusion_matrix(labels, labels[::-1], [strange, "two"], f"title {strange}", tmp_path / "matrix.png")
    plots.misclassified(
        np.zeros((3, 4, 4, 1), np.uint8),
        labels,
        np.eye(2)[labels[::-1]],
        (strange, "two"),
        strange,
        tmp_path / "x.png",
    )
    assert {file.name for file in tmp_path.glob("*.png")} == {"matrix.png", "x.png"}


@pytest.mark.parametrize("installed", [True, False])
def test_names_of_any_script_are_drawn_without_warnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
):
    """Whether a font with their characters is installed or not; Matplotlib's own warnings are errors here."""
    if not installed:
        monkeypatch.setattr(fonts, "_installed_fonts", dict)
    monkeypatch.setattr(fonts, "warn", lambda message: None)
    fonts.font_with.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_mistakes(tmp_path, ["犬", "うさぎ", "кошка", "كلب", "🐕"])
        figure = new_figure(4, 2, "犬の写真")
        figure.add_subplot().text(0.5, 0.5, "犬 conv2d", family="monospace")
        write(figure, tmp_path / "x.png")
    fonts.font_with.cache_clear()
    assert len(list(tmp_path.glob("*.png"))) == 3


@pytest.mark.parametrize("classes", [2, 11, 31, 61, 300])
def test_pictures_of_many_classes_have_a_readable_size(tmp_path: Path, classes: int):
    """They fit on a screen, also with long names."""
    draw_mistakes(tmp_path, [f"a-class-with-a-long-name-{number}" for number in range(classes)], (64, 64, 3))
    for file in tmp_path.glob("*.png"):
        width, height = size(file)
        assert width <= 1500, file
        assert height <= 1500 + 1000 * (file.name == "misclassified.png"), file


def test_the_resolution_scales_pictures(tmp_path: Path):
    """It applies to figures created in its block only."""
    for name, dpi in (("a", DPI), ("b", 2 * DPI)):
        with resolution(dpi):
            plots.learning_rate(np.linspace(0, 1, 5, dtype=np.float32), 5, "title", tmp_path / f"{name}.png")
    assert size(tmp_path / "b.png") == tuple(2 * side for side in size(tmp_path / "a.png"))


def test_long_comparisons_name_the_best_groups(tmp_path: Path):
    """The legend lies below the curves and makes the picture taller, up to a limit."""
    history = [{"epoch": epoch, "val/loss": 1 / epoch} for epoch in range(1, 4)]
    heights = []
    for count in (2, 12, 40):
        groups = [(f"{number}  optimizer.learning_rate=0.001", [history, history]) for number in range(count)]
        plots.comparison(groups, "val/loss", "title", tmp_path / f"{count}.png")
        heights.append(size(tmp_path / f"{count}.png")[1])
    assert heights[0] < heights[1] < heights[2] < heights[1] + 50


def test_a_long_setting_leaves_the_picture_readable(tmp_path: Path):
    """A group's label can contain a list of thousands of layers."""
    history = [{"epoch": epoch, "val/accuracy": 0.5} for epoch in (1, 2)]
    for name, label in (("short", "model=linear"), ("long", "layers=" + "Flatten, " * 20_000)):
        plots.comparison([(label, [history])], "val/accuracy", "title", tmp_path / f"{name}.png")
    assert size(tmp_path / "long.png")[1] < 2 * size(tmp_path / "short.png")[1]


def test_both_confusion_matrices_have_the_same_colours(tmp_path: Path):
    """Correct predictions and the most frequent mistakes have the colours of the interactive chart in the picture."""
    counts = [[10, 0, 0], [0, 5, 5], [0, 1, 9]]
    names = ["a", "b", "c"]
    confusion_plots.draw_confusion(np.array(counts), names, "t", tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    [colours] = re.findall(r'\["colour", (\[[^]]*\])\]', json.dumps(charts.confusion(counts, names)))
    for colour in set(json.loads(colours)):
        expected = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        assert (np.abs(pixels - expected).max(axis=1) <= 3).sum() > 500, colour
