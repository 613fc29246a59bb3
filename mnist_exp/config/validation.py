"""From a composition to a typed config, or to every problem that can be told without Keras."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mnist_exp.config.compose import Composition, compose
from mnist_exp.config.hydra_adapter import conf_folder
from mnist_exp.config.overrides import Request
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.config.schema import Frozen, TrainConfig
from mnist_exp.errors import Problem, RequestError
from mnist_exp.keras_spec.layer_types import augmentation_faults, check_list, is_list, tell
from mnist_exp.keras_spec.objective import check_objective
from mnist_exp.suggest import did_you_mean, nearest

Config = TypeVar("Config", bound=Frozen)


def compose_checked(request: Request, schema: type[Config]) -> tuple[Config, Composition]:
    """Compose and validate a request. Raises `RequestError` with all problems, sorted by place.

    Its `mended` is then what this would have returned with our defaults in the place of what is wrong.
    """
    composition = compose(request)
    problems = list(composition.problems)
    try:
        config = _validated(composition.values, schema)
        mended: tuple[Config, Composition] | None = (config, composition)
    except ValidationError as error:
        more, mended = _problems_and_mended(error, composition, schema, request)
        problems += news(more, problems)
    if schema is TrainConfig:
        problems += news(_problems_by_name(composition), problems)
    if problems:
        refused = RequestError(sorted(set(problems)))
        # What follows from these sizes would not be the user's mistake, but ours.
        if not {"data.shape", "data.classes"} & {problem.path for problem in problems}:
            refused.mended = mended
        raise refused
    return config, composition


def news(problems: Iterable[Problem], told: Iterable[Problem]) -> list[Problem]:
    """Those of the problems that are not about what was told."""
    paths = {problem.path for problem in told if problem.path}
    return [problem for problem in problems if problem.path not in paths]


def _problems_by_name(composition: Composition) -> list[Problem]:
    """Layers, optimizer, loss and metrics that Keras does not have, and arguments that they do not."""
    problems: list[Problem] = []

    def report(path: str, message: str) -> None:
        problems.append(composition.problem(path, message))

    values = composition.values
    model, aug = values.get("model"), values.get("aug")
    if isinstance(model, Mapping) and is_list(model.get("layers")):
        check_list(model["layers"], "model.layers", report)
    layers = aug.get("layers") if isinstance(aug, Mapping) else None
    for index, entry in enumerate(layers if is_list(layers) else ()):
        if entry is not None:
            tell(augmentation_faults(entry), f"aug.layers.{index}", report)
    check_objective(values.get("optimizer"), values.get("training"), report)
    return problems


def _problems_and_mended(
    error: ValidationError, composition: Composition, schema: type[Config], request: Request
) -> tuple[list[Problem], tuple[Config, Composition] | None]:
    """What is wrong, and the same with our defaults for it; None where that is not enough.

    What contradicts each other is only looked at when each is right by itself: after the first mending.
    """
    problems = _problems(error, composition, schema)
    values, defaults = copy.deepcopy(composition.values), compose(Request(request.verb)).values
    mended: set[str] = set()
    for _ in range(3):
        for details in error.errors(include_url=False):
            path = _locate(details, values)[0]
            for wrong in [path] if path else map(_first_key, _message(details, None, schema).split("\n")):
                if not _mend(values, defaults, wrong):
                    return problems, None
                mended.add(wrong)
        try:
            return problems, (_validated(values, schema), replace(composition, values=values))
        except ValidationError as further:
            error = further
        # Not those in which a default of ours has a part.
        names = {path.rpartition(".")[2] for path in mended}
        problems += [
            problem
            for problem in _problems(error, replace(composition, values=values), schema)
            if not names & set(re.findall(r"\w+", problem.message))
        ]
    return problems, None


def _mend(values: Any, defaults: Any, path: str) -> bool:
    """Put our default at a path. Returns whether that could be done."""
    *parents, key = path.split(".")
    node, default = values, defaults
    try:
        for part in parents:
            node, default = _entry(node, part), _entry(default, part)
        if isinstance(default, Mapping) and key not in default:
            node.pop(key, None)
        else:
            node[key] = copy.deepcopy(_entry(default, key))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return False
    return True


def _entry(node: Any, part: str) -> Any:
    return node[int(part)] if isinstance(node, list) else node[part]


def _validated(values: Mapping[Any, Any], schema: type[Config]) -> Config:
    # By way of JSON, so that lists become tuples while numbers and strings stay apart.
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
        if not path:  # between groups
            for sentence in message.split("\n"):
                key = _first_key(sentence)
                problems.setdefault(key, Problem(composition.place(key), sentence, key))
            continue
        place = composition.place(path)
        if place == COMMAND_LINE and not isinstance(value, (dict, list)):
            problem = Problem(
                place, f"{path}={value if isinstance(value, str) else _shown(value)}: {message}", path
            )
        else:
            problem = composition.problem(path, message)
        # Of the branches of a union, the first (the usual one) speaks.
        problems.setdefault(path, problem)
    inner = {path for path in problems for other in problems if path.startswith(f"{other}.")}
    return [
        *(problem for path, problem in problems.items() if path not in inner),
        *(_of_missing(group, keys, unknown, composition) for group, keys in missing.items()),
    ]


def _first_key(sentence: str) -> str:
    """The dotted key that a sentence about several groups begins with: the one that is to be changed."""
    match = re.match(r"[a-z_]+(\.[a-z_]+)*(?=[:=])", sentence)
    return match[0] if match else ""


def _of_missing(group: str, keys: Sequence[str], unknown: Set[str], composition: Composition) -> Problem:
    """The keys of a group that are missing, in one line; not those that stand there under a wrong name."""
    names = [path.rpartition(".")[2] for path in unknown if path.rpartition(".")[0] == group]
    keys = [key for key in keys if not any(nearest(name, keys) == key for name in names)] or keys
    message = f"missing: {', '.join(keys)}"
    if (conf_folder() / group / "none.yaml").is_file():
        message += "; a file that begins with 'defaults: [none]' has them from there"
    return composition.problem(group, message)


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
    if kind == "value_error":
        return str(details["ctx"]["error"])
    message = details["msg"].replace("Input should be", "must be").replace("Field required", "missing")
    message = message.replace("a valid ", "a ").replace("must be a integer", "must be an integer")
    message = re.sub(r"must be an? (array|tuple)", "must be a list", message).replace("an object", "a mapping")
    if kind == "string_pattern_mismatch":
        message = "must be val/<metric>, such as val/accuracy"  # the only pattern
    if details["loc"] and not isinstance(value, dict) and (keys := _fields(schema, details["loc"])):
        return f"is no value but a group of keys: {', '.join(keys)}; found {_shown(value)}"
    if kind == "string_too_short":
        message = "must not be empty"
    if kind in ("int_type", "int_from_float"):
        message = "must be an integer"
    if kind == "literal_error":
        message += did_you_mean(str(value), _literals(details))
    if isinstance(value, str) and value.lower() in ("none", "off", "no"):
        message += " (null is none)"
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
