"""Requests: the verb, overrides and flags of a command line."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from hydra.errors import HydraException

from mnist_exp.config.hydra_adapter import argument_parser, conf_folder, parse_override
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.errors import Problem, RequestError
from mnist_exp.suggest import did_you_mean

# Hydra flags that are not supported, and what to use instead.
_NOT_HERE = {
    "config_name": "the command selects the config",
    "config_path": "add a folder of your own options with --config-dir",
    "experimental_rerun": "from=<run> runs an earlier run's config again",
}

# Keys whose values are paths: taken literally if Hydra's grammar would parse them as something else.
PATH_KEYS = frozenset(
    {"from", "init_from", "teacher", "run", "data.dir", "inputs", "outputs", "output", "images", "tune.storage"}
)
# Keys whose values are names: a number is taken as text.
_NAMES = ("name", "sweep.name", "tune.name", "register", "alias", "tracking.experiment")
# Keys whose values are taken as typed: conditions and texts may contain any character.
VERBATIM = ("where", "sort", "require", "note", "tags")
_LISTS = ("inputs", "images")  # path keys whose lists Hydra parses if they contain quotes


@dataclass(frozen=True)
class Request:
    """A verb, its overrides and the folder of the user's own options, not yet validated."""

    verb: str
    overrides: tuple[str, ...] = ()
    config_dir: str | None = None
    multirun: bool = False
    words: tuple[str, ...] = field(default=(), compare=False)
    """The overrides as typed, before paths were quoted."""
    base: Mapping[str, Any] | None = field(default=None, compare=False)
    """An earlier run's resolved config, used instead of the default options."""
    base_file: Path | None = field(default=None, compare=False)
    """The file that `base` was read from."""

    def with_option(self, group: str, option: str) -> Request:
        """Return the request for a single run with another option of a group."""
        kept = tuple(text for text in self.overrides if not text.startswith(f"{group}="))
        return replace(self, overrides=(*kept, f"{group}={option}"), multirun=False)


def parse(words: Sequence[str]) -> Namespace:
    """Parse the flags and overrides of a command line.

    Unknown flags are kept as overrides, so that they are reported together with all other problems. If each of
    them resembles a known flag, they are reported immediately.

    Raises:
        RequestError: If flags are misspelled or misused.
    """

    def refuse(message: str) -> NoReturn:
        raise RequestError(f"{message}; --hydra-help lists the flags")

    parser, flags = argument_parser(refuse)
    words = _join_values(words, flags)
    unknown = [word for word in words if word.startswith("-") and _flag(word) not in flags]
    near = {word: did_you_mean(_flag(word), flags) for word in unknown}
    if all(near.values()) and unknown:
        raise RequestError("\n".join(f"{word}: no such flag{meant}" for word, meant in near.items()))
    arguments = parser.parse_intermixed_args([word for word in words if word not in unknown])
    arguments.overrides += unknown
    return arguments


def _flag(word: str) -> str:
    """Return the flag in a word such as `--epochs`, `--epochs=3` or `--epochs 3`."""
    return re.split("[= ]", word, maxsplit=1)[0]


def _join_values(words: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Join each unknown flag with the value typed after it, as in `--epochs 3`, so that they are one problem."""
    joined: list[str] = []
    for word in words:
        before = joined[-1] if joined else ""
        takes_value = before.startswith("-") and before not in flags and not re.search("[= ]", before)
        if takes_value and not re.search(r"^-(?!\d)|^[+~]|=", word):
            joined[-1] = f"{before} {word}"
        else:
            joined.append(word)
    return joined


def request_from(verb: str, arguments: Namespace) -> Request:
    """Return the request of a parsed command line, quoting paths that Hydra would misread.

    Raises:
        RequestError: If a Hydra flag is not supported, or an override would run code.
    """
    for flag, instead in _NOT_HERE.items():
        if getattr(arguments, flag) is not None:
            raise RequestError(f"--{flag.replace('_', '-')}: not supported; {instead}")
    _refuse_spaces(arguments.overrides)
    for text in arguments.overrides:
        if key_of(text).startswith("hydra.callbacks") or "_target_" in text:
            raise RequestError(f"{text}: a config must not name code to run")
    sweeps = arguments.multirun or verb == "tune"
    overrides = tuple(_literal_path(text, sweeps) for text in arguments.overrides)
    return Request(verb, overrides, arguments.config_dir, arguments.multirun, tuple(arguments.overrides))


def _refuse_spaces(words: Sequence[str]) -> None:
    """Raise `RequestError` if overrides were typed with spaces around `=`, which makes them several words."""
    problems = []
    for index, (word, after) in enumerate(pairwise(words)):
        if after.startswith("=") or (re.fullmatch("[^=]+=+", word) and re.match("[^-~=][^=]*$", after)):
            typed = " ".join(words[index : index + 2 + (not after.strip("="))])
            problems.append(f"{typed}: there must be no spaces around '='")
    if problems:
        raise RequestError([Problem("invalid-override", COMMAND_LINE, text) for text in problems])


def _literal_path(text: str, multirun: bool) -> str:
    text = re.sub(r"^\++(?=(experiment|debug)=)", "", text)  # many Hydra projects require the plus sign
    text = _without_deletion(text)
    text = re.sub(r"^plots=(?!\{)", "plots.draw=", text)  # a list would replace the other keys of the group
    key, equals, value = text.partition("=")
    if equals and key in VERBATIM:
        return f"{key}=null" if value in ("", "null") else f"{key}={quoted(value)}"
    if equals and key in _NAMES:
        return _literal_name(text)
    if not equals or key.lstrip("+") not in PATH_KEYS or not value:
        return text
    try:
        parsed = parse_override(text)
        found = parsed.value()
        # Lists with quotes are left to Hydra; all others are parsed by `split_names`, which is more lenient.
        listed = found if isinstance(found, list) and key in _LISTS and re.search("['\"]", value) else [found]
        plain = found is None or all(isinstance(one, str) for one in listed)
        if (multirun and parsed.is_sweep_override()) or (plain and not parsed.is_sweep_override()):
            return text
    except HydraException:
        pass
    return f"{key}={quoted(value)}"


def _without_deletion(text: str) -> str:
    """Turn `~key` into `key=null`, and `~group` into `group=none` if the group has that option.

    Hydra would remove the key, but every key of a config has a value.
    """
    key = text.removeprefix("~")
    if key == text or "=" in key or key.startswith("hydra"):
        return text
    group = conf_folder() / key
    if not group.is_dir():
        return f"{key}=null"
    return f"{key}=none" if (group / "none.yaml").is_file() else text


def _literal_name(text: str) -> str:
    key, _, value = text.partition("=")
    with suppress(HydraException):
        parsed = parse_override(text)
        if not parsed.is_sweep_override() and isinstance(parsed.value(), (bool, int, float)):
            return f"{key}={quoted(value)}"
    return text


def quoted(text: str) -> str:
    """Quote a string so that Hydra's grammar takes it literally."""
    escaped = re.sub(r"(\\+)(?='|$)", r"\1\1", text).replace("'", "\\'")
    return f"'{escaped}'"


def override_value(request: Request, key: str) -> Any:
    """Return the value that the overrides give to a key; None if there is none or Hydra cannot parse it."""
    for text in reversed(request.overrides):
        if key_of(text) == key:
            with suppress(HydraException):
                return parse_override(text).value()
    return None


def key_of(text: str) -> str:
    """Return the key or group of an override."""
    return text.split("=", 1)[0].lstrip("+~")
