"""The types of config values, and the base class of configs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from mnist_exp.keras_spec.layer_specs import LayerList, parse_augmentations, parse_layers

Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Range = Annotated[float, Field(ge=0)]
Pixels = Annotated[int, Field(ge=0)]
LayerChoice = int | Annotated[str, Field(min_length=1)]
"""A layer, by its index in `model.layers` (3, `3.layers.0`) or by its name."""


class Frozen(BaseModel):
    """Base class of immutable configs. It rejects unknown keys, wrong types, NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class _ParsedBy:
    """Parses a list of layers with a function, and serializes it as it was written."""

    parse: Callable[[tuple[Any, ...]], LayerList]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            self.parse,
            handler.generate_schema(tuple[Any, ...]),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda layers: layers.entries),
        )


Layers = Annotated[LayerList, _ParsedBy(parse_layers)]
"""A list of layers, which may contain `Repeat`, `Residual` and `Parallel`."""
Augmentations = Annotated[LayerList, _ParsedBy(parse_augmentations)]
"""A list of Keras' augmentation layers."""
