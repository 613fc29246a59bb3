"""Plan the pictures of a model's inside: which exist for given layers and images, and how each is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_exp.errors import RequestError
from mnist_exp.text import format_shape

if TYPE_CHECKING:
    import keras
    import numpy as np
    import numpy.typing as npt

    from mnist_exp.analysis.receptive_field import Seen
    from mnist_exp.data.dataset import Images

_LONGEST_NAME = 10
COLOURS = ["red", "green", "blue"]


@dataclass(frozen=True)
class Chosen:
    """Images, and a model's predictions for them."""

    what: str
    """Describes the selection, for a title."""
    images: Images
    names: tuple[str, ...]
    """The name of each image, such as `test 17`."""
    labels: tuple[int | None, ...]
    """The true class of each image; None if unknown."""
    probabilities: npt.NDArray[np.float32]
    class_names: tuple[str, ...]

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The most probable class of each image."""
        predicted: npt.NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return predicted

    @property
    def captions(self) -> list[str]:
        """A caption for each image: its name, its class if it is misclassified, and the predicted class."""
        found = []
        for name, label, taken_for, row in zip(
            self.names, self.labels, self.predicted, self.probabilities, strict=True
        ):
            true = "" if label in (None, taken_for) else self.class_name(int(label or 0))
            arrow = "" if label == taken_for else f"{true} → " if len(true) < 4 else f"{true}\n→ "
            found.append(f"{name}\n{arrow.lstrip()}{self.class_name(int(taken_for))} {row[taken_for]:.0%}")
        return found

    def class_name(self, label: int) -> str:
        """Return a class's name, shortened if it is long."""
        name = self.class_names[label]
        return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


@dataclass(frozen=True)
class Subject:
    """The model, layers and images that pictures are drawn of."""

    model: keras.Model
    layers: Sequence[keras.Layer]
    were_named: bool
    """Whether the user named these layers."""
    chosen: Chosen
    channels: int | None
    unit: tuple[int, int] | None
    title: str
    """Names the run and its data, at the end of each title."""


@dataclass(frozen=True)
class Picture:
    """A picture that can be drawn."""

    kind: str
    of: str
    """The layer, or the method; empty for a picture of all layers."""
    draw: Callable[..., None]
    """Draws the picture into the file `path`."""

    @property
    def file(self) -> str:
        """The file name, without a folder."""
        return f"{self.kind}-{self.of}.png" if self.of else f"{self.kind}.png"


def pictures_of(subject: Subject, kinds: Sequence[str]) -> list[Picture]:
    """List the pictures of the requested kinds. Raises `RequestError` for a unit that no layer has."""
    find = {"filters": _filters, "features": _features, "activation": _activation, "fields": _fields}
    return [picture for kind, pictures in find.items() if kind in kinds for picture in pictures(subject)]


def _filters(subject: Subject) -> Iterator[Picture]:
    from mnist_exp.analysis.filters import filters_of
    from mnist_exp.report import feature_maps

    for layer in subject.layers:
        found = filters_of(layer, subject.model)
        for one in found:
            rows, columns, inputs, outputs = one.weights.shape
            size = f"{rows}×{columns}, " if one.is_spatial else ""
            title = f"{one.name} of {layer.name} ({size}{inputs} to {outputs})\n{subject.title}"
            if one.is_spatial:
                names = COLOURS if one.reads_colours else [f"input {number}" for number in range(inputs)]
                draw: Callable[..., None] = partial(feature_maps.filters, one.weights, names, subject.channels)
            else:
                names = [str(number) for number in range(outputs)]
                draw = partial(feature_maps.matrix, one.weights[0, 0].T, names, ("output", "input"), "weight")
            of = layer.name if len(found) == 1 else f"{layer.name}-{one.name}"
            yield Picture("filters", of, partial(draw, title=title))


def _features(subject: Subject) -> Iterator[Picture]:
    from mnist_exp.analysis.activations import outputs_of
    from mnist_exp.report import feature_maps

    chosen = subject.chosen
    outputs = outputs_of(subject.model, subject.layers, chosen.images)
    for layer, maps in zip(subject.layers, outputs, strict=True):
        kind = "responses" if maps.ndim == 2 else "feature maps"
        title = f"{kind} of {layer.name} ({format_shape(maps.shape[1:])})\n{chosen.what} · {subject.title}"
        draw = partial(feature_maps.responses, chosen.images, chosen.captions, maps, subject.channels, title=title)
        yield Picture("features", layer.name, draw)


def _activation(subject: Subject) -> Iterator[Picture]:
    """Draw class activation maps of the named layers.

    Without names, of the layer that is averaged into the scores, if there is one, else of the last layer with rows
    and columns (of each path, if paths stay separate).
    """
    from mnist_exp.analysis.activations import find_averaged_layer, is_spatial, last_spatial_layers

    exact = find_averaged_layer(subject.model)
    targets = [layer for layer in subject.layers if is_spatial(layer)] if subject.were_named else []
    if not targets:
        targets = [exact[0]] if exact is not None else last_spatial_layers(subject.model)
    for layer in targets:
        kernel = exact[1] if exact is not None and exact[0] is layer else None
        is_exact = exact is not None and exact[0] is layer
        yield Picture("activation", layer.name, partial(_draw_activation, subject, layer, is_exact, kernel))


def _draw_activation(
    subject: Subject, layer: keras.Layer, is_exact: bool, kernel: npt.NDArray[np.float32] | None, path: Path
) -> None:
    import numpy as np

    from mnist_exp.analysis.activations import class_activation, grad_cam, outputs_of, resize_to_image
    from mnist_exp.analysis.receptive_field import receptive_axes
    from mnist_exp.report import feature_maps

    chosen, size = subject.chosen, subject.chosen.images.shape[1:3]
    axes = receptive_axes(subject.model)[layer.name]
    asked = [(number, int(label)) for number, label in enumerate(chosen.predicted)]
    asked += [(n, true) for n, true in enumerate(chosen.labels) if true not in (None, chosen.predicted[n])]
    images = chosen.images[[number for number, _ in asked]]
    classes = np.array([label for _, label in asked])
    if is_exact:
        [maps] = outputs_of(subject.model, [layer], images)
        found = class_activation(maps, kernel, classes)
    else:
        found = grad_cam(subject.model, layer, images, classes)
    evidence = [
        feature_maps.Evidence(number, f"for {chosen.class_name(label)}{'' if one.any() else ': none'}", one)
        for (number, label), one in zip(asked, resize_to_image(found, axes, size), strict=True)
    ]
    how, unit = ("class activation", "score") if is_exact else ("Grad-CAM", None)
    title = f"{how} at {layer.name} ({format_shape(layer.output.shape[1:])})\n{chosen.what} · {subject.title}"
    feature_maps.class_activation(chosen.images, chosen.captions, evidence, unit, title, path)


def _fields(subject: Subject) -> Iterator[Picture]:
    """List one picture with a panel for each named layer.

    Without names, for each layer whose receptive field differs from that of the layer before it.
    """
    from mnist_exp.analysis.activations import outputs_of
    from mnist_exp.analysis.receptive_field import receptive_axes, seen_by
    from mnist_exp.report import feature_maps

    axes = receptive_axes(subject.model)
    layers = [layer for layer in subject.layers if len(layer.output.shape) == 4]
    if not subject.were_named:  # an activation has the receptive field of its convolution
        same = {tuple((n, id(axis)) for n, axis in axes[layer.name].items()): layer for layer in layers[::-1]}
        layers = list(same.values())[::-1]
    image = subject.chosen.images[:1]
    seen = []
    for layer, maps in zip(layers, outputs_of(subject.model, layers, image), strict=True):
        rows, columns = maps.shape[1:3]
        row, column = subject.unit or divmod(int(abs(maps[0]).max(axis=-1).argmax()), columns)
        if row < rows and column < columns:
            reach, inside_image = (
                seen_by(axes[layer.name], (row, column), image.shape[1:3], inside=only) for only in (False, True)
            )
            caption = f"{layer.name}\n{format_shape(maps.shape[1:])}, unit {row}, {column}\nsees {_extent(reach)}"
            seen.append(feature_maps.Seen(caption, reach, inside_image))
    if layers and not seen:
        there = ", ".join(f"{layer.name} has {format_shape(layer.output.shape[1:3])}" for layer in layers)
        raise RequestError(f"unit: none of these layers has a unit {list(subject.unit or ())}; {there}")
    if seen:
        which = f"unit {list(subject.unit)}" if subject.unit else "the unit that responds most"
        title = f"what {which} sees of {subject.chosen.names[0]}\npadding dashed · {subject.title}"
        yield Picture("fields", "", partial(feature_maps.receptive_fields, image[0], seen, title=title))


def _extent(seen: tuple[Seen, Seen]) -> str:
    """Format a receptive field as rows × columns."""
    return format_shape([0 if span is None else span[1] - span[0] + 1 for span in seen])
