"""From words on the command line to one plain, resolved dict per run, by Hydra's rules.

Hydra stops at the first thing that is wrong; here the override that it stopped at is set aside, explained,
and the composition goes on, so that everything wrong is told at once. Hydra's own entry point (`hydra.main`)
serves its information flags only (`--help`, `--cfg`, `--info`, completion).

Some names come from `hydra._internal`: `hydra-core` is pinned below 1.4 for that.
"""

from __future__ import annotations

import itertools
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mnist_exp.config.names import did_you_mean
from mnist_exp.config.places import COMMAND_LINE, Places
from mnist_exp.errors import Problem, RequestError

VERSION_BASE = "1.3"

# Hydra lets a TypeError through where an override deletes an entry of a list.
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError, TypeError)

# Groups whose options hold values of other groups.
PRESETS = ("experiment", "debug")

# Values of these keys are paths: what Hydra's grammar would read as something else is taken literally.
PATH_KEYS = frozenset({"from", "data.dir", "outputs"})


def conf_folder() -> Path:
    """The folder with our own options: packaged in a wheel, beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"


@dataclass(frozen=True)
class Request:
    """What the user asked for, not yet looked at: a verb, overrides, and a folder of own options."""

    verb: str
    overrides: tuple[str, ...] = ()
    config_dir: str | None = None
    multirun: bool = False
    base: Mapping[str, Any] | None = field(default=None, compare=False)
    """An earlier run's resolved config, to start from instead of the default options."""

    def with_option(self, group: str, option: str) -> Request:
        """The same request with another option of a group."""
        kept = tuple(text for text in self.overrides if not text.startswith(f"{group}="))
        return Request(self.verb, (*kept, f"{group}={option}"), self.config_dir, False, self.base)


@dataclass(frozen=True)
class Composition:
    """A composed config, its interpolations resolved, and where its values come from."""

    values: dict[str, Any]
    places: Places
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Grid:
    """The jobs of a sweep: which keys are swept, and the overrides of each job."""

    swept: tuple[str, ...]
    jobs: tuple[tuple[str, ...], ...]


def parser() -> ArgumentParser:
    """Hydra's own argument parser: overrides and its flags. It raises `RequestError`."""
    result = get_args_parser()
    result.prog = "mnist-exp"

    def refuse(message: str) -> NoReturn:
        flags = [flag for action in result._actions for flag in action.option_strings]
        unknown = message.removeprefix("unrecognized arguments: ").split()[0]
        raise RequestError(f"{message}{did_you_mean(unknown, flags)}; --hydra-help lists the flags")

    result.error = refuse  # type: ignore[method-assign]
    return result


def request_from(verb: str, arguments: Namespace) -> Request:
    """The request that parsed arguments make; path values are quoted where Hydra would misread them."""
    overrides = tuple(_literal_path(text, arguments.multirun) for text in arguments.overrides)
    return Request(verb, overrides, arguments.config_dir, arguments.multirun)


def _literal_path(text: str, multirun: bool) -> str:
    key, equals, value = text.partition("=")
    if not equals or key.lstrip("+") not in PATH_KEYS or not value:
        return text
    try:
        parsed = _parse(text)
        plain = parsed.value() is None or isinstance(parsed.value(), str)
        if (multirun and parsed.is_sweep_override()) or (plain and not parsed.is_sweep_override()):
            return text
    except HydraException:
        pass
    escaped = re.sub(r"(\\+)(?='|$)", r"\1\1", value).replace("'", "\\'")
    return f"{key}='{escaped}'"


def override_value(request: Request, key: str) -> Any:
    """What the command line gives for a key; None where it does not, or not in Hydra's syntax."""
    for text in reversed(request.overrides):
        if _element(text) == key:
            with suppress(HydraException):
                return _parse(text).value()
    return None


def compose(request: Request) -> Composition:
    """Compose one config; everything wrong with its overrides and files is in its `problems`.

    Where not even our own options compose (a YAML file that cannot be read), `RequestError` is raised.
    """
    with config_loader(request.config_dir) as loader:
        good, problems = _parsable(request.overrides)
        try:
            config = _load(loader, request, good)
        except COMPOSITION_ERRORS:
            config, good, more = _load_what_can_be(loader, request, good)
            problems += more
        if request.base is not None:
            problems += [
                Problem(
                    COMMAND_LINE, f"{text}: a preset cannot be put on a saved config; give its values one by one"
                )
                for text in good
                if _element(text) in PRESETS and not text.endswith("=none")
            ]
        choices = {str(k): v for k, v in config.hydra.runtime.choices.items() if not str(k).startswith("hydra")}
        folders = [Path(s.path) for s in config.hydra.runtime.config_sources if s.schema == "file"]
        HydraConfig.instance().set_config(config)
        with_knobs = OmegaConf.to_container(config, resolve=False)
        assert isinstance(with_knobs, dict)
        del with_knobs["hydra"]
        values, unresolved = _resolve(config)
        places = Places(request.verb, folders, choices, good)
        problems += [Problem(places.place(path), f"{path}: {text}") for path, text in unresolved]
        problems += _unused_knobs(with_knobs, request, places)
    return Composition(values, places, tuple(problems))


def compose_or_explain(request: Request) -> Composition:
    """Compose, and raise `RequestError` for whatever is wrong."""
    composition = compose(request)
    if composition.problems:
        raise RequestError(sorted(set(composition.problems)))
    return composition


def expand(request: Request) -> Grid:
    """The jobs of a sweep, in the order in which Hydra's own sweeper would run them.

    Raises `RequestError` for overrides that cannot be swept.
    """
    with config_loader(request.config_dir) as loader:
        texts, problems = _parsable(request.overrides)
        given = {_element(text) for text in texts}
        texts = [
            f"{key}={value}" for key, value in _sweeper_params(loader, request).items() if key not in given
        ] + texts
        swept: list[str] = []
        choices: list[list[str]] = []
        for text in texts:
            override = _parse(text, loader)
            if not override.is_sweep_override():
                choices.append([text])
            elif override.is_discrete_sweep():
                key = override.get_key_element()
                swept.append(key)
                choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
            else:
                problems.append(
                    Problem(
                        COMMAND_LINE,
                        f"{text}: a grid needs single values (a,b,c or range(…)), not an interval",
                    )
                )
    if problems:
        raise RequestError(problems)
    return Grid(tuple(swept), tuple(itertools.product(*choices)))


def _sweeper_params(loader: ConfigLoaderImpl, request: Request) -> Mapping[str, Any]:
    """`hydra.sweeper.params`, Hydra's way of writing a grid into a config file."""
    try:
        config = loader.load_configuration(request.verb, list(request.overrides), RunMode.MULTIRUN)
    except COMPOSITION_ERRORS:
        return {}  # told when the jobs are composed
    params = OmegaConf.select(config, "hydra.sweeper.params")
    return {} if params is None else cast("Mapping[str, Any]", OmegaConf.to_container(params))


@contextmanager
def config_loader(config_dir: str | None) -> Iterator[ConfigLoaderImpl]:
    """Hydra's loader over our options and those of the user's own folder. Raises `RequestError`."""
    search_path = create_config_search_path(str(conf_folder()))
    if config_dir is not None:
        folder = Path(config_dir).expanduser().resolve()
        if not folder.is_dir():
            raise RequestError(f"--config-dir {config_dir}: there is no such folder")
        search_path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    from hydra import version

    version.setbase(VERSION_BASE)
    hydra = Hydra.create_main_hydra2("mnist-exp", search_path)
    try:
        yield cast(ConfigLoaderImpl, hydra.config_loader)
    finally:
        GlobalHydra.instance().clear()


def _load(loader: ConfigLoaderImpl, request: Request, overrides: Sequence[str]) -> DictConfig:
    if request.base is None:
        return loader.load_configuration(request.verb, list(overrides), RunMode.RUN)
    parsed = [_parse(text, loader) for text in overrides]
    groups = [o for o in parsed if o.is_hydra_override() or _is_group(loader, o)]
    config = loader.load_configuration(request.verb, [o.input_line or "" for o in groups], RunMode.RUN)
    chosen = {o.key_or_group for o in groups}
    OmegaConf.set_struct(config, False)
    for key, value in request.base.items():
        if key not in chosen:
            config[key] = value
    OmegaConf.set_struct(config, True)
    ConfigLoaderImpl._apply_overrides_to_config([o for o in parsed if o not in groups], config)
    return config


def _is_group(loader: ConfigLoaderImpl, override: Override) -> bool:
    return bool(loader.repository.group_exists(override.key_or_group))


def _parse(text: str, loader: ConfigLoaderImpl | None = None) -> Override:
    """Raises `HydraException`. The loader is for globs over a group's options."""
    return OverridesParser.create(config_loader=loader).parse_overrides([text])[0]


def _parsable(overrides: Sequence[str]) -> tuple[list[str], list[Problem]]:
    good, problems = [], []
    for text in overrides:
        try:
            _parse(text)
            good.append(text)
        except HydraException:
            problems.append(Problem(COMMAND_LINE, _explain_unparsable(text)))
    return good, problems


def _explain_unparsable(text: str) -> str:
    if "=" not in text:
        return f"{text}: expected key=value (verbs such as 'runs' come first)"
    if re.match(r"[^=]*\[\d+\]", text):
        better = re.sub(r"\[(\d+)\]", r".\1", text.split("=")[0])
        return f"{text}: a list's entry is written with dots: {better}=…"
    return f"{text}: not in Hydra's override syntax; values with special characters need quotes: 'key=\"value\"'"


def _load_what_can_be(
    loader: ConfigLoaderImpl, request: Request, overrides: Sequence[str]
) -> tuple[DictConfig, list[str], list[Problem]]:
    """Compose with the overrides added one at a time, without those that fail."""
    accepted: list[str] = []
    problems: list[Problem] = []
    try:
        config = _load(loader, request, accepted)
    except COMPOSITION_ERRORS as error:
        raise RequestError(_explain_file(error)) from error
    parsed = {text: _parse(text, loader) for text in overrides}
    # Groups first: what other overrides reach depends on them.
    for text in sorted(overrides, key=lambda text: not _is_group(loader, parsed[text])):
        try:
            config = _load(loader, request, [*accepted, text])
            accepted.append(text)
        except COMPOSITION_ERRORS as error:
            problems.append(Problem(COMMAND_LINE, _explain(parsed[text], error, config, loader)))
    return config, accepted, problems


def _explain_file(error: Exception) -> str:
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


def _explain(override: Override, error: Exception, config: DictConfig, loader: ConfigLoaderImpl) -> str:
    text = override.input_line or ""
    key = override.key_or_group
    if cause := _yaml_error(error):
        return f"{text}: {cause}"
    if isinstance(error, MissingConfigException) and error.options is not None:
        options = sorted(error.options)
        wanted = (error.missing_cfg_file or "").rsplit("/", 1)[-1]
        return f"{text}: no such option{did_you_mean(wanted, options)}; {key} has {', '.join(options)}"
    if override.is_sweep_override():
        return f"{text}: several values are a sweep, which needs -m"
    if override.is_delete() and OmegaConf.is_list(OmegaConf.select(config, key.rpartition(".")[0])):
        return f"{text}: an entry of a list is left out with {key}=null"
    parent, missing = _deepest(config, key)
    if missing is not None:
        groups = loader.list_groups("")
        full = f"{parent}.{missing}" if parent else missing
        meant = did_you_mean(full, [*_all_keys(config), *groups]) or _same_last_part(missing, _all_keys(config))
        kind = "no such key or group" if "." not in key else "no such key"
        return f"{text}: {kind}{meant}"
    reason = str(error.__cause__ or error).strip().split("\n")[0]
    return f"{text}: {reason}"


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
    match = did_you_mean(name, last)
    return match and f" (did you mean '{last[match.split(chr(39))[1]]}'?)"


def _element(text: str) -> str:
    return text.split("=", 1)[0].lstrip("+~")


def _resolve(config: DictConfig) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The config as plain values; what an interpolation could not resolve is told and left as it stands."""
    failed: list[tuple[str, str]] = []

    def plain(node: Any, prefix: str) -> Any:
        if OmegaConf.is_dict(node):
            return {str(key): entry(node, key, f"{prefix}{key}") for key in node if (prefix or key != "hydra")}
        if OmegaConf.is_list(node):
            return [entry(node, index, f"{prefix}{index}") for index in range(len(node))]
        return node

    def entry(node: Any, key: Any, path: str) -> Any:
        try:
            value = node[key]
        except OmegaConfBaseException as error:
            raw = OmegaConf.to_container(node, resolve=False)
            assert isinstance(raw, (dict, list))
            failed.append((path, f"{raw[key]}: {str(error).strip().splitlines()[0]}"))
            return raw[key]
        return plain(value, f"{path}.")

    return plain(config, ""), failed


def _unused_knobs(values: Mapping[Any, Any], request: Request, places: Places) -> list[Problem]:
    model = values.get("model")
    if not isinstance(model, dict):
        return []
    knobs = [str(key) for key in model if key not in ("name", "layers")]
    if request.base is not None and not any(_element(text) == "model" for text in request.overrides):
        # A saved config is resolved: its layers hold numbers, and turning a knob would do nothing.
        turned = [
            knob for knob in knobs if any(_element(t).startswith(f"model.{knob}") for t in request.overrides)
        ]
        return [
            Problem(
                COMMAND_LINE,
                f"model.{knob}: the layers of a saved config hold values, not knobs; "
                f"set the layer's argument (model.layers.0.…), or choose the model anew with model=…",
            )
            for knob in turned
        ]
    # Leaving out the layer that a knob is for is no mistake.
    changed = any(_element(text).startswith("model.layers") for text in request.overrides)
    given = [_element(text) for text in request.overrides]
    references = " ".join(re.findall(r"\$\{[^}]*\}", str(model)))
    return [
        Problem(places.place(f"model.{knob}"), f"model.{knob}: nothing in model.layers refers to this knob")
        for knob in knobs
        if (not changed or f"model.{knob}" in given) and not re.search(rf"\b{re.escape(knob)}\b", references)
    ]
