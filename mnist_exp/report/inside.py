"""Pictures of what is inside a model: filters, feature maps, class activation maps, receptive fields.

Weights and evidence, which have signs, are shown from blue (negative) by white to red; responses from dark to bright.
Both scales are among those that colour-blind people can read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from mnist_exp.data.dataset import Images
from mnist_exp.report.figure import DPI, new_figure, wrapped, write

Floats = npt.NDArray[np.floating]
Pixels = npt.NDArray[np.float32]
"""An image as it is drawn: (height, width, 3), 0…1."""

Span = tuple[int, int] | None

_SIGNED, _RESPONSE = "RdBu_r", "viridis"
_BOX = "#D55E00"
_WIDTH = 880  # pixels of a picture, at most, unless an image alone is wider
_TILE = 56  # about so many pixels is a side of a tile
_LARGEST = 224  # what is larger is drawn smaller
_GAP, _LINE, _CHARACTER, _BAR = 5, 15, 6, 90  # pixels between tiles, of a line of text, a letter, a colour bar
_MOST = 256  # rows or columns of a matrix


@dataclass(frozen=True)
class Row:
    """Tiles side by side, of which some may have a caption above, and what stands at their left."""

    tiles: Sequence[Pixels]
    captions: Sequence[str] = ()
    label: str = ""


def filters(weights: Floats, channels: int | None, title: str, path: Path) -> None:
    """The kernels (rows, columns, inputs, outputs) of a layer, at one scale.

    Of one input, each output's is a tile; of several, a row has those of one input, a column those of one output.
    """
    inputs, outputs = weights.shape[2:]
    alone = inputs == 1
    most = None if channels is None else channels * (channels if alone else 1)
    columns = _greatest(np.abs(weights).mean(axis=(0, 1, 2)), most)
    rows = _greatest(np.abs(weights).mean(axis=(0, 1, 3)), channels)
    shown = weights[:, :, rows][:, :, :, columns]
    scale = _signed(shown)
    tiles = [[_coloured(shown[:, :, i, o], scale) for o in range(len(columns))] for i in range(len(rows))]
    numbers = [str(column) for column in columns]
    fitting = _fitting(weights.shape[:2], len("input 000"))
    if alone:
        fitting = min(fitting, channels or fitting)
        lines = [
            Row(tiles[0][first : first + fitting], numbers[first : first + fitting])
            for first in range(0, len(numbers), fitting)
        ]
    else:
        lines = [
            Row(tiles[index][first : first + fitting], numbers[first : first + fitting], f"input {row}")
            for first in range(0, len(numbers), fitting)
            for index, row in enumerate(rows)
        ]
    remark = _of(len(columns), outputs, "filters" if alone else "outputs", "weights")
    if not alone:
        remark = f"{_of(len(rows), inputs, 'inputs', 'weights')}, {remark}"
    _sheet(lines, f"{title}\n{remark}", path, scale, "weight")


def matrix(
    values: Floats, names: Sequence[str], axes_names: tuple[str, str], what: str, title: str, path: Path
) -> None:
    """Values (rows, columns) as a heat map: weights without a place in the image, or responses of images.

    `names` are those of the rows, `axes_names` what rows and columns are, `what` a value is.
    """
    signed = what == "weight"
    rows, columns = (_greatest(np.abs(values).mean(axis=1 - axis), _MOST) for axis in (0, 1))
    remarks = [
        _of(len(kept), total, f"{name}s", f"{what}s")
        for kept, total, name in zip((rows, columns), values.shape, axes_names, strict=True)
        if len(kept) < total
    ]
    shown = values[rows][:, columns]
    scale = _signed(shown) if signed else _from_least(shown)
    height = min(max(2.2, 0.24 * len(rows) + 1.2), 8)
    figure = new_figure(_WIDTH / DPI, height, "\n".join([title, *remarks]))
    axes = figure.add_subplot()
    axes.imshow(shown, cmap=scale.cmap, norm=scale.norm, aspect="auto", interpolation="nearest")
    axes.set(xlabel=axes_names[1], ylabel=axes_names[0])
    if len(rows) <= 40:
        axes.set_yticks(range(len(rows)), [names[row] for row in rows], fontsize=8)
    if len(columns) <= 40:
        axes.set_xticks(range(len(columns)), [str(column) for column in columns], fontsize=8)
    figure.colorbar(scale, ax=axes, label=what, pad=0.01)
    write(figure, path)


def responses(
    images: Images, labels: Sequence[str], values: Floats, channels: int | None, title: str, path: Path,
    first: bool = False,
) -> None:  # fmt: skip
    """What a layer makes of images (n, …): maps where it keeps rows and columns, or steps, else rows of numbers."""
    if values.ndim == 4 and values.shape[1] * values.shape[2] > 1:
        feature_maps(images, labels, values, channels, title, path, first)
    elif values.ndim == 3:
        feature_maps(images, labels, values[..., np.newaxis], channels, title, path, first)
    else:
        names = [label.replace("\n", ": ") for label in labels]
        matrix(values.reshape(len(values), -1), names, ("image", "unit"), "response", title, path)


def feature_maps(
    images: Images, labels: Sequence[str], maps: Floats, channels: int | None, title: str, path: Path,
    first: bool = False,
) -> None:  # fmt: skip
    """A row for each image: the image, and the maps that a layer makes of it, (n, rows, columns, channels).

    At one scale; those of the channels that respond most, or the `first` ones.
    """
    strength = -np.arange(maps.shape[3]) if first else np.abs(maps).mean(axis=(0, 1, 2))
    kept = _greatest(strength, channels)
    scale = _from_least(maps[..., kept])
    fitting = _fitting(max(maps.shape[1:3], images.shape[1:3]), max(map(len, _lines(labels)))) - 1
    rows: list[Row] = []
    for image, label, of_image in zip(images, labels, maps[..., kept], strict=True):
        for start in range(0, len(kept), max(fitting, 1)):
            some = range(start, min(start + max(fitting, 1), len(kept)))
            picture = _drawn(image) if not start else np.ones((*image.shape[:2], 3), np.float32)
            numbered = not rows or len(kept) > fitting
            rows.append(
                Row(
                    [picture, *(_coloured(of_image[..., channel], scale) for channel in some)],
                    ["", *(str(kept[channel]) for channel in some)] if numbered else (),
                    label if not start else "",
                )
            )
    most = "" if first else "responses"
    remark = _of(len(kept), maps.shape[3], "channels", most)
    _sheet(rows, f"{title}\n{remark}", path, scale, "response")


@dataclass(frozen=True)
class Evidence:
    """What in an image speaks for a class: the image's number, a caption, and a map (height, width) of its size."""

    image: int
    caption: str
    map: Floats


def class_activation(
    images: Images, labels: Sequence[str], evidence: Sequence[Evidence], unit: str | None, title: str, path: Path
) -> None:
    """Maps over their images: red speaks for the class, blue against it; the image itself stays to be seen.

    `unit` is what the maps are measured in, all at one scale; None: each is relative to its own greatest value.
    """
    greatest = np.array([np.abs(one.map).max() for one in evidence])
    scale = _signed(np.ones(1) if unit is None else greatest, above=unit is None)
    divisors = np.where(greatest > 0, greatest, 1) if unit is None else np.ones(len(evidence))
    blocks = [
        [(_drawn(image), label)]
        + [
            (_over(images[one.image], one.map / divisor, scale), one.caption)
            for one, divisor in zip(evidence, divisors, strict=True)
            if one.image == number
        ]
        for number, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    deepest = max(map(len, blocks))
    fitting = _fitting(
        images.shape[1:3], 0, tile=72, widest=max(map(len, _lines(c for b in blocks for _, c in b)))
    )
    blank = (np.ones((*images.shape[1:3], 3), np.float32), "")
    rows = []
    for start in range(0, len(blocks), fitting):
        some = blocks[start : start + fitting]
        for depth in range(deepest):
            if any(len(block) > depth for block in some):
                cells = [block[depth] if len(block) > depth else blank for block in some]
                rows.append(Row([tile for tile, _ in cells], [caption for _, caption in cells]))
    _sheet(rows, title, path, scale, unit or "relative", tile=72)


@dataclass(frozen=True)
class Seen:
    """What a unit of a layer sees of the rows and of the columns: the first and the last, or none."""

    caption: str
    reach: tuple[Span, Span]
    """With padding."""
    inside: tuple[Span, Span]


def receptive_fields(image: Images, seen: Sequence[Seen], title: str, path: Path) -> None:
    """A panel for each layer: the image, and on it a box around what a unit sees; dashed where that is padding."""
    columns = min(len(seen), 5)
    rows = -(-len(seen) // columns)
    figure = new_figure(max(4.0, 1.75 * columns), 2.3 * rows + 0.5, title)
    height, width = image.shape[:2]
    for number, one in enumerate(seen, start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.imshow(_drawn(image), extent=(0, width, height, 0), interpolation="nearest")
        axes.add_patch(Rectangle((0, 0), width, height, fill=False, color="#888888", linewidth=0.8))
        (top, bottom), (left, right) = ((0, 0) if span is None else span for span in one.reach)
        for box, style in ((one.reach, "--"), (one.inside, "-")):
            if (rows_seen := box[0]) and (columns_seen := box[1]):
                corner = columns_seen[0], rows_seen[0]
                size = columns_seen[1] - corner[0] + 1, rows_seen[1] - corner[1] + 1
                axes.add_patch(Rectangle(corner, *size, fill=False, color=_BOX, linewidth=1.8, linestyle=style))
        margin = 0.04 * max(height, width)
        axes.set_xlim(min(0, left) - margin, max(width, right + 1) + margin)
        axes.set_ylim(max(height, bottom + 1) + margin, min(0, top) - margin)
        axes.set_title(one.caption, fontsize=8)
        axes.axis("off")
    write(figure, path)


def _sheet(
    rows: Sequence[Row], title: str, path: Path, scale: ScalarMappable, unit: str, tile: int = _TILE
) -> None:
    """Rows of tiles, placed pixel by pixel so that none is blurred, and the scale at their right."""
    enlarged = [[_enlarged(one, tile) for one in row.tiles] for row in rows]
    side = max(max(one.shape[:2]) for row in enlarged for one in row)
    widest = max(map(len, _lines(row.label for row in rows)))
    captions = max(map(len, _lines(c for row in rows for c in row.captions)), default=0)
    pitch = max(side, _CHARACTER * captions) + _GAP
    left = _CHARACTER * widest + 12 if widest else 8
    across = max(len(row.tiles) for row in rows) * pitch
    width = max(left + across + _BAR, 420)
    title = wrapped(title, width / DPI)
    top = 18 * (title.count("\n") + 1) + 8
    caption_lines = [1 + max((c.count("\n") for c in row.captions), default=-1) for row in rows]
    height = max(top + sum(lines * _LINE + side + _GAP for lines in caption_lines) + 6, top + 120)
    figure = new_figure(width / DPI, height / DPI, title, by_hand=True)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    paper = np.ones((height, width, 3), np.float32)
    y = top
    for row, tiles, lines in zip(rows, enlarged, caption_lines, strict=True):
        y += lines * _LINE
        for number, one in enumerate(tiles):
            x = left + number * pitch
            down, right = (side - one.shape[0]) // 2, (pitch - _GAP - one.shape[1]) // 2
            paper[y + down : y + down + one.shape[0], x + right : x + right + one.shape[1]] = one
            if number < len(row.captions) and row.captions[number]:
                at = x + (pitch - _GAP) / 2
                axes.text(at, y - 2, row.captions[number], ha="center", va="bottom", fontsize=8, linespacing=1.1)
        if row.label:
            axes.text(left - 6, y + side / 2, row.label, ha="right", va="center", fontsize=8, linespacing=1.1)
        y += side + _GAP
    axes.imshow(paper, extent=(0, width, height, 0), interpolation="none", aspect="auto")
    tall = min(height - top - 20, 240)
    bar = figure.add_axes((1 - (_BAR - 12) / width, 1 - (top + 10 + tall) / height, 12 / width, tall / height))
    figure.colorbar(scale, cax=bar)
    bar.tick_params(labelsize=8)
    bar.set_ylabel(unit, fontsize=8)
    write(figure, path)


def _fitting(shape: Sequence[int], label: int, tile: int = _TILE, widest: int = 0) -> int:
    """How many tiles of such images fit side by side, beside a label of so many letters."""
    side = max(shape)
    side = side * max(1, tile // side) if side <= _LARGEST else _LARGEST
    pitch = max(side, _CHARACTER * widest) + _GAP
    return int(max(1, (_WIDTH - _BAR - _CHARACTER * label - 12) // pitch))


def _enlarged(pixels: Pixels, tile: int) -> Pixels:
    """By whole numbers, to about the size of a tile; smaller, if it is too large."""
    side = max(pixels.shape[:2])
    if side > _LARGEST:
        rows, columns = (np.arange(size * _LARGEST // side) * side // _LARGEST for size in pixels.shape[:2])
        return pixels[rows][:, columns]
    times = max(1, tile // side)
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def _drawn(image: Images) -> Pixels:
    """Grey images as ink on paper, colour images as they are."""
    pixels = image.astype(np.float32) / 255
    return np.repeat(1 - pixels, 3, axis=2) if image.shape[2] == 1 else pixels


def _over(image: Images, values: Floats, scale: ScalarMappable) -> Pixels:
    """Colours for values, darkened where the image is dark."""
    light = _drawn(image).mean(axis=2, keepdims=True)
    return _coloured(values, scale) * (0.3 + 0.7 * light)


def _coloured(values: Floats, scale: ScalarMappable) -> Pixels:
    colours: Pixels = scale.to_rgba(values)[..., :3].astype(np.float32)
    return colours


def _signed(values: Floats, above: bool = False) -> ScalarMappable:
    """A scale with white at 0; `above` shows the half that is not below."""
    most = float(np.abs(values).max()) or 1.0
    if not above:
        return ScalarMappable(Normalize(-most, most), _SIGNED)
    upper = matplotlib.colors.LinearSegmentedColormap.from_list(
        "for", matplotlib.colormaps[_SIGNED](np.linspace(0.5, 1, 256))
    )
    return ScalarMappable(Normalize(0, most), upper)


def _from_least(values: Floats) -> ScalarMappable:
    least, most = min(float(values.min()), 0.0), float(values.max())
    return ScalarMappable(Normalize(least, most if most > least else least + 1), _RESPONSE)


def _greatest(strength: npt.NDArray[np.floating] | npt.NDArray[np.integer], most: int | None) -> list[int]:
    """The numbers of the strongest, in their order."""
    return sorted(int(index) for index in np.argsort(-strength, kind="stable")[:most])


def _of(shown: int, total: int, what: str, strongest: str) -> str:
    """How many are shown, and which."""
    if shown == total:
        return f"{total} {what}"
    return f"{shown} of {total} {what}, {f'those with the greatest {strongest}' if strongest else 'the first'}"


def _lines(texts: object) -> list[str]:
    """The single lines of texts."""
    return [line for text in texts for line in text.split("\n")] or [""]  # type: ignore[attr-defined]
