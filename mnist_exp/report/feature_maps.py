"""Plot a model's filters, feature maps, class activation maps and receptive fields.

Signed values (weights and evidence) range from blue (negative) through white to red, responses from dark to
bright. Both colour scales are safe for colour-blind readers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import Rectangle
from rich.cells import cell_len

from mnist_exp.data.dataset import Images
from mnist_exp.report.figure import DPI, new_figure, wrap_title, write
from mnist_exp.report.palette import VALIDATION

Floats = npt.NDArray[Any]
Drawn = npt.NDArray[np.float32]
"""An image ready to draw: (height, width, 3), with values 0…1."""
Span = tuple[int, int] | None

_SIGNED, _RESPONSE = "RdBu_r", "viridis"
_WIDTH = 1010  # pixels: width of a figure without tiles
_ACROSS = 900  # pixels: maximum width of a row of tiles, unless a single tile is wider
_TILE = 56  # pixels: approximate side length of a tile
_MAP = 84  # pixels: approximate side length of a class activation map
_LARGEST = 224  # pixels: larger images are scaled down
_GAP, _LINE, _CHARACTER, _BAR = 5, 18, 9, 96  # pixels: gap, text line, character, colour bar
_MOST = 256  # maximum number of rows or columns in a matrix
_PANELS = 5  # maximum number of panels in a row


@dataclass(frozen=True)
class Row:
    """Tiles side by side, with optional captions above them and a label to their left."""

    tiles: Sequence[Drawn]
    captions: Sequence[str] = ()
    label: str = ""


def filters(weights: Floats, names: Sequence[str], channels: int | None, title: str, path: Path) -> None:
    """Draw the kernels (rows, columns, inputs, outputs) of a layer on one colour scale.

    A layer with a single input has one tile per output. Otherwise each row shows the kernels of one input, and
    each column those of one output.

    Args:
        weights: The kernels.
        names: The names of the inputs.
        channels: The maximum number of inputs and of outputs (for a single input, `channels`² outputs). Those with
            the largest weights are drawn. None draws all.
        title: The title of the figure.
        path: The PNG file to write.
    """
    inputs, outputs = weights.shape[2:]
    alone = inputs == 1
    rows = _greatest(np.abs(weights).mean(axis=(0, 1, 3)), channels)
    most = channels and channels**2 if alone else channels
    columns = _greatest(np.abs(weights).mean(axis=(0, 1, 2)), most)
    scale = _signed(weights[:, :, rows][..., columns])
    fitting = _even(len(columns), min(_fitting(_side(weights.shape[:2])), channels or outputs))
    lines = [
        Row(
            [_coloured(weights[:, :, row, column], scale) for column in columns[first : first + fitting]],
            [str(column) for column in columns[first : first + fitting]] if row == rows[0] else (),
            "" if alone else names[row],
        )
        for first in range(0, len(columns), fitting)
        for row in rows
    ]
    counts = [(len(columns), outputs, "filters")]
    if not alone:
        counts = [(len(rows), inputs, "inputs"), (len(columns), outputs, "outputs")]
    _sheet(lines, f"{title}\n{_of(counts, 'largest weights')}", path, scale, "weight")


def matrix(
    values: Floats, names: Sequence[str], axes_names: tuple[str, str], what: str, title: str, path: Path
) -> None:
    """Draw values (rows, columns) as a heat map: non-spatial weights, or responses to images.

    Args:
        values: The values; at most 256 rows and columns are drawn, those with the largest mean magnitude.
        names: The names of the rows.
        axes_names: What a row and a column represent, in the singular.
        what: What a value represents; "weight" selects the signed colour scale.
        title: The title of the figure.
        path: The PNG file to write.
    """
    rows, columns = (_greatest(np.abs(values).mean(axis=1 - axis), _MOST) for axis in (0, 1))
    shown = values[rows][:, columns]
    if shown.shape != values.shape:
        pairs = zip(shown.shape, values.shape, axes_names, strict=True)
        title += "\n" + _of([(few, all_, f"{name}s") for few, all_, name in pairs], f"largest {what}s")
    scale = _signed(shown) if what == "weight" else _from_least(shown)
    figure = new_figure(_WIDTH / DPI, min(max(2.2, 0.24 * len(rows) + 1.2), 8), title)
    axes = figure.add_subplot()
    axes.imshow(scale.to_rgba(shown), aspect="auto", interpolation="nearest")
    axes.set(xlabel=axes_names[1], ylabel=axes_names[0])
    if len(rows) <= 40:
        axes.set_yticks(range(len(rows)), [names[row] for row in rows], fontsize=9)
    if len(columns) <= 40:
        axes.set_xticks(
            range(len(columns)), [str(column) for column in columns], fontsize=9 if len(columns) <= 24 else 6
        )
    figure.colorbar(scale, ax=axes, label=what, pad=0.01)
    write(figure, path)


def responses(
    images: Images,
    labels: Sequence[str],
    values: Floats,
    channels: int | None,
    title: str,
    path: Path,
    first: bool = False,
) -> None:
    """Draw a layer's outputs for images (n, …): feature maps if they have spatial axes or steps, else a heat map.

    At most `channels` feature maps are drawn per image: the first ones if `first` is set, otherwise those with the
    largest responses.
    """
    if values.ndim == 3:  # steps and channels
        values = values[..., np.newaxis]
    if values.ndim == 4 and values.shape[1] * values.shape[2] > 1:
        _feature_maps(images, labels, values, channels, title, path, first)
    else:
        names = [label.replace("\n", ": ") for label in labels]
        matrix(values.reshape(len(values), -1), names, ("image", "unit"), "response", title, path)


def _feature_maps(
    images: Images, labels: Sequence[str], maps: Floats, channels: int | None, title: str, path: Path, first: bool
) -> None:
    """Draw each image with its feature maps (n, rows, columns, channels) in one or more rows, on one scale."""
    strength = -np.arange(maps.shape[3], dtype=float) if first else np.abs(maps).mean(axis=(0, 1, 2))
    kept = _greatest(strength, channels)
    scale = _from_least(maps[..., kept])
    side = max(_side(maps.shape[1:3]), _side(images.shape[1:3]))
    fitting = _even(len(kept), max(1, _fitting(side) - 1))
    blank = np.ones((*images.shape[1:3], 3), np.float32)
    rows: list[Row] = []
    for image, label, of_image in zip(images, labels, maps, strict=True):
        for start in range(0, len(kept), fitting):
            some = kept[start : start + fitting]
            numbered = not rows or len(kept) > fitting
            rows.append(
                Row(
                    [blank if start else _drawn(image), *(_coloured(of_image[..., each], scale) for each in some)],
                    ["", *map(str, some)] if numbered else (),
                    "" if start else label,
                )
            )
    remark = _of([(len(kept), maps.shape[3], "channels")], "" if first else "largest responses")
    _sheet(rows, f"{title}\n{remark}", path, scale, "response")


@dataclass(frozen=True)
class Evidence:
    """Evidence for a class in an image: the image's index, a caption, and a map (height, width) of that image."""

    image: int
    caption: str
    map: Floats


def class_activation(
    images: Images, labels: Sequence[str], evidence: Sequence[Evidence], unit: str | None, title: str, path: Path
) -> None:
    """Overlay evidence maps on their images: red is evidence for the class, blue against it.

    `unit` is the unit of the maps, which share one scale. If it is None, each map is relative to its own maximum.
    """
    greatest = [float(np.abs(one.map).max()) for one in evidence]
    scale = _signed(np.array(greatest)) if unit else _from_white()
    blocks = [[(_drawn(image), label)] for image, label in zip(images, labels, strict=True)]
    for one, most in zip(evidence, greatest, strict=True):
        values = one.map if unit else one.map / (most or 1)
        blocks[one.image].append((_over(images[one.image], values, scale), one.caption))
    longest = _longest(caption for block in blocks for _, caption in block)
    fitting = _even(len(blocks), _fitting(_side(images.shape[1:3], _MAP), caption=longest))
    blank = (np.ones((*images.shape[1:3], 3), np.float32), "")
    rows = [
        row
        for start in range(0, len(blocks), fitting)
        for row in _rows_of_columns(blocks[start : start + fitting], blank)
    ]
    _sheet(rows, title, path, scale, unit or "relative to each map's maximum", tile=_MAP)


def _rows_of_columns(columns: Sequence[Sequence[tuple[Drawn, str]]], blank: tuple[Drawn, str]) -> list[Row]:
    """Arrange columns of captioned tiles in rows, with blank tiles below the shorter columns."""
    rows = []
    for cells in zip_longest(*columns, fillvalue=blank):
        tiles, captions = zip(*cells, strict=True)
        rows.append(Row(tiles, captions))
    return rows


@dataclass(frozen=True)
class ReceptiveField:
    """A unit's receptive field, with and without padding, as spans of rows and of columns."""

    caption: str
    reach: tuple[Span, Span]
    """The field including padding."""
    inside: tuple[Span, Span]
    """The part of the field inside the image; None if there is none."""


def receptive_fields(image: Images, fields: Sequence[ReceptiveField], title: str, path: Path) -> None:
    """Draw a panel per layer: the image with a box around a unit's receptive field, dashed in the padding."""
    rows = -(-len(fields) // _PANELS)
    columns = -(-len(fields) // rows)
    figure = new_figure(max(4.0, 1.8 * columns), 2.35 * rows + 0.5, title)
    height, width = image.shape[:2]
    for number, one in enumerate(fields, start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.imshow(_drawn(image), extent=(0, width, height, 0), interpolation="nearest")
        axes.add_patch(Rectangle((0, 0), width, height, fill=False, color="#888888", linewidth=0.8))
        for box, style in ((one.reach, "--"), (one.inside, "-")):
            if (down := box[0]) and (across := box[1]):
                size = across[1] - across[0] + 1, down[1] - down[0] + 1
                corner = across[0], down[0]
                axes.add_patch(
                    Rectangle(corner, *size, fill=False, color=VALIDATION, linewidth=1.8, linestyle=style)
                )
        (top, bottom), (left, right) = (span or (0, 0) for span in one.reach)
        margin = 0.04 * max(height, width)
        axes.set_xlim(min(0, left) - margin, max(width, right + 1) + margin)
        axes.set_ylim(max(height, bottom + 1) + margin, min(0, top) - margin)
        axes.set_title(one.caption, fontsize=9)
        axes.set_anchor("N")
        axes.axis("off")
    write(figure, path)


def _sheet(
    rows: Sequence[Row], title: str, path: Path, scale: ScalarMappable, unit: str, tile: int = _TILE
) -> None:
    """Draw rows of tiles with a colour bar on the right, pixel by pixel so that no tile is blurred."""
    enlarged = [[_enlarged(one, tile) for one in row.tiles] for row in rows]
    side = max(max(one.shape[:2]) for row in enlarged for one in row)
    pitch = max(side, _CHARACTER * _longest(caption for row in rows for caption in row.captions)) + _GAP
    left = _CHARACTER * _longest(row.label for row in rows) + 20
    width = max(left + max(len(row.tiles) for row in rows) * pitch + _BAR, 420)
    title = wrap_title(title, width / DPI)
    top = 18 * (title.count("\n") + 1) + 8
    above = [_caption_height(row) for row in rows]
    height = max(top + sum(lines + side + _GAP for lines in above) + 6, top + max(100, 8 * len(unit)) + 20)
    figure = new_figure(width / DPI, height / DPI, title, by_hand=True)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    paper = np.ones((height, width, 3), np.float32)
    y = top
    for row, tiles, lines in zip(rows, enlarged, above, strict=True):
        y += lines
        _place_tiles(paper[y : y + side, left:], tiles, pitch)
        for number, caption in enumerate(row.captions):
            middle = left + number * pitch + (pitch - _GAP) / 2
            axes.text(middle, y - 2, caption, ha="center", va="bottom", fontsize=9)
        axes.text(left - 6, y + side / 2, row.label, ha="right", va="center", fontsize=9)
        y += side + _GAP
    axes.imshow(paper, extent=(0, width, height, 0), interpolation="none", aspect="auto")
    tall = min(height - top - 20, 240)
    bar = figure.add_axes((1 - (_BAR - 8) / width, 1 - (top + 10 + tall) / height, 12 / width, tall / height))
    figure.colorbar(scale, cax=bar)
    bar.tick_params(labelsize=9)
    bar.set_ylabel(unit, fontsize=9)
    write(figure, path)


def _place_tiles(strip: Drawn, tiles: Sequence[Drawn], pitch: int) -> None:
    """Copy tiles into a strip of paper, each in the middle of a cell `pitch` pixels wide."""
    for number, tile in enumerate(tiles):
        height, width = tile.shape[:2]
        top, left = (len(strip) - height) // 2, number * pitch + (pitch - _GAP - width) // 2
        strip[top : top + height, left : left + width] = tile


def _caption_height(row: Row) -> int:
    """Return the height of a row's captions, in pixels."""
    return _LINE * (1 + max(caption.count("\n") for caption in row.captions)) if row.captions else 0


def _side(shape: Sequence[int], tile: int = _TILE) -> int:
    """Return the longer side, in pixels, of an image of this shape when drawn."""
    return min(max(shape) * _times(shape, tile), _LARGEST)


def _times(shape: Sequence[int], tile: int) -> int:
    """Return the integer factor that enlarges an image to about the size of a tile."""
    return max(1, round(tile / max(shape[:2])))


def _fitting(side: int, caption: int = 0) -> int:
    """Return how many tiles fit side by side if the longest caption has `caption` characters."""
    return max(1, _ACROSS // (max(side, _CHARACTER * caption) + _GAP))


def _even(count: int, fitting: int) -> int:
    """Return the number of tiles per row, at most `fitting`, that makes all rows about equally long."""
    rows = -(-count // fitting)
    return -(-count // rows)


def _enlarged(pixels: Drawn, tile: int) -> Drawn:
    """Enlarge an image by an integer factor to about the size of a tile, or reduce one that is too large."""
    side = max(pixels.shape[:2])
    if side > _LARGEST:
        kept = [max(1, size * _LARGEST // side) for size in pixels.shape[:2]]
        rows, columns = (np.arange(few) * size // few for few, size in zip(kept, pixels.shape, strict=False))
        return np.asarray(pixels[rows][:, columns], np.float32)
    times = _times(pixels.shape, tile)
    return np.asarray(pixels.repeat(times, axis=0).repeat(times, axis=1), np.float32)


def _drawn(image: Images) -> Drawn:
    """Return an image as RGB: grey images inverted, as ink on paper, colour images unchanged."""
    pixels = np.asarray(image / 255, np.float32)
    return pixels if image.shape[2] == 3 else 1 - np.repeat(pixels, 3, axis=2)


def _over(image: Images, values: Floats, scale: ScalarMappable) -> Drawn:
    """Colour the values of a map, darkened where its image is dark."""
    light = _drawn(image).mean(axis=2, keepdims=True)
    darkest = 0.3 if image.shape[2] == 1 else 0.55  # photographs are mostly dark
    return np.asarray(
        _coloured(values, scale) * (darkest + (1 - darkest) * light / (light.max() or 1)), np.float32
    )


def _coloured(values: Floats, scale: ScalarMappable) -> Drawn:
    return np.asarray(scale.to_rgba(values)[..., :3], np.float32)


def _signed(values: Floats) -> ScalarMappable:
    """Return a symmetric colour scale with white at 0."""
    most = float(np.abs(values).max()) or 1.0
    return ScalarMappable(Normalize(-most, most), _SIGNED)


def _from_white() -> ScalarMappable:
    """Return the positive half of the signed colour scale, from 0 to 1."""
    upper = matplotlib.colormaps[_SIGNED](np.linspace(0.5, 1, 256))
    return ScalarMappable(Normalize(0, 1), LinearSegmentedColormap.from_list("upper", upper))


def _from_least(values: Floats) -> ScalarMappable:
    """Return a colour scale from 0, or the minimum if it is negative, to the maximum."""
    least, most = min(float(values.min()), 0.0), float(values.max())
    return ScalarMappable(Normalize(least, most if most > least else least + 1), _RESPONSE)


def _greatest(strength: Floats, most: int | None) -> list[int]:
    """Return the indices of the `most` largest values (None: all), in ascending order."""
    return sorted(int(index) for index in np.argsort(-strength, kind="stable")[:most])


def _of(counts: Iterable[tuple[int, int, str]], strongest: str) -> str:
    """Describe how many items of each kind are shown, and whether they are the `strongest` or the first ones."""
    counts = list(counts)
    counted = [
        f"{total} {what}" if shown == total else f"{shown} of {total} {what}" for shown, total, what in counts
    ]
    which = f"those with the {strongest}" if strongest else "the first"
    return " and ".join(counted) + (f", {which}" if any(shown < total for shown, total, _ in counts) else "")


def _longest(texts: Iterable[str]) -> int:
    """Return the width of the widest line in the texts, in columns: a Latin letter takes one."""
    return max((cell_len(line) for text in texts for line in text.split("\n")), default=0)
