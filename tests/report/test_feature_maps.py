"""Pictures of a model's internals show the values that they are given."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from mnist_exp.report import feature_maps

DIGIT = np.zeros((1, 28, 28, 1), np.uint8)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def where(picture: np.ndarray, colour: np.ndarray) -> tuple[slice, slice]:
    """Return the box around the pixels of a colour, without the colour bar at the right."""
    same = (np.abs(picture[:, :-96] - 255 * np.asarray(colour)[:3]) < 2).all(axis=2)
    rows, columns = np.flatnonzero(same.any(axis=1)), np.flatnonzero(same.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


@pytest.mark.parametrize("shape", [(7, 7), (5, 9), (28, 28), (1, 6), (64, 60), (300, 200)])
def test_each_value_of_a_map_is_where_it_was(tmp_path: Path, shape: tuple[int, int]):
    """Each value is a block of its colour at its place in the map; large maps are reduced."""
    maps = np.zeros((1, *shape, 3), np.float32)
    maps[0, 0, 2, 1] = 5
    feature_maps.responses(DIGIT, ["test 0\n0"], maps, 1, "title", tmp_path / "maps.png")
    picture = pixels(tmp_path / "maps.png")
    colours = matplotlib.colormaps["viridis"]
    (top, left), (row, column) = where(picture, colours(0.0)), where(picture, colours(1.0))
    side = max(1, round(56 / max(shape)))
    if max(shape) <= 224:
        assert (row.stop - row.start, column.stop - column.start) == (side, side)
        assert (top.stop - top.start, left.stop - left.start) == (side * shape[0], side * shape[1])
        assert (row.start - top.start, column.start - left.start) == (0, 2 * side)
    else:
        assert max(top.stop - top.start, left.stop - left.start) == 224


def test_white_is_a_weight_of_0(tmp_path: Path):
    """Positive weights are red and negative ones blue, however they are distributed."""
    weights = np.zeros((3, 3, 1, 1), np.float32)
    weights[0, 0], weights[2, 2] = -1, 0.5
    feature_maps.filters(weights, ["input 0"], None, "title", tmp_path / "filters.png")
    picture = pixels(tmp_path / "filters.png")
    tile = where(picture, matplotlib.colormaps["RdBu_r"](0.0))  # the blue one: top left
    size = tile[0].stop - tile[0].start
    row, column = tile[0].start + size // 2, tile[1].start + size // 2
    assert picture[row + size, column + size].min() > 240  # the middle
    red, _, blue = picture[row + 2 * size, column + 2 * size].astype(int)
    assert red > blue + 40


@pytest.mark.parametrize(
    "shape",
    [(3, 3, 1, 40), (3, 3, 20, 30), (28, 28, 1, 200), (7, 1, 3, 2), (1, 9, 5, 1), (3, 3, 1, 1)],
)
def test_omitted_channels_are_reported(
    tmp_path: Path, shape: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
):
    """The title says how many are shown and how they were selected, unless all are."""
    titles: list[str] = []
    new_figure = feature_maps.new_figure

    def listen(width: float, height: float, title: str, **more: bool) -> object:
        titles.append(title)
        return new_figure(width, height, title, **more)

    monkeypatch.setattr(feature_maps, "new_figure", listen)
    weights = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    names = [f"input {number}" for number in range(shape[2])]
    for channels in (4, None):
        feature_maps.filters(weights, names, channels, "title", tmp_path / f"{channels}.png")
        most = (channels, channels) if shape[2] > 1 else (None, channels and channels**2)
        left_out = any(limit and limit < there for limit, there in zip(most, shape[2:], strict=True))
        assert (" of " in titles[-1]) == left_out
        assert ("those with the largest weights" in titles[-1].replace("\n", " ")) == left_out


def test_all_zeros_can_be_drawn(tmp_path: Path):
    """Dead units, empty images and maps without evidence raise no error."""
    feature_maps.filters(np.zeros((3, 3, 2, 2)), ["a", "b"], 12, "t", tmp_path / "filters.png")
    feature_maps.responses(DIGIT, ["x"], np.zeros((1, 4, 4, 2)), 12, "t", tmp_path / "maps.png")
    feature_maps.responses(DIGIT, ["x"], np.zeros((1, 600)), 12, "t", tmp_path / "units.png")
    feature_maps.responses(DIGIT, ["x"], np.zeros((1, 5, 3)), 12, "t", tmp_path / "steps.png")
    feature_maps.class_activation(
        DIGIT, ["x"], [feature_maps.Evidence(0, "for $x$ 1", np.zeros((28, 28)))], None, "t", tmp_path / "cam.png"
    )
    colour = np.zeros((8, 8, 3), np.uint8)
    feature_maps.receptive_fields(
        colour, [feature_maps.ReceptiveField("c", (None, (0, 3)), (None, None))], "t", tmp_path / "fields.png"
    )
    assert all(pixels(file).std() > 0 for file in tmp_path.glob("*.png"))
    assert len(list(tmp_path.glob("*.png"))) == 6
