"""The only module that uses internals of Hydra, OmegaConf and PyYAML, or parses their error messages.

`hydra-core` is pinned below 1.4 for this reason. tests/config/test_hydra_adapter.py tests the behaviour that
this module relies on.
"""

from __future__ import annotations

import copy
import os
import pickle
import re
import sys
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, cast

import hydra.version
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, grammar_parser
from omegaconf.errors import GrammarParseError, OmegaConfBaseException
from yaml import YAMLError
from yaml.error import MarkedYAMLError
from yaml.reader import ReaderError

from mnist_exp.config.key_lines import first_sentence
from mnist_exp.config.yaml_limits import excess_of_file
from mnist_exp.errors import Problem, RequestError, first_line
from mnist_exp.text import display_path

VERSION_BASE = "1.3"
# An override of a list's entry with a mapping.
_ENTRY = re.compile(r"[^+~=]+\.\d+=\{")

# Compositions without overridden values, pickled, by what they depend on.
_compositions: dict[tuple[object, ...], bytes] = {}
_MOST_COMPOSITIONS = 100

# The packages that contain Hydra's own launchers and those of its plugins.
LAUNCHER_PACKAGES = ("hydra._internal.core_plugins.", "hydra_plugins.")

# The launcher options in conf/ deliberately share the names of the plugins' options, which Hydra uses as schemas.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against", category=UserWarning)

# Hydra raises TypeError if an override deletes a list entry, ValueError for model=null, OSError for a file that
# contains only a number, and AttributeError if keys are put into a mapping that is null.
COMPOSITION_ERRORS = (
    HydraException, OmegaConfBaseException, YAMLError, TypeError, ValueError, OSError, AttributeError,
)  # fmt: skip


# ── Loading ──────────────────────────────────────────────────────────────────────────────────────────────────────


def conf_folder() -> Path:
    """Return the folder of the built-in options: inside the package in a wheel, next to it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"


def _put_over(config: DictConfig, saved: Mapping[str, Any]) -> None:
    """Replace a config's values with saved ones. Keys that the saved config lacks keep their default values."""
    OmegaConf.set_struct(config, False)
    for key, value in saved.items():
        known = config.get(key) if key != "model" and isinstance(value, Mapping) else None
        config[key] = {**known, **value} if known else value
    OmegaConf.set_struct(config, True)


def _apply_values(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Apply value overrides in order. A layer replaces an entry of a list, into which Hydra would merge it."""
    for override in overrides:
        value = override.value() if _ENTRY.match(override.input_line or "") else None
        if isinstance(value, dict) and "type" in value:
            OmegaConf.update(config, override.key_or_group, value, merge=False)
        else:
            ConfigLoaderImpl._apply_overrides_to_config([override], config)


class ConfigLoader:
    """Hydra's config loader for the built-in options and the user's own."""

    def __init__(self, loader: ConfigLoaderImpl) -> None:
        self._loader = loader

    def load(self, name: str, overrides: Sequence[str], *, multirun: bool = False) -> DictConfig:
        """Compose a root config, including Hydra's own settings.

        Raises:
            COMPOSITION_ERRORS: If an override or a file is invalid.
        """
        mode = RunMode.MULTIRUN if multirun else RunMode.RUN
        parsed = [self.parse(text) for text in overrides]
        values = [o for o in parsed if not (o.is_hydra_override() or o.is_sweep_override() or self._selects(o))]
        config = self._load_options(name, [o.input_line or "" for o in parsed if o not in values], mode)
        _apply_values(config, values)
        return config

    def _load_options(self, name: str, overrides: Sequence[str], mode: RunMode) -> DictConfig:
        """Compose a root config with selected options, or copy an earlier composition if no file has changed.

        The jobs of a sweep mostly differ in values alone, and a composition takes 0.3 s.
        """
        states = _file_states([conf_folder(), *self.user_folders()])
        if states is None or any("hydra.searchpath" in text for text in overrides):
            return self._loader.load_configuration(name, list(overrides), mode)
        key = (name, tuple(overrides), mode, states)
        if key not in _compositions:
            if len(_compositions) == _MOST_COMPOSITIONS:
                _compositions.clear()
            _compositions[key] = pickle.dumps(self._loader.load_configuration(name, list(overrides), mode))
        config: DictConfig = pickle.loads(_compositions[key])
        config.hydra.runtime.cwd = str(Path.cwd())
        return config

    def _selects(self, override: Override) -> bool:
        """Return whether an override selects an option: a mapping changes values of the group."""
        return self.is_group(override) and not isinstance(override.value(), dict)

    def load_over(self, name: str, overrides: Sequence[str], base: Mapping[str, Any]) -> DictConfig:
        """Compose a root config, taking the groups that no override chooses from saved values.

        Args:
            name: The root config.
            overrides: Chosen options and changed values; both take precedence over `base`.
            base: The values of a saved config, resolved.

        Raises:
            COMPOSITION_ERRORS: If an override or a file is invalid.
        """
        parsed = [self.parse(text) for text in overrides]
        groups = [o for o in parsed if o.is_hydra_override() or self.is_group(o)]
        config = self.load(name, [o.input_line or "" for o in groups])
        chosen = {o.key_or_group for o in groups}
        _put_over(config, {key: value for key, value in base.items() if key not in chosen})
        _apply_values(config, [o for o in parsed if o not in groups])
        return config

    def parse(self, text: str) -> Override:
        """Parse an override, expanding globs over a group's options.

        Raises:
            HydraException: If it is not valid Hydra syntax.
        """
        return OverridesParser.create(config_loader=self._loader).parse_overrides([text])[0]

    def is_group(self, override: Override) -> bool:
        """Return whether an override selects an option of a group."""
        try:
            return bool(self._loader.repository.group_exists(override.key_or_group))
        except OSError:  # the key is too long for a file name
            return False

    def option_file(self, group: str, option: str) -> Path | None:
        """Return the file of an option, searching the folders in Hydra's order; None if there is none."""
        folders = [Path(source.path) for source in self._loader.get_sources() if source.scheme() == "file"]
        files = [folder / group / f"{option}.yaml" for folder in folders]
        return next((file for file in files if os.path.isfile(file)), None)  # `Path.is_file` fails for long names

    def user_folders(self) -> list[Path]:
        """Return the folders given by --config-dir."""
        return [Path(source.path) for source in self._loader.get_sources() if source.provider == "command-line"]

    def make_launcher(self, config: DictConfig, function: Callable[[Any], Any]) -> Launcher:
        """Instantiate a config's launcher without the config's callbacks, which could name code to run."""
        context = HydraContext(config_loader=self._loader, callbacks=Callbacks())
        return Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=function, config=config
        )


def _file_states(folders: Sequence[Path]) -> tuple[object, ...] | None:
    """Return what differs as soon as an option file does; None if a folder is linked, as its files may change."""
    states: list[object] = []
    for folder in folders:
        for place, inside, files in os.walk(folder):
            if any(os.path.islink(os.path.join(place, name)) for name in inside):
                return None
            for file in (os.path.join(place, name) for name in sorted(files) if name.endswith(".yaml")):
                with suppress(OSError):  # a broken link is no option
                    found = os.stat(file)
                    states.append((file, found.st_mtime_ns, found.st_size, found.st_ino))
    return tuple(states)


@contextmanager
def config_loader(config_dir: str | None) -> Iterator[ConfigLoader]:
    """Create a config loader for the built-in options and those in the user's folder.

    Raises:
        RequestError: If the user's folder does not exist.
    """
    search_path = create_config_search_path(str(conf_folder()))
    if config_dir is not None:
        folder = Path(config_dir).expanduser().resolve()
        if not folder.is_dir():
            raise RequestError(f"--config-dir {config_dir}: there is no such folder")
        _refuse_excesses(folder)
        search_path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    hydra.version.setbase(VERSION_BASE)
    try:
        with _limiting_files():
            main = Hydra.create_main_hydra2("mnist-exp", search_path)
            yield ConfigLoader(cast(ConfigLoaderImpl, main.config_loader))
    finally:
        GlobalHydra.instance().clear()


@contextmanager
def _limiting_files() -> Iterator[None]:
    """Within the `with` block, raise `RequestError` before Hydra parses a user's file that exceeds a limit.

    A defaults list can select files that `_refuse_excesses` does not check.
    """
    Plugins.instance()  # registers Hydra's own sources
    source: Any = SourcesRegistry.instance().resolve("file")
    loading = source.load_config

    def load_config(self: Any, config_path: str) -> ConfigResult:
        file = Path(self.path, self._normalize_file_name(config_path)).resolve()
        if file.is_file() and not file.is_relative_to(conf_folder()):
            _refuse_excess(file)
        return cast(ConfigResult, loading(self, config_path))

    # The class itself stays registered: launchers send the registry to their workers.
    source.load_config = load_config
    try:
        yield
    finally:
        source.load_config = loading


def _refuse_excesses(folder: Path) -> None:
    """Raise `RequestError` with all of the user's option files that exceed a limit for YAML files."""
    groups = [path.name for path in conf_folder().iterdir() if path.is_dir()]
    files = [file for group in groups for file in sorted((folder / group).rglob("*.yaml")) if file.is_file()]
    _refuse_excess(*files)


def _refuse_excess(*files: Path) -> None:
    problems = [
        Problem("invalid-yaml", f"{display_path(file)}:{excess[0]}", excess[1])
        for file in files
        if (excess := _excess(file, file.stat().st_mtime_ns)) is not None
    ]
    if problems:
        raise RequestError(problems)


@lru_cache(maxsize=1024)
def _excess(file: Path, changed: int) -> tuple[int, str] | None:
    return excess_of_file(file)


def hidden_options(config_dir: str | None) -> list[Path]:
    """Return the user's option files that are hidden by built-in options of the same name."""
    if config_dir is None:
        return []
    theirs, ours = Path(config_dir).expanduser(), conf_folder()
    return sorted(file for file in theirs.rglob("*.yaml") if (ours / file.relative_to(theirs)).is_file())


# ── Overrides and flags ──────────────────────────────────────────────────────────────────────────────────────────


def parse_override(text: str) -> Override:
    """Parse an override without expanding globs.

    Raises:
        HydraException: If it is not valid Hydra syntax.
    """
    return OverridesParser.create().parse_overrides([text])[0]


def apply_override(config: DictConfig, override: Override) -> DictConfig:
    """Return a copy of a composed config with a value override applied, without reading any file.

    Raises:
        COMPOSITION_ERRORS: If the override cannot be applied.
    """
    changed = copy.deepcopy(config)
    _apply_values(changed, [override])
    return changed


def argument_parser(refuse: Callable[[str], NoReturn]) -> tuple[ArgumentParser, list[str]]:
    """Return Hydra's argument parser and its flags.

    Args:
        refuse: Called with the parser's error message if the command line is invalid.
    """
    parser = get_args_parser()
    parser.prog = "mnist-exp"
    parser.error = refuse  # type: ignore[assignment, method-assign]
    return parser, [flag for action in parser._actions for flag in action.option_strings]


def run_flags(name: str, words: Sequence[str]) -> int:
    """Let Hydra handle --help, --cfg, --info or completion for a root config, and return the exit status.

    Hydra's errors are raised rather than printed.
    """
    previous, sys.argv = sys.argv, ["mnist-exp", *words]
    setting = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise errors instead of printing them and exiting
    try:
        with _listing_groups_directly(), _limiting_files():
            hydra.main(config_path=str(conf_folder()), config_name=name, version_base=VERSION_BASE)(
                lambda _: None
            )()
    except SystemExit as end:
        return int(end.code or 0)
    except ValueError as error:  # flags that exclude each other
        raise RequestError(first_line(error)) from error
    finally:
        sys.argv = previous
        if setting is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = setting
    return 0


def describe_options(help_text: str, config_dir: str | None) -> str:
    """Replace the lines `group: option, option` of Hydra's help by a line per option, with its first sentence."""
    folders = [conf_folder(), *([] if config_dir is None else [Path(config_dir).expanduser()])]

    def described(line: re.Match[str]) -> str:
        options = line[2].split(", ")
        width = max(map(len, options))
        lines = [
            f"  {option:<{width}}  {_describe_option(folders, line[1], option)}".rstrip() for option in options
        ]
        return "\n".join([line[1], *lines])

    groups, title, config = help_text.partition("\nThe composed config")
    return re.sub(r"^([a-z_/]+): (.+)$", described, groups, flags=re.MULTILINE) + title + config


def _describe_option(folders: Sequence[Path], group: str, option: str) -> str:
    file = next((found for folder in folders if (found := folder / group / f"{option}.yaml").is_file()), None)
    return "" if file is None else first_sentence(file)


@contextmanager
def _listing_groups_directly() -> Iterator[None]:
    """List groups' options without copying Hydra's repository: `--help` would copy it about a hundred times."""
    copying = ConfigLoaderImpl.get_group_options

    def get_group_options(
        self: ConfigLoaderImpl,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        if config_name is None and not overrides:  # only a config or overrides can change the search path
            return self.repository.get_group_options(group_name, results_filter)
        return copying(self, group_name, results_filter, config_name, overrides)

    ConfigLoaderImpl.get_group_options = get_group_options  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.get_group_options = copying  # type: ignore[method-assign]


# ── Errors as values ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class MissingOption:
    """An option that a group does not have."""

    group: str
    wanted: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class MissingKey:
    """A nonexistent key that an interpolation refers to."""

    key: str


@dataclass(frozen=True)
class MissingVariable:
    """An unset environment variable that an interpolation refers to."""

    name: str


@dataclass(frozen=True)
class InvalidYaml:
    """A syntax error in a YAML file; lines count from 1."""

    file: Path
    line: int
    problem: str
    context: str
    """The parser's context, such as `while parsing a flow sequence`; may be empty."""
    context_line: int


def missing_option(error: Exception) -> MissingOption | None:
    """Return the option that Hydra did not find; None for any other error."""
    if not isinstance(error, MissingConfigException) or error.options is None:
        return None
    group, _, wanted = (error.missing_cfg_file or "").rpartition("/")
    return MissingOption(group, wanted, tuple(sorted(error.options)))


def missing_reference(error: Exception) -> MissingKey | MissingVariable | None:
    """Return the missing key or variable that an interpolation refers to; None for any other error."""
    text = str(error)
    if match := re.search(r"Interpolation key '([^']*)' not found", text):
        return MissingKey(match[1])
    if match := re.search(r"Environment variable '([^']*)' not found", text):
        return MissingVariable(match[1])
    return None


def invalid_yaml(error: BaseException | None) -> InvalidYaml | None:
    """Return the YAML syntax error that caused an error; None if it has another cause."""
    for cause in _causes(error):
        if isinstance(cause, MarkedYAMLError) and cause.problem_mark is not None:
            mark, start = cause.problem_mark, cause.context_mark
            file = Path(mark.name.removeprefix("file://"))
            context = str(cause.context) if cause.context and start else ""
            return InvalidYaml(file, mark.line + 1, str(cause.problem), context, start.line + 1 if start else 0)
    return None


def unreadable(error: BaseException | None) -> str:
    """Return why a file could not be read as YAML; empty if the error has another cause."""
    for cause in _causes(error):
        if isinstance(cause, UnicodeDecodeError):
            return f"not UTF-8: byte {cause.start} is 0x{cause.object[cause.start]:02x}"
        if isinstance(cause, ReaderError):
            return f"not valid YAML: character {cause.position} is U+{cause.character:04X}"
        if isinstance(cause, YAMLError):
            return str(cause)
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, each once: with `OC_CAUSE=1` or a debugger, they form a circle."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def first_reason(error: Exception) -> str:
    """Return the first line of the message of an error's cause, or of the error itself if it has none."""
    return str(error.__cause__ or error).strip().split("\n")[0]


def has_broken_interpolation(text: str) -> bool:
    """Return whether a value contains `${` but is not a valid interpolation."""
    try:
        if "${" in text:
            grammar_parser.parse(text)
    except GrammarParseError:
        return True
    return False
