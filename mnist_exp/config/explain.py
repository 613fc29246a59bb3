"""Why an override or a file could not be composed, in a line that a user can act on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.types import Override
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from mnist_exp.config.keras_names import class_arguments
from mnist_exp.config.names import did_you_mean, nearest


def explain_unparsable(text: str) -> str:
    if "=" not in text:
        return f"{text}: expected key=value (verbs such as 'runs' come first)"
    if re.match(r"[^=]*\[\d+\]", text):
        better = re.sub(r"\[(\d+)\]", r".\1", text.split("=")[0])
        return f"{text}: a list's entry is written with dots: {better}=…"
    return f"{text}: not in Hydra's override syntax; values with special characters need quotes: 'key=\"value\"'"


def explain_file(error: Exception) -> str:
    cause = _yaml_error(error)
    return cause or str(error).strip().split("\n")[0]


def _yaml_error(error: BaseException | None) -> str | None:
    while error is not None:
        mark = getattr(error, "problem_mark", None)
        if isinstance(error, YAMLError) and mark is not None:
            file, problem = mark.name.removeprefix("file://"), getattr(error, "problem", "")
            return f"{file}:{mark.line + 1}: not valid YAML: {problem}"
        error = error.__cause__ or error.__context__
    return None


def explain(override: Override, error: Exception, config: DictConfig, loader: ConfigLoaderImpl) -> str:
    text = override.input_line or ""
    key = override.key_or_group
    if cause := _yaml_error(error):
        return f"{text}: {cause}"
    if isinstance(error, MissingConfigException) and error.options is not None:
        options = sorted(error.options)
        group, _, wanted = (error.missing_cfg_file or "").rpartition("/")
        names = "no such option" if group == key else f"it names {group}={wanted}, which is no such option"
        return f"{text}: {names}{did_you_mean(wanted, options)}; {group} has {', '.join(options)}"
    if override.is_sweep_override():
        return f"{text}: several values are a sweep, which needs -m"
    if override.is_delete() and OmegaConf.is_list(OmegaConf.select(config, key.rpartition(".")[0])):
        return f"{text}: an entry of a list is left out with {key}=null"
    parent, missing = _deepest(config, key)
    if missing is not None:
        groups = loader.list_groups("")
        full = f"{parent}.{missing}" if parent else missing
        if addition := _argument_of_keras(config, parent, missing, text):
            return f"{text}: {addition}"
        meant = did_you_mean(full, [*_all_keys(config), *groups]) or _same_last_part(missing, _all_keys(config))
        kind = "no such key or group" if "." not in key else "no such key"
        return f"{text}: {kind}{meant}"
    reason = str(error.__cause__ or error).strip().split("\n")[0]
    return f"{text}: {reason}"


def _argument_of_keras(config: DictConfig, parent: str, name: str, text: str) -> str:
    """How an argument that a layer or an optimizer has, but its entry does not give, is given."""
    node = OmegaConf.select(config, parent) if parent else None
    kind = node.get("type") if isinstance(node, DictConfig) else node
    of = "optimizers" if parent == "optimizer" else "layers"
    found = class_arguments(of, kind) if isinstance(kind, str) else None
    if found is None or name not in found.known | {"trainable"}:
        return ""
    if isinstance(node, DictConfig):
        return f"not given there so far; a key is added with a plus: +{text}"
    value = text.partition("=")[2]
    return f"{parent} is a name alone; give it as a whole: '{parent}={{type: {kind}, {name}: {value}}}'"


def _deepest(config: DictConfig, key: str) -> tuple[str, str | None]:
    """The part of `key` that exists, and the first part that does not."""
    node: Any = config
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if OmegaConf.is_dict(node) and part in node:
            node = node._get_node(part)
        elif OmegaConf.is_list(node) and part.isdigit() and int(part) < len(node):
            node = node._get_node(int(part))
        else:
            return ".".join(parts[:depth]), part
    return key, None


def _all_keys(config: Any, prefix: str = "") -> list[str]:
    keys = []
    if OmegaConf.is_dict(config):
        for key in config:
            if not prefix and key == "hydra":
                continue
            keys.append(f"{prefix}{key}")
            keys += _all_keys(config._get_node(key), f"{prefix}{key}.")
    elif OmegaConf.is_list(config):
        for index in range(len(config)):
            keys += _all_keys(config._get_node(index), f"{prefix}{index}.")
    return keys


def _same_last_part(name: str, keys: Sequence[str]) -> str:
    last = {key.rsplit(".", 1)[-1]: key for key in reversed(keys)}
    match = nearest(name, last)
    return f" (did you mean '{last[match]}'?)" if match else ""
