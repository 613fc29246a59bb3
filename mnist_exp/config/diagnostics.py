"""Explain in one actionable line why an override or a file could not be composed."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from mnist_exp.config.hydra_adapter import (
    ConfigLoader,
    MissingKey,
    MissingOption,
    MissingVariable,
    first_reason,
    has_broken_interpolation,
    invalid_yaml,
    missing_option,
    missing_reference,
    unreadable,
)
from mnist_exp.config.provenance import COMMAND_LINE, short
from mnist_exp.errors import Code, Problem, first_line
from mnist_exp.keras_spec.signatures import class_arguments
from mnist_exp.suggest import did_you_mean, nearest
from mnist_exp.text import shorten


def explain_unparsable(text: str) -> str:
    """Explain why an override is not valid Hydra syntax."""
    text = shorten(text)
    if text.startswith("-"):
        keys = "write keys without dashes, as in training.epochs=5"
        return f"{text}: no such flag (--hydra-help lists the flags); {keys}"
    if "=" not in text:
        return f"{text}: expected key=value (only the first word can be a command)"
    if re.match(r"[^=]*\[\d+\]", text):
        better = re.sub(r"\[(\d+)\]", r".\1", text.split("=")[0])
        return f"{text}: index a list with dots: {better}=…"
    if re.match("[^=]+==", text):
        return f"{text}: there must be one '=', not several: {re.sub('=+', '=', text, count=1)}"
    key, _, value = text.partition("=")
    if re.search(r"\s", key):
        return f"{text}: a key must not contain blanks"
    if re.search("^,|,,|,$", value):
        return f"{text}: a value is missing next to a comma; separate several values by commas without blanks"
    is_plain = re.fullmatch(r"[\w./@]+", key) and not re.search(r"[][{},\"'…]", value)
    quoted = f"'{key}=\"{value}\"'" if is_plain else "'key=\"value\"'"
    return f"{text}: not valid in Hydra's override syntax; quote values with special characters: {quoted}"


def explain_interpolation(error: Exception, config: DictConfig) -> str:
    """Explain why an interpolation could not be resolved, and suggest the key that was probably meant."""
    match missing_reference(error):
        case MissingKey(key):
            known = _all_keys(_plain(config))
            meant = did_you_mean(key, known) if "." in key else _same_last_part(key, known)
            return f"there is no key '{key}'{meant}"
        case MissingVariable(name):
            return f"the environment variable {name} is not set"
    return first_line(error)


def explain_file(error: Exception) -> str:
    """Explain which file could not be read, and why."""
    problem = _yaml_problem(error)
    return f"{problem.place}: {problem.message}" if problem else str(error).strip().split("\n")[0]


def _yaml_problem(error: BaseException) -> Problem | None:
    fault = invalid_yaml(error)
    if fault is None:
        return None
    since = f" {fault.context} that begins on line {fault.context_line}" if fault.context else ""
    return Problem("invalid-yaml", f"{short(fault.file)}:{fault.line}", f"not valid YAML{since}: {fault.problem}")


def explain(override: Override, error: Exception, config: DictConfig, loader: ConfigLoader) -> list[Problem]:
    """Return the problems with an override, or with the option file that it selects."""
    key = override.key_or_group
    if problem := _yaml_problem(error):
        return [problem]
    file = loader.option_file(key, str(override.value())) if loader.is_group(override) else None
    if file is not None:
        if why := unreadable(error):
            return [Problem("invalid-yaml", short(file), why)]
        if problems := _broken_interpolations(file):
            return problems
    code, message = _explain_override(override, error, config, loader)
    return [Problem(code, COMMAND_LINE, f"{shorten(override.input_line or '')}: {message}", key)]


def _broken_interpolations(file: Path) -> list[Problem]:
    """Return a problem for each value in a file that contains `${` but is not a valid interpolation."""
    problems = []
    for node in _scalars(yaml.compose(file.read_text(encoding="utf-8"))):
        if has_broken_interpolation(node.value):
            unclosed = node.value.count("${") > node.value.count("}")
            why = "'${' is never closed" if unclosed else "not a valid interpolation"
            place = f"{short(file)}:{node.start_mark.line + 1}"
            problems.append(Problem("invalid-interpolation", place, f"{node.value}: {why}"))
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


def _explain_override(
    override: Override, error: Exception, config: DictConfig, loader: ConfigLoader
) -> tuple[Code, str]:
    text = shorten(override.input_line or "")
    key = override.key_or_group
    if key.startswith("hydra.sweeper.params"):
        return "invalid-override", "sweep over the keys themselves: seed=0,1"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return "unknown-option", "no such option"
    if (missing := missing_option(error)) is not None:
        return "unknown-option", _explain_option(missing, key, loader)
    parent, part = _deepest(_plain(config), key)
    if override.is_sweep_override() and (part is None or "training" in config):
        return "several-values", _explain_several(text, key, config, is_there=part is None)
    if part is not None:
        if addition := _explain_addition(config, parent, part, text):
            return "invalid-override", addition
        kind = "no such key or group" if "." not in key else "no such key"
        return "unknown-key", f"{kind}{_suggest_key(config, key, parent, part)}"
    if text.startswith("+"):
        what = f"an option of {key} is already selected" if loader.is_group(override) else f"{key} is already set"
        return "invalid-override", f"{what}; change it without the plus: {text.lstrip('+')}"
    return "invalid-override", first_reason(error)


def _explain_several(text: str, key: str, config: DictConfig, *, is_there: bool) -> str:
    """Return what several values need: -m or, for a key that can have a list, brackets."""
    values = text.partition("=")[2]
    current = _at(config, key) if is_there else ""
    as_list = f"'{key}=[{values}]'" if "(" not in values else ""
    if "training" in config:
        hint = f"; for a list, write {as_list}" if as_list and isinstance(current, list) else ""
        return f"several values make a sweep, which needs -m{hint or _suggest_point(text, key, config)}"
    is_listable = as_list and not isinstance(current, int | float)
    return f"must be one value, or a list: {as_list}" if is_listable else "must be one value"


def _suggest_point(text: str, key: str, config: DictConfig) -> str:
    """Return a hint if a decimal number was probably written with a comma, else an empty string."""
    number = re.fullmatch(r"(\d+),(\d+)", text.partition("=")[2])
    is_there = _deepest(_plain(config), key)[1] is None
    if number is None or not is_there or not isinstance(_at(config, key), float):
        return ""
    return f"; for a decimal number, write {number[1]}.{number[2]}"


def _explain_option(missing: MissingOption, key: str, loader: ConfigLoader) -> str:
    group, wanted, options = missing.group, missing.wanted, missing.options
    names = "no such option" if group == key else f"it selects {group}={wanted}, which does not exist"
    return (
        f"{names}{did_you_mean(wanted, options)}; {group} has {', '.join(options)}"
        f"{_misnamed_folder(loader, group)}"
    )


def _misnamed_folder(loader: ConfigLoader, group: str) -> str:
    """Return a hint if the user has a folder whose name is close to the group's, else an empty string."""
    for folder in loader.user_folders():
        if not (folder / group).is_dir():
            near = nearest(group, [path.name for path in folder.iterdir() if path.is_dir()])
            if near is not None:
                return f"; {short(folder / near)} is not a group; rename it to {group}"
    return ""


def _suggest_key(config: DictConfig, key: str, parent: str, missing: str) -> str:
    """Suggest the key that was probably meant, or list the keys or entries that exist."""
    node = _at(config, parent)
    if parent and not isinstance(node, dict):
        return f"; {parent} {_describe_value(node)}"
    siblings = [str(name) for name in (node or {}) if parent or name != "hydra"]
    groups = [] if parent else [str(name) for name in config.hydra.runtime.choices if "/" not in str(name)]
    known = _all_keys(_plain(config))
    if near := nearest(missing, [*siblings, *groups], cutoff=0.65):
        return f" (did you mean '{_whole_key(key, parent, missing, near, known)}'?)"
    if elsewhere := _same_last_part(missing, known):
        return elsewhere
    if not parent:
        return ""
    name = f" ({node.get('name')})" if node.get("name") else ""
    return f"; {parent}{name} has {', '.join(siblings)}"


def _describe_value(node: object) -> str:
    """Describe a value that has no keys."""
    if not isinstance(node, list):
        return f"is {'null' if node is None else node} here"
    return f"has entries 0 to {len(node) - 1}" if node else "has no entries"


def _whole_key(key: str, parent: str, missing: str, near: str, known: Sequence[str]) -> str:
    """Return the key with its missing part replaced by a similar one, or the existing key most similar to that."""
    start = f"{parent}." if parent else ""
    rest = key.removeprefix(f"{start}{missing}")
    whole = f"{start}{near}{rest}"
    return whole if whole in known or not rest else nearest(whole, known) or near


def _explain_addition(config: DictConfig, parent: str, name: str, text: str) -> str:
    """Explain how to add an argument that a layer or optimizer accepts but its entry does not set yet.

    Returns an empty string if there is no such argument.
    """
    node = _at(config, parent) if parent else None
    kind = node.get("type") if isinstance(node, dict) else node
    of = "optimizers" if parent == "optimizer" else "layers"
    found = class_arguments(of, kind) if isinstance(kind, str) else None
    if found is None or name not in found.known | {"trainable"}:
        return ""
    if isinstance(node, dict):
        return f"not set yet; add it with a plus: +{text}"
    value = text.partition("=")[2]
    return f"{parent} is only a name; override the whole entry: '{parent}={{type: {kind}, {name}: {value}}}'"


def _plain(config: DictConfig) -> Any:
    """Return the values of a config as written, with interpolations unresolved."""
    return OmegaConf.to_container(config, resolve=False)


def _at(config: DictConfig, path: str) -> Any:
    """Return the value at a dotted path, resolved if it is itself an interpolation; None if nothing is there."""
    node = OmegaConf.select(config, path) if path else config
    return OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node


def _deepest(values: Any, key: str) -> tuple[str, str | None]:
    """Return the longest prefix of `key` that exists, and the first part that does not (None if all do)."""
    node = values
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if isinstance(node, dict) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return ".".join(parts[:depth]), part
    return key, None


def _all_keys(values: Any, prefix: str = "") -> list[str]:
    """Return every dotted path of a config, except Hydra's own."""
    if isinstance(values, list):
        return [key for i, value in enumerate(values) for key in _all_keys(value, f"{prefix}{i}.")]
    keys = []
    for key, value in values.items() if isinstance(values, dict) else ():
        if prefix or key != "hydra":
            keys += [f"{prefix}{key}", *_all_keys(value, f"{prefix}{key}.")]
    return keys


def _same_last_part(name: str, keys: Sequence[str]) -> str:
    """Suggest a key whose last part resembles a name or has it as initials, as `learning_rate` has `lr`."""
    last = {key.rsplit(".", 1)[-1]: key for key in reversed(keys)}
    initials = {"".join(word[:1] for word in part.split("_")): part for part in last if "_" in part}
    match = nearest(name, last, cutoff=0.85) or initials.get(name)
    return f" (did you mean '{last[match]}'?)" if match else ""


def preset_problems(file: Path, refusal: Callable[[str, Sequence[str]], tuple[Code, str] | None]) -> list[Problem]:
    """Return the problems in a preset's defaults list and keys, each with its line number.

    Args:
        file: The preset's YAML file.
        refusal: Returns why an override, such as `model=pyramid`, cannot be added to others; None if it can.
    """
    accepted: list[str] = []
    text = file.read_text(encoding="utf-8")
    root = yaml.compose(text)
    if not isinstance(root, yaml.MappingNode):
        return []
    problems = []
    if problem := misplaced_preset(file):
        problems.append(problem)
    for key, value in root.value:
        chooses = key.value == "defaults"
        if chooses:
            problems += _not_overriding(file, value)
        for line, override in _choices(value) if chooses else _leaves(value, key.value):
            explain_rejection = refusal(override, accepted)
            if explain_rejection is not None:
                code, message = explain_rejection
                problems.append(Problem(code, f"{short(file)}:{line}", message.replace("=null", "", 1)))
            elif chooses:
                accepted.append(override)
    return problems


def misplaced_preset(file: Path) -> Problem | None:
    """Return the problem with a preset that does not begin with `# @package _global_`; None if it does.

    Hydra ignores the line after any other comment.
    """
    if re.match(r"(\s*#\s*@.*\n)*\s*#\s*@package\s+_global_", file.read_text(encoding="utf-8")):
        return None
    message = "a preset must begin with '# @package _global_', so that its keys are those of the whole config"
    return Problem("missing-value", f"{short(file)}:1", message, file.parent.name)


def _not_overriding(file: Path, defaults: yaml.Node) -> Iterator[Problem]:
    """Yield a problem for each entry of a preset's defaults list that does not override the selected option."""
    for entry in defaults.value:
        for name, option in entry.value if isinstance(entry, yaml.MappingNode) else ():
            place = f"{short(file)}:{name.start_mark.line + 1}"
            if not _are_scalars(name, option):
                message = "defaults: must be 'override /<group>: <option>', found a list or mapping"
                yield Problem("invalid-override", place, message)
            elif not name.value.startswith("override /"):
                group = name.value.removeprefix("override ").strip("/ ")
                message = f"{name.value}: must be 'override /{group}: {option.value}'"
                yield Problem("invalid-override", place, message)


def _are_scalars(*nodes: yaml.Node) -> bool:
    return all(isinstance(node, yaml.ScalarNode) for node in nodes)


def _choices(defaults: yaml.Node) -> Iterator[tuple[int, str]]:
    """Yield the line of each entry of a defaults list, and the equivalent override."""
    for entry in defaults.value:
        for name, option in entry.value if isinstance(entry, yaml.MappingNode) else ():
            if _are_scalars(name, option):
                group = name.value.removeprefix("override ").lstrip("/")
                yield name.start_mark.line + 1, f"{group}={option.value}"


def _leaves(node: yaml.Node, path: str) -> Iterator[tuple[int, str]]:
    """Yield the line of each value in a mapping, and an override that is rejected if the key does not exist."""
    if not isinstance(node, yaml.MappingNode):
        yield node.start_mark.line + 1, f"{path}=null"
        return
    for key, value in node.value:
        if _are_scalars(key):
            yield from _leaves(value, f"{path}.{key.value}")
