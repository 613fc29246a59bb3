"""Build a graph from layer specs: plain layers in sequence, and `Repeat`, `Residual` and `Parallel`.

These three are only notation: the built and saved model consists of Keras' own layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras

from mnist_exp.keras_spec.layer_specs import InvalidSpec, LayerSpec, ParallelSpec, RepeatSpec, ResidualSpec, Spec
from mnist_exp.keras_spec.signatures import snake_case
from mnist_exp.model.keras_errors import (
    ArgumentError,
    Report,
    drop_received,
    explain_rejection,
    first_sentence,
)
from mnist_exp.model.layers import make_layer, number_name

Tensor = Any  # keras.KerasTensor; None after a layer that rejected its input


def apply_layers(specs: Sequence[Spec], x: Tensor, report: Report, places: dict[str, str] | None = None) -> Tensor:
    """Apply layers to a symbolic tensor.

    After a layer that rejects its input, the remaining layers are still created, and checked if their input shape
    is known. The last layer computes in float32, because half-precision probabilities would make the loss
    inaccurate.

    Args:
        specs: The layers.
        x: The input.
        report: Called with the path and the message of each problem that Keras finds.
        places: If given, receives the path of each layer, by layer name.

    Returns:
        The output; None if its shape is not known because a layer rejected its input.
    """
    return _Graph(report, {} if places is None else places).apply(specs, x, final=True)


class _Graph:
    """A graph under construction. Layer names are numbered as in a fresh Keras process."""

    def __init__(self, report: Report, places: dict[str, str]) -> None:
        self._report = report
        self._places = places
        self._seen: dict[str, int] = {}
        self._previous = "the input"
        self._repeating = False  # inside `Repeat`: explicit names are numbered
        self._turn = ""  # the current repetition of a repeated list, for messages

    def apply(self, specs: Sequence[Spec], x: Tensor, *, final: bool = False) -> Tensor:
        steps: dict[type, Callable[[Any, Tensor, bool], Tensor]] = {
            LayerSpec: self._layer,
            RepeatSpec: self._repeat,
            ResidualSpec: self._residual,
            ParallelSpec: self._parallel,
            InvalidSpec: lambda spec, x, final: x if spec.keeps_shape else None,
        }
        for index, spec in enumerate(specs):
            x = steps[type(spec)](spec, x, final and index == len(specs) - 1)
        return x

    def _layer(self, spec: LayerSpec, x: Tensor, final: bool) -> Tensor:
        layer = self._make(spec)
        if layer is None:
            return x if spec.keeps_shape else None
        # Keras adds activity penalties to a float32 loss, which fails if they are bfloat16.
        if final or getattr(layer, "activity_regularizer", None) is not None:
            layer.dtype_policy = keras.DTypePolicy("float32")
        self._places[layer.name] = spec.place
        if x is None:
            return None
        try:
            result = layer(x)
        except Exception as error:  # Keras raises many types
            self._report(spec.place, explain_rejection(layer, _shape(x), self._previous, error) + self._turn)
            return x if spec.keeps_shape else None
        self._previous = f"{spec.place}, {spec.type}"
        return result

    def _make(self, spec: LayerSpec) -> keras.Layer | None:
        """Create a layer without the arguments that Keras rejects; None if its shape depends on one of them."""
        if self._repeating and "name" in spec.arguments:
            name = number_name(spec.arguments["name"], self._seen)
            spec = replace(spec, arguments={**spec.arguments, "name": name})
        default_name = number_name(snake_case(spec.type), self._seen)
        remaining: LayerSpec | None = spec
        while remaining is not None:
            try:
                layer = make_layer(remaining, default_name)
            except ArgumentError as error:
                key = error.key or ""
                self._report(f"{spec.place}.{key}" if key else spec.place, str(error))
                remaining = remaining.without(key)
            else:
                return layer if remaining.shape_is_known else None
        return None

    def _repeat(self, spec: RepeatSpec, x: Tensor, final: bool) -> Tensor:
        outside = self._repeating, self._turn
        self._repeating = True
        for turn in range(spec.times):
            self._turn = outside[1] if turn == 0 else f", in repetition {turn + 1} of {spec.times} of {spec.place}"
            x = self.apply(spec.layers, x, final=final and turn == spec.times - 1)
        self._repeating, self._turn = outside
        return x

    def _residual(self, spec: ResidualSpec, x: Tensor, final: bool) -> Tensor:
        before = self._previous
        output = self.apply(spec.layers, x)
        self._previous = before
        shortcut = self.apply(spec.shortcut, x)
        if output is not None and shortcut is not None and output.shape != shortcut.shape:
            self._report(
                spec.place,
                f"the layers of Residual return {_shape(output)}, but its shortcut returns {_shape(shortcut)}: "
                f"the shapes must be equal{self._turn}",
            )
            return output
        return self._merge(LayerSpec(spec.place, "Add", {}), [output, shortcut], final)

    def _parallel(self, spec: ParallelSpec, x: Tensor, final: bool) -> Tensor:
        before = self._previous
        outputs = []
        for branch in spec.branches:
            self._previous = before
            outputs.append(self.apply(branch, x))
        return None if spec.merge is None else self._merge(spec.merge, outputs, final)

    def _merge(self, spec: LayerSpec, inputs: list[Tensor], final: bool) -> Tensor:
        name = number_name(snake_case(spec.type), self._seen)
        try:
            layer = make_layer(spec, name)
        except ArgumentError as error:
            key = f"merge.{error.key}" if error.key else "merge"
            self._report(f"{spec.place}.{key}", str(error))
            return None
        if final:
            layer.dtype_policy = keras.DTypePolicy("float32")
        self._places[layer.name] = spec.place
        if any(x is None for x in inputs):
            return None
        try:
            output = layer(inputs)
        except Exception as error:
            shapes = ", ".join(map(_shape, inputs))
            why = drop_received(first_sentence(error))
            self._report(spec.place, f"{spec.type} cannot merge branches of {shapes}: {why}{self._turn}")
            return None
        self._previous = f"{spec.place}, {spec.type}"
        return output


def _shape(x: Tensor) -> str:
    return "×".join(str(size) for size in x.shape[1:])
