"""Turn a request into a typed config, or report every problem that can be found without Keras."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mnist_exp.config.compose import Complete, Composition, compose
from mnist_exp.config.field_types import Frozen
from mnist_exp.config.hydra_adapter import conf_folder
from mnist_exp.config.overrides import Request
from mnist_exp.config.plugin_entries import plugin_faults
from mnist_exp.config.provenance import COMMAND_LINE, short
from mnist_exp.config.schema import TrainConfig
from mnist_exp.errors import Code, Problem, RequestError
from mnist_exp.keras_spec.arguments import Fault, is_list
from mnist_exp.keras_spec.layer_specs import parse_augmentations, parse_layers
from mnist_exp.keras_spec.objective import objective_faults
from mnist_exp.suggest import did_you_mean, nearest
from mnist_exp.text import shorten

Config = TypeVar("Config", bound=Frozen)

# Problem codes by pydantic error type; any other error type is `wrong-type`.
_CODES: Mapping[str, Code] = {
    "extra_forbidden": "unknown-key",
    "missing": "missing-value",
    "literal_error": "unknown-option",
    "value_error": "invalid-value",
    "string_pattern_mismatch": "invalid-value",
    "finite_number": "invalid-value",
    **dict.fromkeys(("greater_than", "greater_than_equal", "less_than", "less_than_equal"), "out-of-range"),
    **dict.fromkeys(("string_too_short", "string_too_long", "too_short", "too_long"), "out-of-range"),
}


@dataclass(frozen=True)
class CheckResult(Generic[Config]):
    """The result of checking a request without Keras."""

    config: Config | None
    """The validated config, with defaults in place of invalid values; None if it is invalid even then."""
    composition: Composition
    problems: tuple[Problem, ...]
    """All problems found so far, sorted by place."""
    needs_keras: bool
    """Whether Keras can check the config further."""
    faults: tuple[Fault, ...] = ()
    """The problems with names and arguments of Keras' classes, as faults."""

    def unwrap(self) -> tuple[Config, Composition]:
        """Return the config and its composition.

        Raises:
            RequestError: If there are problems.
        """
        if self.problems:
            raise RequestError(self.problems)
        assert self.config is not None
        return self.config, self.composition


def check_request(request: Request, schema: type[Config], complete: Complete | None = None) -> CheckResult[Config]:
    """Compose and validate a request.

    Args:
        request: The request.
        schema: The type of its config.
        complete: Infers the image shape and the classes if they are null.

    Raises:
        RequestError: If composition fails even without overrides, or if inference fails and is the only problem.
    """
    composition = compose(request, complete)
    problems = list(composition.problems)
    values: dict[str, Any] = composition.values
    config: Config | None
    try:
        config = _validated(values, schema)
    except ValidationError as error:
        repair = _Repair(composition, schema, request.verb)
        config = repair.run(error)
        problems += select_unreported(repair.problems, problems)
        values = repair.values
    faults = tuple(_faults(config, composition)) if schema is TrainConfig else ()
    problems += select_unreported(
        (composition.problem(fault.path, fault.message, fault.code) for fault in faults), problems
    )
    if composition.refusal is not None:
        if not problems:
            raise composition.refusal
        problems.append(_data_problem(composition, composition.refusal))
    problems += select_unreported(_replaced_epochs(request, replace(composition, values=values)), problems)
    # With a default in place of the image shape, the number of classes or the model, Keras would report problems
    # that the request does not have.
    paths = {problem.path for problem in problems}
    needs_keras = (
        config is not None
        and schema is TrainConfig
        and "model" not in composition.failed
        and not {"data", "data.shape", "data.classes"} & paths
    )
    composition = replace(composition, values=values)
    return CheckResult(config, composition, tuple(sorted(set(problems))), needs_keras, faults)


def _data_problem(composition: Composition, refusal: RequestError) -> Problem:
    """Return the problem with the data, at the path with which its message begins, or where `data.dir` was set."""
    place, separator, message = str(refusal).partition(": ")
    if not separator or not os.path.isabs(place):  # the message begins with a key
        place, message = composition.place("data.dir"), str(refusal)
    return Problem("unusable", place, message, "data.shape")


def compose_checked(
    request: Request, schema: type[Config], complete: Complete | None = None
) -> tuple[Config, Composition]:
    """Compose and validate a request.

    Raises:
        RequestError: If there are problems; the error lists all of them.
    """
    return check_request(request, schema, complete).unwrap()


def select_unreported(problems: Iterable[Problem], reported: Iterable[Problem]) -> list[Problem]:
    """Return the problems at paths that have no reported problem yet."""
    paths = {problem.path for problem in reported if problem.path}
    return [problem for problem in problems if problem.path not in paths]


def _faults(config: Any, composition: Composition) -> Iterator[Fault]:
    """Yield the faults of names and arguments: those of layers, optimizer, loss and metrics, and of plug-ins."""
    values = composition.values
    if isinstance(config, TrainConfig):
        yield from config.model.layers.faults
        yield from config.aug.layers.faults
    else:  # invalid even with defaults
        for group, parse in (("model", parse_layers), ("aug", parse_augmentations)):
            layers = values[group].get("layers") if isinstance(values.get(group), Mapping) else None
            yield from parse(layers).faults if is_list(layers) else ()
    yield from objective_faults(values.get("optimizer"), values.get("training"))
    yield from plugin_faults(values.get("schedule"), values.get("training"))


def _replaced_epochs(request: Request, composition: Composition) -> Iterator[Problem]:
    """Yield a problem if the command line gives a number of epochs that a time budget would replace."""
    training, key, budget = composition.values.get("training"), "training.epochs", "training.max_seconds"
    if not isinstance(training, Mapping) or training.get("max_seconds") is None:
        return
    is_resumed = request.base is not None and composition.place(budget) != COMMAND_LINE
    if composition.place(key) == COMMAND_LINE and not is_resumed:
        message = (
            f"{key}={_shown(training.get('epochs'))}: {budget}={_shown(training['max_seconds'])} "
            f"determines the number of epochs: omit {key}, or set {budget}=null"
        )
        yield Problem("contradiction", COMMAND_LINE, message, key)


class _Repair(Generic[Config]):
    """Replace the invalid values of a config with defaults, to find further problems."""

    _ROUNDS = 3  # contradictions between settings show only once each setting is valid on its own

    def __init__(self, composition: Composition, schema: type[Config], verb: str) -> None:
        self._composition, self._schema = composition, schema
        self.values: dict[str, Any] = copy.deepcopy(composition.values)
        self._defaults = compose(Request(verb)).values
        self._repaired: set[str] = set()
        self.problems: list[Problem] = []

    def run(self, error: ValidationError) -> Config | None:
        """Return the repaired config; None if defaults do not make it valid."""
        self.problems += _problems(error, self._composition, self._schema)
        for _ in range(self._ROUNDS):
            if not all(map(self._put_default, self._wrong_paths(error))):
                return None
            try:
                return _validated(self.values, self._schema)
            except ValidationError as further:
                error = further
            # Leave out problems that mention a repaired key: a default may have caused them.
            names = {path.rpartition(".")[2] for path in self._repaired}
            self.problems += [
                problem
                for problem in _problems(error, replace(self._composition, values=self.values), self._schema)
                if not names & set(re.findall(r"\w+", problem.message))
            ]
        return None

    def _wrong_paths(self, error: ValidationError) -> Iterator[str]:
        for details in error.errors(include_url=False):
            if path := _locate(details, self.values)[0]:
                yield path
            else:
                yield from map(_first_key, _message(details, None, self._schema).split("\n"))

    def _put_default(self, path: str) -> bool:
        """Replace the value at a path with its default, or remove it if it has none.

        Returns whether this was possible.
        """
        *parents, key = path.split(".")
        node: Any = self.values
        default: Any = self._defaults
        try:
            for part in parents:
                node, default = _entry(node, part), _entry(default, part)
            if isinstance(default, Mapping) and key not in default:
                node.pop(key, None)
            else:
                node[key] = copy.deepcopy(_entry(default, key))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            return False
        self._repaired.add(path)
        return True


def _entry(node: Any, part: str) -> Any:
    return node[int(part)] if isinstance(node, list) else node[part]


def _validated(values: Mapping[Any, Any], schema: type[Config]) -> Config:
    # In JSON, pydantic's strict mode accepts lists for tuples, and still distinguishes numbers from strings.
    return schema.model_validate_json(json.dumps(values, default=str))


def _problems(error: ValidationError, composition: Composition, schema: type[Frozen]) -> list[Problem]:
    problems: dict[str, Problem] = {}
    missing: dict[str, list[str]] = {}
    unknown: set[str] = set()
    for details in error.errors(include_url=False):
        path, value = _locate(details, composition.values)
        if details["type"] == "missing" and path:
            group, _, key = path.rpartition(".")
            missing.setdefault(group, []).append(key)
            continue
        if details["type"] == "extra_forbidden":
            unknown.add(path)
        message = _message(details, value, schema)
        if path:
            # For a union, report the error of its first branch, the most common one.
            problems.setdefault(path, _problem_at(path, value, message, code_of(details["type"]), composition))
            continue
        for sentence in message.split("\n"):  # contradictions between groups
            key = _first_key(sentence)
            problems.setdefault(key, Problem("contradiction", composition.place(key), sentence, key))
    inner = {path for path in problems for other in problems if path.startswith(f"{other}.")}
    return [
        *(problem for path, problem in problems.items() if path not in inner),
        *(_missing_keys(group, keys, unknown, composition) for group, keys in missing.items()),
    ]


def code_of(error_type: str) -> Code:
    """Return the problem code of a pydantic error type."""
    return _CODES.get(error_type, "wrong-type")


def _problem_at(path: str, value: Any, message: str, code: Code, composition: Composition) -> Problem:
    place = composition.place(path)
    if value is None and place.startswith(f"{short(conf_folder())}{os.sep}"):  # a default that must be replaced
        return Problem(code, COMMAND_LINE, f"{path}: {message}", path)
    if place == COMMAND_LINE and not isinstance(value, (dict, list)):
        shown = shorten(value) if isinstance(value, str) else _shown(value)
        return Problem(code, place, f"{path}={shown}: {message}", path)
    return composition.problem(path, message, code)


def _first_key(sentence: str) -> str:
    """Return the dotted key at the start of a sentence about several groups, which is the key to change."""
    match = re.match(r"[a-z_]+(\.[a-z_]+)*(?=[:=])", sentence)
    return match[0] if match else ""


def _missing_keys(group: str, keys: Sequence[str], unknown: Set[str], composition: Composition) -> Problem:
    """Return one problem for a group's missing keys, except those that are present but misspelled."""
    names = [path.rpartition(".")[2] for path in unknown if path.rpartition(".")[0] == group]
    keys = [key for key in keys if not any(nearest(name, keys) == key for name in names)] or keys
    message = f"missing: {', '.join(keys)}"
    if (conf_folder() / group / "none.yaml").is_file():
        message += "; to take them from none.yaml, begin the file with 'defaults: [none]'"
    return composition.problem(group, message, "missing-value")


def _locate(details: ErrorDetails, values: Any) -> tuple[str, Any]:
    """Return the dotted path of an error, without the names of union branches, and the value at the path."""
    parts: list[str] = []
    node = values
    for part in details["loc"]:
        if isinstance(node, Mapping) and part in node:
            node = node[str(part)]
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
        elif details["type"] == "missing" and "[" not in str(part):
            node = None
        else:
            continue
        parts.append(str(part))
    return ".".join(parts), node


def _message(details: ErrorDetails, value: Any, schema: type[Frozen]) -> str:
    kind = details["type"]
    if kind == "extra_forbidden":
        return f"unknown key{did_you_mean(str(details['loc'][-1]), _fields(schema, details['loc'][:-1]))}"
    if kind == "value_error":
        return str(details["ctx"]["error"])
    message = details["msg"].replace("Input should be", "must be").replace("Field required", "missing")
    message = message.replace("a valid ", "a ").replace("must be a integer", "must be an integer")
    message = re.sub(r"must be an? (array|tuple)", "must be a list", message).replace("an object", "a mapping")
    if kind == "string_pattern_mismatch":
        message = "must be val/<metric>, such as val/accuracy"  # the only pattern in the schemas
    if details["loc"] and not isinstance(value, dict) and (keys := _fields(schema, details["loc"])):
        return f"is a group of keys, not a value: {', '.join(keys)}; found {_shown(value)}"
    if kind == "string_too_short":
        message = "must not be empty"
    if kind in ("int_type", "int_from_float"):
        message = "must be an integer"
        ends = re.fullmatch(r"(\d{1,9})-(\d{1,9})", str(value))
        if details["loc"] == ("seed",) and ends and int(ends[1]) < int(ends[2]):
            message += f" (for several seeds: -m 'seed=range({ends[1]},{int(ends[2]) + 1})')"
    if kind == "literal_error":
        message += did_you_mean(str(value), _literals(details))
    if isinstance(value, str) and value.lower() in ("none", "off", "no"):
        message += " (use null for none)"
    return message if kind == "missing" else f"{message}, found {_shown(value)}"


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    return shorten(json.dumps(value) if isinstance(value, (bool, str)) else str(value))


def _literals(details: ErrorDetails) -> list[str]:
    return [part.strip("' ") for part in str(details["ctx"]["expected"]).replace(" or ", ",").split(",")]


def _fields(schema: type[Frozen], location: tuple[int | str, ...]) -> list[str]:
    current: Any = schema
    for part in location:
        field = current.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, Frozen):
            return []
        current = field.annotation
    return [field.alias or name for name, field in current.model_fields.items()]
