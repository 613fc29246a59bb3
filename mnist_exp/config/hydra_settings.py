"""Refuse Hydra's own settings in the user's option files that could run commands, write files or set variables.

Option files are untrusted, so they may set only a sweep's values and numbers and names for its launcher.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from mnist_exp.config.hydra_adapter import COMPOSITION_ERRORS, conf_folder, config_loader
from mnist_exp.config.overrides import Request, key_of
from mnist_exp.errors import Problem

# Settings that the program or the command line determines, or that contain only values of the program's own keys.
_UNCHECKED = (
    "hydra.runtime", "hydra.overrides", "hydra.job.override_dirname", "hydra.sweeper.params",
    "hydra.sweeper.max_batch_size",
)  # fmt: skip
_LAUNCHER = "hydra.launcher."
_MESSAGE = "must not be set by an option file, as it could run commands or write files; use the command line"
# The launchers' settings whose texts are names or sizes. Other texts may be commands, addresses or folders.
_NAMES = frozenset({
    "_target_", "account", "backend", "batch_size", "comment", "constraint", "exclude", "gres", "max_nbytes",
    "mem_per_cpu", "mem_per_gpu", "mmap_mode", "name", "partition", "pre_dispatch", "prefer", "qos", "require",
})  # fmt: skip


def foreign_settings(request: Request, config: DictConfig) -> list[Problem]:
    """Return a problem for each setting of Hydra that an option file must not have.

    Args:
        request: The request. Its overrides may set anything.
        config: The composed config, including Hydra's own settings.
    """
    if request.config_dir is None:
        return []
    built_in = _built_in(request)
    texts = _launcher_texts()
    trusted = (*_UNCHECKED, *map(key_of, request.overrides))
    return [
        Problem("names-code", request.config_dir, f"{path}: {_MESSAGE}", path)
        for path, value in _leaves(config.hydra, "hydra")
        if not any(path == key or path.startswith(f"{key}.") for key in trusted)
        and not (
            _is_harmless(path, value, texts) if path.startswith(_LAUNCHER) else built_in.get(path, ...) == value
        )
    ]


def _built_in(request: Request) -> dict[str, Any]:
    """Return Hydra's settings, with its chosen options but without the user's files, by dotted path."""
    with config_loader(None) as loader:
        options: list[str] = []
        for text in request.overrides:
            if key_of(text).startswith("hydra/"):
                with suppress(*COMPOSITION_ERRORS):  # if the option is the user's own
                    loader.load(request.verb, [text], multirun=request.multirun)
                    options.append(text)
        config = loader.load(request.verb, options, multirun=request.multirun)
    return dict(_leaves(config.hydra, "hydra"))


def _is_harmless(path: str, value: Any, texts: frozenset[str]) -> bool:
    """Return whether a launcher's setting is a number, a name, or a text of a built-in option."""
    if not re.fullmatch(r"[\w.-]+", path):
        return False
    if isinstance(value, (bool, int, float)) or value in (None, [], {}):
        return True
    if not isinstance(value, str):  # such as a path, which OmegaConf's YAML loader can create
        return False
    if value in texts:
        return True
    return path.removeprefix(_LAUNCHER) in _NAMES and value.isprintable() and "${" not in value


def _launcher_texts() -> frozenset[str]:
    """Return the texts in the built-in options of `hydra/launcher`."""
    files = (conf_folder() / "hydra" / "launcher").glob("*.yaml")
    leaves = (leaf for file in files for leaf in _leaves(yaml.safe_load(file.read_text(encoding="utf-8")), ""))
    return frozenset(value for _, value in leaves if isinstance(value, str))


def _leaves(values: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the dotted path of each value, as written; an empty mapping or list is a value."""
    if OmegaConf.is_config(values):
        values = OmegaConf.to_container(values, resolve=False)
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    if not pairs:
        yield path, values
    for key, value in list(pairs):
        yield from _leaves(value, f"{path}.{key}")
