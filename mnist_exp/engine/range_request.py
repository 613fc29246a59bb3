"""Check a request to find a learning rate: the range, and the config to train with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mnist_exp.config.command_schemas import LrFindConfig
from mnist_exp.config.overrides import Request, key_of
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import check_request
from mnist_exp.engine.preparation import check_config, load_base_run
from mnist_exp.errors import Problem, RequestError
from mnist_exp.runs.atomic import refuse_existing
from mnist_exp.training.device import Device

_OWN = ("find", "output")  # the keys that `train` does not have


def check_range_test(request: Request) -> tuple[Request, LrFindConfig, TrainConfig, Device]:
    """Return the request to train, the settings of the test, the config and the device.

    Raises `RequestError` with all problems.
    """
    own = tuple(text for text in request.overrides if key_of(text).split(".")[0] in _OWN)
    rest = tuple(text for text in request.overrides if text not in own)
    settings, problems = _check_settings(replace(request, overrides=own))
    try:
        request, config, computer = check_config(load_base_run(replace(request, verb="train", overrides=rest)))
    except RequestError as error:
        if not (error.problems and problems):
            raise
        raise RequestError(sorted({*problems, *error.problems}), pending=error.pending) from error
    if problems:
        raise RequestError(sorted(problems))
    assert settings is not None
    return request, settings, config, computer


def _check_settings(request: Request) -> tuple[LrFindConfig | None, list[Problem]]:
    """Return the settings of the test and their problems. Defaults replace invalid settings."""
    checked = check_request(request, LrFindConfig)
    problems = list(checked.problems)
    if checked.config is not None and checked.config.output is not None:
        try:
            refuse_existing(Path(checked.config.output).expanduser())
        except RequestError as error:
            problems.append(Problem("unusable", COMMAND_LINE, str(error), "output"))
    return checked.config, problems
