"""The fingerprint of a run: two runs with the same fingerprint end with the same weights."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mnist_exp import registrations
from mnist_exp.config.schema import TrainConfig

# Keys that do not affect the weights. Those of `data` describe the files; the data's digest covers their content.
_WITHOUT_EFFECT = (
    "name", "outputs", "from", "init_from", "teacher", "any_version", "save", "plots", "report", "sweep", "budget",
    "tracking",
)  # fmt: skip
_WITHOUT_EFFECT_ON_TRAINING = ("keep_checkpoint", "checkpoint_seconds", "watch")
_WITHOUT_EFFECT_ON_DATA = (
    "name", "source", "class_names", "dir", "files", "mirrors", "keras_cache", "fallback",
    "resize", "scale", "label_offset", "label_column", "transpose", "skip_bad", "verify",
)  # fmt: skip
LIBRARIES = ("keras", "tensorflow", "numpy")
"""The libraries that can change the weights."""
CODE_ROOTS = (
    "mnist_exp.data.formats", "mnist_exp.model.backend", "mnist_exp.model.build", "mnist_exp.model.warm_start",
    "mnist_exp.training.device", "mnist_exp.training.loop",
)  # fmt: skip
"""The modules that read the data, build the model and train it. Everything they import can change the weights."""
# Functions that only print or collect messages.
_REPORTS = ("Problem", "refuse", "report", "say", "tell", "warn")


def as_values(config: TrainConfig) -> dict[str, Any]:
    """Return the config as plain values under the names that YAML uses."""
    return config.model_dump(mode="json", by_alias=True)


def with_effect(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that can change the weights, without the names of the chosen options."""
    config = {key: value for key, value in values.items() if key not in _WITHOUT_EFFECT}
    config["data"] = {k: v for k, v in config["data"].items() if k not in _WITHOUT_EFFECT_ON_DATA}
    config["training"] = {k: v for k, v in config["training"].items() if k not in _WITHOUT_EFFECT_ON_TRAINING}
    if config["training"].get("max_seconds"):  # a job is identified by its budget, not by what fits into it
        config["training"].pop("epochs", None)
    # Leave out newer keys that have no effect, so that the values equal those of configs without these keys.
    newer = {
        "training": ("class_weight", "freeze", "callbacks", "max_seconds", "average_last"),
        "data": ("balance",), "schedule": ("arguments",), "aug": ("until", "mixup", "cutmix"),
    }  # fmt: skip
    if values.get("teacher") is None:
        config["training"].pop("distillation", None)
    for group, keys in newer.items():
        config[group] = {k: v for k, v in config[group].items() if v or k not in keys}
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
    teacher_sha256: str | None = None,
) -> str:
    """Return the SHA-256 of the config (with the resolved device), the data, the code and the libraries.

    The code includes the plug-ins whose names the config uses.

    Args:
        values: The config, as `as_values` returns it.
        data_sha256: Digest of the images and labels.
        kind: `cpu` or `gpu`.
        precision: `float32` or `bfloat16`.
        threads: Number of TensorFlow threads.
        init_sha256: Digest of the weights that the run starts from; None for random weights.
        teacher_sha256: Digest of the teacher's weights; None without a teacher.
    """
    config = with_effect(values)
    config["device"] = {**config["device"], "kind": kind, "precision": precision, "threads": threads}
    identity: dict[str, Any] = {
        "config": config,
        "data": data_sha256,
        "init": init_sha256,
        "code": code_digest(),
        "versions": {name: version(name) for name in LIBRARIES},
    }
    if teacher_sha256 is not None:
        identity["teacher"] = teacher_sha256
    if plugins := registrations.used_by(values):
        identity["plugins"] = {plugin.name: plugin.sha256 for plugin in plugins}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


@cache
def code_digest() -> str:
    """Return the SHA-256 of the code that can change the weights: `CODE_ROOTS` and everything they import."""
    return digest_of(import_closure(CODE_ROOTS))


def digest_of(trees: Mapping[str, ast.Module]) -> str:
    """Return the SHA-256 of modules, given as a mapping from dotted names to syntax trees.

    Comments, layout, docstrings and the wording of messages do not count, so that rewording a message does not
    cause a sweep to be trained again. This is safe: an error ends the run and a report is only printed, so their
    arguments cannot affect the weights.
    """
    digest = hashlib.sha256()
    for name in sorted(trees):
        digest.update(f"{name}\0{_without_wording(trees[name])}\0".encode())
    return digest.hexdigest()


def import_closure(roots: Iterable[str]) -> dict[str, ast.Module]:
    """Return the syntax trees of the package's modules that the roots import, directly or indirectly.

    The keys are dotted names. Imports inside functions count; those for annotations only (`if TYPE_CHECKING`) do
    not.
    """
    package = Path(__file__).resolve().parent.parent
    trees: dict[str, ast.Module] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        file = package.parent.joinpath(*name.split(".")).with_suffix(".py")
        if name in trees or not name.startswith(f"{package.name}.") or not file.is_file():
            continue
        trees[name] = ast.parse(file.read_text(encoding="utf-8"))
        waiting += _imported_names(trees[name])
    return trees


def _imported_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not (isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING"):
            yield from _imported_names(node)


def _without_wording(node: object) -> str:
    """Return a syntax tree as text, without docstrings and the arguments of errors and reports.

    Empty fields are left out, because they vary with the Python version.
    """
    if isinstance(node, list):
        return f"[{','.join(map(_without_wording, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    kind = type(node).__name__
    if isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        return kind
    if isinstance(node, ast.Call):
        name = str(getattr(node.func, "id", getattr(node.func, "attr", "")))
        if name.lstrip("_") in _REPORTS or name.endswith("Error"):
            return f"{kind}({name})"
    fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
    return f"{kind}({','.join(f'{name}={_without_wording(value)}' for name, value in fields)})"
