"""From a composition to a typed config, or to every problem that can be told without Keras."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mnist_exp.config.compose import Composition, compose
from mnist_exp.config.layers import check_augmentation, check_list, told_at
from mnist_exp.config.names import did_you_mean
from mnist_exp.config.objective import check_objective
from mnist_exp.config.places import COMMAND_LINE
from mnist_exp.config.request import Request
from mnist_exp.config.schema import Frozen, TrainConfig
from mnist_exp.errors import Problem, RequestError

Config = TypeVar("Config", bound=Frozen)


def compose_checked(request: Request, schema: type[Config]) -> tuple[Config, Composition]:
    """Compose and validate a request. Raises `RequestError` with all problems, sorted by place.

    Its `mended` is then what this would have returned with our defaults in the place of what is wrong.
    """
    composition = compose(request)
    problems = list(composition.problems)
    mended: tuple[Config, Composition] | None = None
    try:
        config = _validated(composition.values, schema)
        mended = config, composition
    except ValidationError as error:
        mended = _mended(error, composition, schema, request)
        problems += news(_problems(error, composition, schema), problems)
    if mended is not None and isinstance(mended[0], TrainConfig):
        problems += news(_problems_by_name(mended[0], mended[1]), problems)
    if problems:
        refused = RequestError(sorted(set(problems)))
        refused.mended = mended
        raise refused
    return config, composition


def news(problems: Iterable[Problem], told: Iterable[Problem]) -> list[Problem]:
    """Those of the problems that are not about what was told."""
    paths = {problem.path for problem in told if problem.path}
    return [problem for problem in problems if problem.path not in paths]


def _problems_by_name(config: TrainConfig, composition: Composition) -> list[Problem]:
    """Layers, optimizer, loss and metrics that Keras does not have, and arguments that they do not."""
    problems: list[Problem] = []

    def report(path: str, message: str) -> None:
        problems.append(composition.problem(path, message))

    check_list(config.model.layers, "model.layers", report)
    for index, entry in enumerate(config.aug.layers):
        if entry is not None:
            with told_at(f"aug.layers.{index}", report):
                check_augmentation(entry)
    check_objective(config.optimizer, config.training, report)
    return problems


def _mended(
    error: ValidationError, composition: Composition, schema: type[Config], request: Request
) -> tuple[Config, Composition] | None:
    """The same with our defaults for what is wrong; None where that is not enough."""
    values = copy.deepcopy(composition.values)
    defaults = compose(Request(request.verb)).values
    for details in error.errors(include_url=False):
        *parents, key = _locate(details, composition.values)[0].split(".")
        node, default = values, defaults
        try:
            for part in parents:
                node, default = _entry(node, part), _entry(default, part)
            if isinstance(default, Mapping) and key not in default:
                node.pop(key, None)
            else:
                node[key] = _entry(default, key)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            return None
    try:
        return _validated(values, schema), replace(composition, values=values)
    except ValidationError:
        return None


def _entry(node: Any, part: str) -> Any:
    return node[int(part)] if isinstance(node, list) else node[part]


def _validated(values: Mapping[Any, Any], schema: type[Config]) -> Config:
    # By way of JSON, so that lists become tuples while numbers and strings stay apart.
    return schema.model_validate_json(json.dumps(values, default=str))


def _problems(error: ValidationError, composition: Composition, schema: type[Frozen]) -> list[Problem]:
    problems: dict[str, Problem] = {}
    for details in error.errors(include_url=False):
        path, value = _locate(details, composition.values)
        message = _message(details, value, schema)
        # What is between groups begins with the key that is to be changed.
        of = path or (match[0] if (match := re.match(r"[a-z_]+(\.[a-z_]+)*(?=[:=])", message)) else "")
        place = composition.places.place(of) if of else COMMAND_LINE
        if not path:
            text = message
        elif place == COMMAND_LINE and not isinstance(value, (dict, list)) and details["type"] != "missing":
            text = f"{path}={value if isinstance(value, str) else _shown(value)}: {message}"
        else:
            text = f"{path}: {message}"
        # Of the branches of a union, the first (the usual one) speaks.
        problems.setdefault(path, Problem(place, text, path))
    inner = {path for path in problems for other in problems if path.startswith(f"{other}.")}
    return [problem for path, problem in problems.items() if path not in inner]


def _locate(details: ErrorDetails, values: Any) -> tuple[str, Any]:
    """The dotted path of an error, without the names of union branches, and the value there."""
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
    if kind == "missing":
        return "missing"
    if kind == "value_error":
        return str(details["ctx"]["error"])
    message = details["msg"].replace("Input should be", "must be").replace("Field required", "missing")
    message = message.replace("a valid ", "a ").replace("must be a integer", "must be an integer")
    message = re.sub(r"must be an? (array|tuple)", "must be a list", message).replace("an object", "a mapping")
    if kind == "string_pattern_mismatch":
        message = "must be val/<metric>"  # the only pattern
    if details["loc"] and not isinstance(value, dict) and (keys := _fields(schema, details["loc"])):
        return f"is no value but a group of keys: {', '.join(keys)}; found {_shown(value)}"
    if kind == "string_too_short":
        message = "must not be empty"
    if kind in ("int_type", "int_from_float"):
        message = "must be an integer"
    if kind == "literal_error":
        message += did_you_mean(str(value), _literals(details))
    return message if isinstance(value, (dict, list)) else f"{message}, found {_shown(value)}"


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    return json.dumps(value) if isinstance(value, (bool, str)) else str(value)


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
