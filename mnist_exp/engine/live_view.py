"""A saved model that answers for one image at a time, with everything that the demo page draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from mnist_exp.analysis.activations import Floats
from mnist_exp.analysis.live_responses import TracedModel
from mnist_exp.analysis.receptive_field import Axes, fields, receptive_axes
from mnist_exp.analysis.summary import format_field
from mnist_exp.config.schema import TrainConfig
from mnist_exp.data.dataset import Images
from mnist_exp.engine.classification import make_predictor
from mnist_exp.engine.saved_model import Saved
from mnist_exp.inference.image_files import read_photograph, read_picture
from mnist_exp.inference.mnist_form import Reading
from mnist_exp.model.keras_graph import functional_graph
from mnist_exp.model.layer_selection import informative_layers

_MOST_LAYERS = 60
_MOST_UNITS = 4096  # of a layer without rows and columns
_DIGITS = 5  # significant, in the numbers of an answer


@dataclass(frozen=True)
class Answer:
    """A model's answer for an image: figures, and the maps as bytes."""

    figures: dict[str, Any]
    """`probabilities` (None if they are not numbers), `evidence` (the map's range), and `layers`.

    Each layer has its `channels` in the order of their maps, and for each map the values of byte 0 and byte 255,
    `low` and `high`."""
    maps: bytes
    """The class activation map, then each layer's maps, row by row."""


class LiveView:
    """A saved model with its layers, their receptive fields, and how it treats photographs."""

    def __init__(self, saved: Saved, config: TrainConfig, channels: int) -> None:
        """Load and trace the model.

        Args:
            saved: The model.
            config: The config of its run.
            channels: The maximum number of feature maps per layer.

        Raises:
            RequestError: The model cannot be loaded, or is not an image classifier.
        """
        predictor = make_predictor(saved, config, None)
        graph = functional_graph(predictor.model)
        layers = [layer for layer in informative_layers(graph) if layer.output is not graph.output]
        self.layers = [layer for layer in layers if 2 <= len(layer.output.shape) <= 4][:_MOST_LAYERS]
        self.name, self.shape, self.class_names = saved.name, predictor.shape, predictor.class_names
        self.normalizes = predictor.normalizes
        self._resize = config.data.resize
        self._channels = channels
        self._axes = receptive_axes(graph)
        self._traced = TracedModel(graph, self.layers)

    def describe(self) -> dict[str, Any]:
        """Return the model's name, classes and layers, as JSON values."""
        target = self._traced.target
        method, colours = "Grad-CAM", "red supports the answer"
        if self._traced.is_exact:
            method, colours = "class activation", f"{colours}, blue counts against it"
        return {
            "name": self.name,
            "shape": self.shape,
            "classes": self.class_names,
            "normalizes": self.normalizes,
            "activation": f"{method} at {target.name}; {colours}" if target is not None else None,
            "layers": [self._describe_layer(layer) for layer in self.layers],
        }

    def _describe_layer(self, layer: keras.Layer) -> dict[str, Any]:
        axes = self._axes[layer.name]
        rows, columns, channels = _as_maps(layer.output.shape[1:])
        return {
            "name": layer.name,
            "type": type(layer).__name__,
            "shape": layer.output.shape[1:],
            "rows": rows,
            "columns": columns,
            "maps": min(channels, self._channels),
            "field": format_field(*fields(axes)),
            "spans": _spans(axes),
        }

    def respond(self, image: Images) -> Answer:
        """Return the answer for raw pixels (height, width, channels)."""
        responses = self._traced(image)
        evidence, blob = None, []
        if responses.evidence is not None:
            low, high, values = _as_bytes(responses.evidence[..., np.newaxis])
            evidence = [low[0], high[0]]
            blob.append(values)
        layers = []
        for output in responses.outputs:
            rows, columns, count = _as_maps(output.shape)
            maps = output.reshape(rows, -1, count)[:, :columns]
            kept = np.argsort(-np.abs(maps).mean(axis=(0, 1)), kind="stable")[: self._channels]
            low, high, values = _as_bytes(maps[..., kept])
            layers.append({"channels": kept.tolist(), "low": low, "high": high})
            blob.append(values)
        is_number = np.isfinite(responses.probabilities).all()
        probabilities = [_rounded(value) for value in responses.probabilities] if is_number else None
        return Answer({"probabilities": probabilities, "evidence": evidence, "layers": layers}, b"".join(blob))

    def read_photograph(self, content: bytes) -> list[Reading]:
        """Return the image or, for a model of digits, the digits in a photograph. Raises `RequestError`."""
        if self.normalizes:
            return read_photograph(content, "this file", self.shape, many=True)
        return [Reading(read_picture(content, "this file", self.shape, self._resize))]


def _is_column(shape: Sequence[int]) -> bool:
    """Return whether an output has rows and columns, but only one position."""
    return len(shape) == 3 and shape[0] * shape[1] == 1


def _as_maps(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the rows, columns and number of maps that an output of this shape is drawn as.

    Outputs without rows and columns become a single map of one row, steps with features a map of both.
    """
    if len(shape) == 1 or _is_column(shape):
        return 1, min(shape[-1], _MOST_UNITS), 1
    if len(shape) == 2:
        return shape[0], shape[1], 1
    return shape[0], shape[1], shape[2]


def _spans(axes: Axes) -> list[dict[str, Any] | None]:
    """Return, for the rows and the columns of the image, the part that each unit's receptive field covers.

    Each is None if every unit sees all of them, or else says whether a unit's row (0) or column (1) decides, and
    lists the first and last row (column) of the image for each; None for a unit that sees only padding.
    """
    along: list[dict[str, Any] | None] = [None, None]
    for number, axis in axes.items():
        along[axis.of] = {"by": number - 1, "spans": [axis.span(index) for index in range(axis.length)]}
    return along


def _as_bytes(maps: Floats) -> tuple[list[float], list[float], bytes]:
    """Scale each map of (rows, columns, maps) to bytes. Returns the values of 0 and 255, and the bytes by map.

    The range of each map includes 0.
    """
    maps = maps.astype(np.float64)  # in which the difference of two numbers of float32 is finite
    low = np.minimum(maps.min(axis=(0, 1)), 0)
    high = np.maximum(maps.max(axis=(0, 1)), 0)
    spread = np.where(high > low, high - low, 1)
    scaled = np.rint((maps - low) / spread * 255).astype(np.uint8)
    return [*map(_rounded, low)], [*map(_rounded, high)], np.moveaxis(scaled, -1, 0).tobytes()


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
