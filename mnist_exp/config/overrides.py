"""What a user asked for: a verb, overrides in Hydra's syntax, and flags."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from mnist_exp.errors import RequestError
from mnist_exp.suggest import did_you_mean

# Hydra's flags that a verb with a config of its own has no use for.
_NOT_HERE = {
    "config_name": "the verb chooses the config",
    "config_path": "a folder of your own options is added with --config-dir",
    "experimental_rerun": "from=<run> runs an earlier run's config again",
}

# Values of these keys are paths: what Hydra's grammar would read as something else is taken literally.
PATH_KEYS = frozenset(
    {"from", "init_from", "run", "data.dir", "inputs", "outputs", "output", "images", "tune.storage"}
)
_LISTS = ("inputs", "images")  # of them hold several


@dataclass(frozen=True)
class Request:
    """What the user asked for, not yet looked at: a verb, overrides, and a folder of own options."""

    verb: str
    overrides: tuple[str, ...] = ()
    config_dir: str | None = None
    multirun: bool = False
    words: tuple[str, ...] = field(default=(), compare=False)
    """The overrides as they were typed, before paths among them were quoted."""
    base: Mapping[str, Any] | None = field(default=None, compare=False)
    """An earlier run's resolved config, to start from instead of the default options."""
    base_file: Path | None = field(default=None, compare=False)
    """Where that stands."""

    def with_option(self, group: str, option: str) -> Request:
        """The same request with another option of a group."""
        kept = tuple(text for text in self.overrides if not text.startswith(f"{group}="))
        return replace(self, overrides=(*kept, f"{group}={option}"), multirun=False)


def parser() -> ArgumentParser:
    """Hydra's own argument parser: overrides and its flags. It raises `RequestError`."""
    result = get_args_parser()
    result.prog = "mnist-exp"

    def refuse(message: str) -> NoReturn:
        raise RequestError(f"{message}; --hydra-help lists the flags")

    result.error = refuse  # type: ignore[method-assign]
    return result


def parse(words: Sequence[str]) -> Namespace:
    """The flags and overrides of a command line; what only looks like a flag is left among the overrides.

    So it is told with everything else that is wrong. Raises `RequestError`.
    """
    of_hydra = parser()
    flags = [flag for action in of_hydra._actions for flag in action.option_strings]
    unknown = [word for word in words if word.startswith("-") and word.split("=")[0] not in flags]
    near = {word: did_you_mean(word.split("=")[0], flags) for word in unknown}
    if all(near.values()) and unknown:
        raise RequestError("\n".join(f"{word}: no such flag{meant}" for word, meant in near.items()))
    arguments = of_hydra.parse_intermixed_args([word for word in words if word not in unknown])
    arguments.overrides += unknown
    return arguments


def request_from(verb: str, arguments: Namespace) -> Request:
    """The request that parsed arguments make; path values are quoted where Hydra would misread them.

    Raises `RequestError` for flags of Hydra that mean nothing here, and for what would run code.
    """
    for flag, instead in _NOT_HERE.items():
        if getattr(arguments, flag) is not None:
            raise RequestError(f"--{flag.replace('_', '-')}: {instead}")
    for text in arguments.overrides:
        if key_of(text).startswith("hydra.callbacks") or "_target_" in text:
            raise RequestError(f"{text}: nothing in a config may name code to run")
    sweeps = arguments.multirun or verb == "tune"
    overrides = tuple(_literal_path(text, sweeps) for text in arguments.overrides)
    return Request(verb, overrides, arguments.config_dir, arguments.multirun, tuple(arguments.overrides))


def _literal_path(text: str, multirun: bool) -> str:
    key, equals, value = text.partition("=")
    if not equals or key.lstrip("+") not in PATH_KEYS or not value:
        return text
    try:
        parsed = parse_override(text)
        found = parsed.value()
        # A list with quotes in it is Hydra's to read; `several` reads the others, which may be less regular.
        listed = found if isinstance(found, list) and key in _LISTS and re.search("['\"]", value) else [found]
        plain = found is None or all(isinstance(one, str) for one in listed)
        if (multirun and parsed.is_sweep_override()) or (plain and not parsed.is_sweep_override()):
            return text
    except HydraException:
        pass
    return f"{key}={quoted(value)}"


def quoted(text: str) -> str:
    """A text in quotes, as Hydra's grammar takes it literally."""
    escaped = re.sub(r"(\\+)(?='|$)", r"\1\1", text).replace("'", "\\'")
    return f"'{escaped}'"


def override_value(request: Request, key: str) -> Any:
    """What the command line gives for a key; None where it does not, or not in Hydra's syntax."""
    for text in reversed(request.overrides):
        if key_of(text) == key:
            with suppress(HydraException):
                return parse_override(text).value()
    return None


def parse_override(text: str, loader: ConfigLoaderImpl | None = None) -> Override:
    """Raises `HydraException`. The loader is for globs over a group's options."""
    return OverridesParser.create(config_loader=loader).parse_overrides([text])[0]


def key_of(text: str) -> str:
    return text.split("=", 1)[0].lstrip("+~")
