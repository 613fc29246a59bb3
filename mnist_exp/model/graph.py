"""Build a graph from a list of layers: plain layers in sequence, and `Repeat`, `Residual` and `Parallel`.

These three are only notation: the model that is built and saved consists of Keras' own layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from mnist_exp.keras_spec.layer_types import (
    COMPOSITES,
    KEEP_SHAPE,
    ArgumentError,
    Report,
    check_composite,
    faults,
    is_beside_shape,
    is_list,
    merge_faults,
    parse_entry,
    tell,
    told_at,
)
from mnist_exp.keras_spec.signatures import snake_case
from mnist_exp.model.keras_errors import first_sentence, why_not, without_received
from mnist_exp.model.layers import make_layer, numbered

Tensor = Any  # keras.KerasTensor; None after a layer that did not fit


def apply_layers(
    entries: Sequence[Any], x: Tensor, path: str, report: Report, places: dict[str, str] | None = None
) -> Tensor:
    """Apply a list of layers to a symbolic tensor, skipping `null` entries.

    After a layer that does not fit, the other layers are still made, and checked if the shape of their input is
    known nevertheless. The last layer computes in float32, as the loss is inaccurate for probabilities in half
    precision.

    Args:
        entries: The layer entries.
        x: The input.
        path: The place of the list in the config, as a dotted path.
        report: Takes the path and the message of each problem.
        places: If given, receives the path of each layer by the layer's name.

    Returns:
        The output; None if its shape is not known because a layer did not fit.
    """
    return _Graph(report, {} if places is None else places).apply(entries, x, path, final=True)


class _Graph:
    """A graph under construction; layer names are numbered as Keras does in a fresh process."""

    def __init__(self, report: Report, places: dict[str, str]) -> None:
        self._report = report
        self._places = places
        self._seen: dict[str, int] = {}
        self._previous = "the input"
        self._repeating = False  # inside `Repeat`: explicit names are numbered
        self._turn = ""  # the current turn of a repeated list, for messages

    def apply(self, entries: Any, x: Tensor, path: str, *, final: bool = False) -> Tensor:
        if not is_list(entries):
            self._report(path, f"expected a list of layers, found {entries!r}")
            return None
        last = max((index for index, entry in enumerate(entries) if entry is not None), default=-1)
        for index, entry in enumerate(entries):
            if entry is not None:
                place = f"{path}.{index}"
                before, x = x, None
                with told_at(place, self._report):
                    x = self._entry(entry, before, place, final and index == last)
        return x

    def _entry(self, entry: Any, x: Tensor, place: str, final: bool) -> Tensor:
        kind, arguments = parse_entry(entry)
        if kind in COMPOSITES:
            check_composite(kind, arguments)
            compose = {"Repeat": self._repeat, "Residual": self._residual, "Parallel": self._parallel}[kind]
            return compose(arguments, x, place, final)
        if self._repeating and isinstance(arguments.get("name"), str):
            entry = {**arguments, "type": kind, "name": numbered(arguments["name"], self._seen)}
        layer = self._make(entry, place)
        if layer is None:
            return x if kind in KEEP_SHAPE else None
        # Keras adds activity penalties to a float32 loss, which fails if they are bfloat16.
        if final or getattr(layer, "activity_regularizer", None) is not None:
            layer.dtype_policy = keras.DTypePolicy("float32")
        self._places[layer.name] = place
        if x is None:
            return None
        try:
            result = layer(x)
        except Exception as error:  # Keras raises many types
            self._report(place, why_not(layer, _shape(x), self._previous, error) + self._turn)
            return x if kind in KEEP_SHAPE else None
        self._previous = f"{place}, {kind}"
        return result

    def _make(self, entry: Any, place: str) -> keras.Layer | None:
        """Make a layer without its invalid arguments, or return None if a shape depends on one of them."""
        kind, arguments = parse_entry(entry)
        wrong = tell(faults(entry), place, self._report)
        name = numbered(snake_case(kind), self._seen)
        shape_is_known = True
        while True:
            for fault in wrong:
                shape_is_known &= is_beside_shape(fault.key)
                arguments.pop(str(fault.key), None)
            entry = {**arguments, "type": kind}
            if any(faults(entry)):
                return None
            try:
                layer = make_layer(entry, name)
            except ArgumentError as error:
                wrong = tell([error], place, self._report)
                if error.key not in arguments:
                    return None
            else:
                return layer if shape_is_known else None

    def _repeat(self, arguments: Mapping[str, Any], x: Tensor, place: str, final: bool) -> Tensor:
        times = arguments["times"]
        outside = self._repeating, self._turn
        self._repeating = True
        for turn in range(times):
            self._turn = outside[1] if turn == 0 else f", in turn {turn + 1} of {times} of {place}"
            x = self.apply(arguments["layers"], x, f"{place}.layers", final=final and turn == times - 1)
        self._repeating, self._turn = outside
        return x

    def _residual(self, arguments: Mapping[str, Any], x: Tensor, place: str, final: bool) -> Tensor:
        before = self._previous
        ends = [self.apply(arguments["layers"], x, f"{place}.layers")]
        self._previous = before
        shortcut = arguments.get("shortcut")
        ends.append(self.apply(() if shortcut is None else shortcut, x, f"{place}.shortcut"))
        if None not in ends and ends[0].shape != ends[1].shape:
            self._report(
                place,
                f"the layers of Residual end in {_shape(ends[0])}, its shortcut in {_shape(ends[1])}: "
                f"what is added must be of one shape{self._turn}",
            )
            return ends[0]
        return self._merge("Add", ends, place, final)

    def _parallel(self, arguments: Mapping[str, Any], x: Tensor, place: str, final: bool) -> Tensor:
        before = self._previous
        ends = []
        for index, branch in enumerate(arguments["branches"]):
            if branch is not None:
                self._previous = before
                ends.append(self.apply(branch, x, f"{place}.branches.{index}"))
        return self._merge(arguments.get("merge", "Concatenate"), ends, place, final)

    def _merge(self, entry: Any, ends: list[Tensor], place: str, final: bool) -> Tensor:
        if tell(merge_faults(entry), place, self._report):
            return None
        kind, _ = parse_entry(entry)
        try:
            layer = make_layer(entry, numbered(snake_case(kind), self._seen))
        except ArgumentError as error:
            raise ArgumentError(str(error), f"merge.{error.key}" if error.key else "merge") from error
        if final:
            layer.dtype_policy = keras.DTypePolicy("float32")
        self._places[layer.name] = place
        if any(end is None for end in ends):
            return None
        try:
            x = layer(ends)
        except Exception as error:
            shapes = ", ".join(_shape(end) for end in ends)
            why = without_received(first_sentence(error))
            raise ArgumentError(f"{kind} cannot merge branches of {shapes}: {why}{self._turn}") from error
        self._previous = f"{place}, {kind}"
        return x


def _shape(x: Tensor) -> str:
    return "×".join(str(size) for size in x.shape[1:])
