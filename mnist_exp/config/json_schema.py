"""JSON Schemas of the config, for editors that complete and check YAML files.

They describe files as users write them: an option states only the keys that it changes, and any value may be an
interpolation or null. They accept more than `mnist-exp check`, which applies all rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mnist_exp.config.schema import TrainConfig
from mnist_exp.keras_spec.layer_faults import ALLOWED, AUGMENTATIONS, COMPOSITES

_DIALECT = "http://json-schema.org/draft-07/schema#"  # the draft that editors' YAML language servers support
_INTERPOLATION = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}
_DEFAULTS = {"type": "array", "description": "The options that this file starts from."}
GROUPS = (
    "aug", "data", "debug", "device", "experiment", "model", "optimizer", "preprocess", "schedule", "tracking",
    "training",
)  # fmt: skip
"""The groups whose options have a schema."""


def config_schema() -> dict[str, Any]:
    """Return the schema of a training config, as in a preset or a run's `config.yaml`."""
    schema = _for_editing(TrainConfig.model_json_schema(by_alias=True))
    schema["properties"] |= {
        "defaults": _DEFAULTS,
        "hydra": {"type": "object", "description": "Hydra's own settings."},
    }
    schema["$defs"]["ModelConfig"]["properties"]["layers"] = _layers(ALLOWED | set(COMPOSITES), "layer")
    schema["$defs"]["AugConfig"]["properties"]["layers"] = _layers(AUGMENTATIONS, "augmentation layer")
    files = schema["$defs"]["FileSpec"]
    schema["$defs"]["FileSpec"] = {"anyOf": [files, {"type": "string", "description": "The name of the file."}]}
    return {"$schema": _DIALECT, **schema}


def group_schema(group: str) -> dict[str, Any]:
    """Return the schema of a group's options; for presets, that of the whole config."""
    schema = config_schema()
    if group in ("experiment", "debug"):
        return schema
    definitions = schema["$defs"]
    reference = schema["properties"][group]["anyOf"][0]["$ref"]
    own = definitions[reference.rpartition("/")[2]]
    own = {**own, "properties": {**own["properties"], "defaults": _DEFAULTS}}
    return {"$schema": _DIALECT, **own, "$defs": definitions}


def _for_editing(schema: Any, *, is_name: bool = False) -> Any:
    """Return a schema in which no key is required and every value may be an interpolation.

    Args:
        schema: The schema, or a part of it.
        is_name: Whether the keys of a mapping are names of properties or definitions.
    """
    if isinstance(schema, list):
        return [_for_editing(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if is_name:
        return {name: _for_editing(value) for name, value in schema.items()}
    changed = {
        key: _for_editing(value, is_name=key in ("properties", "$defs"))
        for key, value in schema.items()
        if key not in ("required", "title")
    }
    if properties := changed.get("properties"):
        changed["properties"] = {name: _or_interpolation(value) for name, value in properties.items()}
    return changed


def _or_interpolation(schema: dict[str, Any]) -> dict[str, Any]:
    description = {key: schema.pop(key) for key in ("description",) if key in schema}
    return {**description, "anyOf": [schema, {"type": "null"}, _INTERPOLATION]}


def _layers(types: Iterable[str], what: str) -> dict[str, Any]:
    """Return the schema of a list of layers: names, or mappings with a type and its arguments."""
    kind = {"enum": sorted(types), "description": f"The type of the {what}, a class of keras.layers."}
    entry = {"type": "object", "required": ["type"], "properties": {"type": kind}}
    return {"anyOf": [{"type": "array", "items": {"anyOf": [kind, entry, {"type": "null"}]}}, _INTERPOLATION]}
