"""Why an override or a file could not be composed, in a line that a user can act on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.types import Override
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf, grammar_parser
from omegaconf.errors import GrammarParseError
from yaml import YAMLError
from yaml.reader import ReaderError

from mnist_exp.config.hydra_adapter import is_group, option_file
from mnist_exp.config.provenance import COMMAND_LINE, short
from mnist_exp.errors import Problem
from mnist_exp.keras_spec.signatures import class_arguments
from mnist_exp.suggest import did_you_mean, nearest


def explain_unparsable(text: str) -> str:
    if text.startswith("-"):
        return f"{text}: no such flag (--hydra-help lists them); keys have no dashes: training.epochs=5"
    if "=" not in text:
        return f"{text}: expected key=value (a verb would be the first word)"
    if re.match(r"[^=]*\[\d+\]", text):
        better = re.sub(r"\[(\d+)\]", r".\1", text.split("=")[0])
        return f"{text}: a list's entry is written with dots: {better}=…"
    return f"{text}: not in Hydra's override syntax; values with special characters need quotes: 'key=\"value\"'"


def explain_interpolation(error: Exception, config: DictConfig) -> str:
    """Why an interpolation could not be resolved, with the key that was probably meant."""
    first = str(error).strip().splitlines()[0]
    if match := re.search(r"Interpolation key '([^']*)' not found", first):
        known = _all_keys(config)
        meant = did_you_mean(match[1], known) if "." in match[1] else _same_last_part(match[1], known)
        return f"there is no key '{match[1]}'{meant}"
    if match := re.search(r"Environment variable '([^']*)' not found", first):
        return f"the environment variable {match[1]} is not set"
    return first


def explain_file(error: Exception) -> str:
    found = _yaml_problem(error)
    return f"{found.place}: {found.message}" if found else str(error).strip().split("\n")[0]


def _yaml_problem(error: BaseException | None) -> Problem | None:
    while error is not None:
        mark = getattr(error, "problem_mark", None)
        if isinstance(error, YAMLError) and mark is not None:
            file, problem = Path(mark.name.removeprefix("file://")), getattr(error, "problem", "")
            context, start = getattr(error, "context", None), getattr(error, "context_mark", None)
            since = f" {context} that begins in line {start.line + 1}" if context and start else ""
            return Problem(f"{short(file)}:{mark.line + 1}", f"not valid YAML{since}: {problem}")
        error = error.__cause__ or error.__context__
    return None


def unreadable(error: BaseException | None) -> str:
    """Why a file could not be read as YAML; nothing, where that is not what went wrong."""
    while error is not None:
        if isinstance(error, UnicodeDecodeError):
            return f"not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}"
        if isinstance(error, ReaderError):
            return f"not valid YAML: character {error.position} is U+{error.character:04X}"
        if isinstance(error, YAMLError):
            return str(error)
        error = error.__cause__ or error.__context__
    return ""


def explain(override: Override, error: Exception, config: DictConfig, loader: ConfigLoaderImpl) -> list[Problem]:
    """What is wrong with an override, or with the file of the option that it names."""
    key = override.key_or_group
    if found := _yaml_problem(error):
        return [found]
    file = option_file(loader, key, str(override.value())) if is_group(loader, override) else None
    if file is not None:
        if why := unreadable(error):
            return [Problem(short(file), why)]
        if problems := _broken_interpolations(file):
            return problems
    return [Problem(COMMAND_LINE, _explain(override, error, config, loader), key)]


def _broken_interpolations(file: Path) -> list[Problem]:
    """The values of a file that are no interpolations, though they have the sign of one."""
    problems = []
    for node in _scalars(yaml.compose(file.read_text(encoding="utf-8"))):
        try:
            if "${" in node.value:
                grammar_parser.parse(node.value)
        except GrammarParseError:
            why = "'${' is never closed" if node.value.count("${") > node.value.count("}") else "no interpolation"
            problems.append(Problem(f"{short(file)}:{node.start_mark.line + 1}", f"{node.value}: {why}"))
    return problems


def _scalars(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _scalars(item)
    elif isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            yield from _scalars(value)


def _explain(override: Override, error: Exception, config: DictConfig, loader: ConfigLoaderImpl) -> str:
    text = override.input_line or ""
    key = override.key_or_group
    if isinstance(error, MissingConfigException) and error.options is not None:
        options = sorted(error.options)
        group, _, wanted = (error.missing_cfg_file or "").rpartition("/")
        names = "no such option" if group == key else f"it names {group}={wanted}, which is no such option"
        there = f"{group} has {', '.join(options)}{_no_folder(loader, group)}"
        return f"{text}: {names}{did_you_mean(wanted, options)}; {there}"
    if override.is_sweep_override():
        return f"{text}: several values are a sweep, which needs -m"
    if override.is_delete() and OmegaConf.is_list(OmegaConf.select(config, key.rpartition(".")[0])):
        return f"{text}: an entry of a list is left out with {key}=null"
    parent, missing = _deepest(config, key)
    if missing is not None:
        if addition := _argument_of_keras(config, parent, missing, text):
            return f"{text}: {addition}"
        kind = "no such key or group" if "." not in key else "no such key"
        return f"{text}: {kind}{_meant_key(config, key, parent, missing)}"
    if is_group(loader, override) and text.startswith("+"):
        return f"{text}: there is an option of {key} already; it is changed without the plus: {text[1:]}"
    reason = str(error.__cause__ or error).strip().split("\n")[0]
    return f"{text}: {reason}"


def _no_folder(loader: ConfigLoaderImpl, group: str) -> str:
    """That a user's folder has a group of another name, which may have been meant for this one."""
    for source in loader.get_sources():
        folder = Path(source.path)
        if source.provider == "command-line" and not (folder / group).is_dir():
            near = nearest(group, [path.name for path in folder.iterdir() if path.is_dir()])
            if near is not None:
                return f"; {short(folder / near)} is no group: it would be called {group}"
    return ""


def _meant_key(config: DictConfig, key: str, parent: str, missing: str) -> str:
    """Which key was probably meant by one that is not there; else, what there is in its place."""
    node = OmegaConf.select(config, parent) if parent else config
    if OmegaConf.is_list(node):
        last = f"0 to {len(node) - 1}" if len(node) else "nothing"
        return f"; {parent} has the entries {last}"
    if parent and not OmegaConf.is_dict(node):
        return f"; {parent} is {'null' if node is None else node} here"
    groups = [] if parent else [str(name) for name in config.hydra.runtime.choices if "/" not in str(name)]
    beside = [str(name) for name in (node or {}) if parent or name != "hydra"]
    if near := nearest(missing, [*beside, *groups], cutoff=0.65):
        rest = key.removeprefix(f"{parent}.{missing}" if parent else missing)
        whole = f"{parent}.{near}{rest}" if parent else f"{near}{rest}"
        known = _all_keys(config)
        whole = whole if whole in known or not rest else nearest(whole, known) or near
        return f" (did you mean '{whole}'?)"
    if elsewhere := _same_last_part(missing, _all_keys(config)):
        return elsewhere
    if not parent:
        return ""
    name = f" ({node.get('name')})" if isinstance(node, DictConfig) and node.get("name") else ""
    return f"; {parent}{name} has {', '.join(beside)}"


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
    match = nearest(name, last, cutoff=0.85)
    return f" (did you mean '{last[match]}'?)" if match else ""


def preset_problems(file: Path, why_not: Callable[[str, Sequence[str]], str | None]) -> list[Problem]:
    """What is wrong with a preset's list of defaults, and with the keys of its body, each at its line.

    `why_not` says why an override, such as `model=pyramid`, cannot be added to others; None where it can.
    """
    right: list[str] = []
    text = file.read_text(encoding="utf-8")
    root = yaml.compose(text)
    if not isinstance(root, yaml.MappingNode):
        return []
    problems = []
    if not re.search(r"^# *@package +_global_", text, re.MULTILINE):
        message = "a preset's first line is '# @package _global_': its keys are then those of the whole config"
        problems.append(Problem(f"{short(file)}:1", message))
    for key, value in root.value:
        if key.value != "defaults":
            overrides = [(line, f"{path}=null") for line, path in _leaves(value, key.value)]
        else:
            entries = [
                pair for entry in value.value if isinstance(entry, yaml.MappingNode) for pair in entry.value
            ]
            overrides = [
                (name.start_mark.line + 1, f"{name.value.removeprefix('override ').lstrip('/')}={option.value}")
                for name, option in entries
            ]
        for line, override in overrides:
            reason = why_not(override, right)
            if reason is None and key.value == "defaults":
                right.append(override)
            elif reason is not None:
                problems.append(Problem(f"{short(file)}:{line}", reason.replace("=null", "", 1)))
    return problems


def _leaves(node: yaml.Node, path: str) -> Iterator[tuple[int, str]]:
    """The lines and the dotted paths of the values in a mapping."""
    if not isinstance(node, yaml.MappingNode):
        yield node.start_mark.line + 1, path
        return
    for key, value in node.value:
        yield from _leaves(value, f"{path}.{key.value}")
