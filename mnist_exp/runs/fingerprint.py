"""What a run is, regardless of when and where it is run: its fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mnist_exp.config.schema import TrainConfig

# What can be changed without changing the weights that a run ends with. `data`'s own entries among them
# only say where the images are; what they are is in the data's digest.
_WITHOUT_EFFECT = ("name", "outputs", "from", "init_from", "sweep", "budget", "tracking")
_WITHOUT_EFFECT_ON_TRAINING = ("keep_checkpoint", "checkpoint_seconds", "watch")
_WITHOUT_EFFECT_ON_DATA = (
    "name", "source", "class_names", "dir", "files", "mirrors", "keras_cache", "fallback",
)  # fmt: skip
# The libraries that can change the weights.
LIBRARIES = ("keras", "tensorflow", "numpy")
# The code that can change the weights: rooms, and what gives the config's values their meaning.
_CODE = ("data", "model", "training", "config/schema.py")


def as_values(config: TrainConfig) -> dict[str, Any]:
    """The config as plain values, under the names that YAML has."""
    return config.model_dump(mode="json", by_alias=True)


def with_effect(values: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config's values can change the weights, without the names that its options have."""
    config = {key: value for key, value in values.items() if key not in _WITHOUT_EFFECT}
    config["data"] = {k: v for k, v in config["data"].items() if k not in _WITHOUT_EFFECT_ON_DATA}
    config["training"] = {k: v for k, v in config["training"].items() if k not in _WITHOUT_EFFECT_ON_TRAINING}
    for group in ("preprocess", "aug", "model", "debug"):
        config[group] = {k: v for k, v in config[group].items() if k != "name"}
    return config


def fingerprint(
    values: Mapping[str, Any],
    *,
    data_sha256: str,
    kind: str,
    precision: str,
    threads: int,
    init_sha256: str | None = None,
) -> str:
    """SHA-256 over the config (the device as resolved), the data, our code, and the libraries.

    `init_sha256` is that of the weights that the run starts from, if not from random ones.
    """
    config = with_effect(values)
    config["device"] = {**config["device"], "kind": kind, "precision": precision, "threads": threads}
    identity = {
        "config": config,
        "data": data_sha256,
        "init": init_sha256,
        "code": code_digest(),
        "versions": {name: version(name) for name in LIBRARIES},
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def code_digest() -> str:
    """SHA-256 of this package's own code that can change the weights."""
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for part in _CODE:
        path = package / part
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(f"{file.relative_to(package).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()
