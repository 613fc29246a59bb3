"""Plan the pictures of a model's internals: which exist for given layers and images, and how each is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from mnist_exp.analysis.activations import (
    class_activation,
    compute_outputs,
    find_averaged_layer,
    grad_cam,
    is_spatial,
    last_spatial_layers,
    resize_to_image,
)
from mnist_exp.analysis.filters import list_filters
from mnist_exp.analysis.receptive_field import Axes, Span, field_of_unit, receptive_axes
from mnist_exp.engine.picture_subject import Subject
from mnist_exp.errors import RequestError
from mnist_exp.report import feature_maps
from mnist_exp.text import format_shape

COLOURS = ["red", "green", "blue"]


@dataclass(frozen=True)
class Picture:
    """A picture that can be drawn."""

    kind: str
    subject: str
    """The layer, and its kernel if it has several; empty for a picture of several layers."""
    draw: Callable[..., None]
    """Draws the picture into the file `path`."""
    layers: tuple[str, ...] = ()
    """The names of the layers in a picture of several layers."""

    def draw_into(self, path: Path) -> None:
        """Draw the picture into a file."""
        self.draw(path=path)

    @property
    def file(self) -> str:
        """The file name, without a folder."""
        return f"{self.kind}-{self.subject}.png" if self.subject else f"{self.kind}.png"


def list_pictures(subject: Subject, kinds: Sequence[str]) -> list[Picture]:
    """List the pictures of the requested kinds. Raises `RequestError` if no layer has the requested unit."""
    by_kind = {
        "filters": _list_filters,
        "features": _list_feature_maps,
        "activation": _list_activation_maps,
        "fields": _list_receptive_fields,
    }
    return [picture for kind, pictures in by_kind.items() if kind in kinds for picture in pictures(subject)]


def _list_filters(subject: Subject) -> Iterator[Picture]:
    """Yield a picture of each kernel of the layers."""
    for layer in subject.layers:
        kernels = list_filters(layer, subject.model)
        for one in kernels:
            rows, columns, inputs, outputs = one.weights.shape
            size = f"{rows}×{columns}, " if one.is_spatial else ""
            channels = f"{inputs} input{'s' * (inputs > 1)}, {outputs} output{'s' * (outputs > 1)}"
            title = f"{one.name} of {layer.name} ({size}{channels})\n{subject.title}"
            if one.is_spatial:
                names = COLOURS if one.reads_colours else [f"input {number}" for number in range(inputs)]
                draw: Callable[..., None] = partial(feature_maps.filters, one.weights, names, subject.channels)
            else:
                names = [str(number) for number in range(outputs)]
                draw = partial(feature_maps.matrix, one.weights[0, 0].T, names, ("output", "input"), "weight")
            name = layer.name if len(kernels) == 1 else f"{layer.name}-{one.name}"
            yield Picture("filters", name, partial(draw, title=title))


def _list_feature_maps(subject: Subject) -> Iterator[Picture]:
    """Yield a picture of the outputs of each layer."""
    chosen = subject.chosen
    outputs = compute_outputs(subject.model, subject.layers, chosen.images)
    for layer, maps in zip(subject.layers, outputs, strict=True):
        kind = "responses" if maps.ndim == 2 else "feature maps"
        title = f"{kind} of {layer.name} ({format_shape(maps.shape[1:])})\n{chosen.what} · {subject.title}"
        draw = partial(feature_maps.responses, chosen.images, chosen.captions, maps, subject.channels, title=title)
        yield Picture("features", layer.name, draw)


def _list_activation_maps(subject: Subject) -> Iterator[Picture]:
    """Yield a picture of class activation maps for each layer that the user named.

    If none was named, use the layer whose maps are averaged into the scores. If there is no such layer, use the
    last layer with rows and columns, or that of each path if the paths merge only afterwards.
    """
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
    """Draw the evidence in each image for its predicted class and, if that is wrong, for its true class."""
    chosen, size = subject.chosen, subject.chosen.images.shape[1:3]
    axes = receptive_axes(subject.model)[layer.name]
    asked = [(number, int(label)) for number, label in enumerate(chosen.predicted)]
    asked += [(n, true) for n, true in enumerate(chosen.labels) if true not in (None, chosen.predicted[n])]
    images = chosen.images[[number for number, _ in asked]]
    classes = np.array([label for _, label in asked])
    if is_exact:
        [maps] = compute_outputs(subject.model, [layer], images)
        evidence = class_activation(maps, kernel, classes)
    else:
        evidence = grad_cam(subject.model, layer, images, classes)
    overlays = [
        feature_maps.Evidence(number, f"for {chosen.class_name(label)}{'' if one.any() else ': none'}", one)
        for (number, label), one in zip(asked, resize_to_image(evidence, axes, size), strict=True)
    ]
    how, unit = ("class activation", "score") if is_exact else ("Grad-CAM", None)
    title = f"{how} at {layer.name} ({format_shape(layer.output.shape[1:])})\n{chosen.what} · {subject.title}"
    feature_maps.class_activation(chosen.images, chosen.captions, overlays, unit, title, path)


def _list_receptive_fields(subject: Subject) -> Iterator[Picture]:
    """Yield one picture with a panel for each layer that the user named.

    If none was named, each different receptive field has a panel, for the first layer that has it.
    """
    axes = receptive_axes(subject.model)
    layers = [layer for layer in subject.layers if len(layer.output.shape) == 4]
    if not subject.were_named:  # an activation has the receptive field of its convolution
        layers = _first_of_each_field(layers, axes)
    image = subject.chosen.images[:1]
    outputs = compute_outputs(subject.model, layers, image)
    panels = {
        layer.name: _receptive_field(layer, axes[layer.name], maps[0], subject.unit, image.shape[1:3])
        for layer, maps in zip(layers, outputs, strict=True)
    }
    fields = {name: panel for name, panel in panels.items() if panel is not None}
    if layers and not fields:
        sizes = ", ".join(f"{layer.name} has {format_shape(layer.output.shape[1:3])}" for layer in layers)
        raise RequestError(f"unit: none of these layers has a unit {list(subject.unit or ())}; {sizes}")
    if fields:
        which = f"unit {list(subject.unit)}" if subject.unit else "the unit with the largest response"
        title = f"receptive field of {which} on {subject.chosen.names[0]}\npadding dashed · {subject.title}"
        draw = partial(feature_maps.receptive_fields, image[0], list(fields.values()), title=title)
        yield Picture("fields", "", draw, tuple(fields))


def _first_of_each_field(layers: Sequence[keras.Layer], axes: Mapping[str, Axes]) -> list[keras.Layer]:
    """Return the first layer of each group that shares a receptive field."""
    first: dict[object, keras.Layer] = {}
    for layer in layers:
        first.setdefault(tuple((number, id(axis)) for number, axis in axes[layer.name].items()), layer)
    return list(first.values())


def _receptive_field(
    layer: keras.Layer,
    axes: Axes,
    maps: npt.NDArray[np.float32],
    unit: tuple[int, int] | None,
    image: tuple[int, int],
) -> feature_maps.ReceptiveField | None:
    """Return the receptive field of a unit (by default the one that responds most); None if there is no such unit.

    Args:
        layer: The layer.
        axes: The layer's entry in `receptive_axes`.
        maps: The layer's output for an image (rows, columns, channels).
        unit: The unit's row and column; None for the unit with the largest response.
        image: The rows and columns of the image.
    """
    rows, columns = maps.shape[:2]
    row, column = unit or divmod(int(abs(maps).max(axis=-1).argmax()), columns)
    if row >= rows or column >= columns:
        return None
    reach, inside = (field_of_unit(axes, (row, column), image, inside=only) for only in (False, True))
    caption = f"{layer.name}\n{format_shape(maps.shape)}, unit {row}, {column}\nsees {_format_size(reach)}"
    return feature_maps.ReceptiveField(caption, reach, inside)


def _format_size(field: tuple[Span, Span]) -> str:
    """Format the size of a receptive field as rows × columns."""
    return format_shape([0 if span is None else span[1] - span[0] + 1 for span in field])
