"""What a request to train comes to: its config, checked, on a device that is here, with data that was found.

Everything that is wrong with it is found here, before anything is created.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_exp.config.compose import Composition
from mnist_exp.config.overrides import Request, key_of, override_value, quoted
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked, news
from mnist_exp.errors import Problem, RequestError
from mnist_exp.model import backend
from mnist_exp.runs.log import say, warn
from mnist_exp.runs.lookup import find_run, read_config

if TYPE_CHECKING:
    from mnist_exp.data.dataset import Source
    from mnist_exp.training.device import Device

# Keys that a new run does not take over from the one that it starts from.
NOT_TAKEN_OVER = ("from", "name", "outputs", "sweep", "tracking")


def start_from_run(request: Request) -> Request:
    """With `from=<run>`: the same request over that run's config. Raises `RequestError`."""
    wanted = override_value(request, "from")
    if wanted is None:
        return request
    if not isinstance(wanted, str):
        raise RequestError("from: takes one run")
    run = find_run(wanted, Path(override_value(request, "outputs") or "outputs"))
    saved = {key: value for key, value in read_config(run.path).items() if key not in NOT_TAKEN_OVER}
    return replace(request, base=saved, base_file=run.path / "config.yaml")


def settle_init(request: Request, config: TrainConfig) -> tuple[Request, TrainConfig]:
    """With `init_from=<run>`: the same with the path of that run, whatever it was called by.

    Raises `RequestError`.
    """
    if config.init_from is None:
        return request, config
    try:
        run = find_run(config.init_from, Path(config.outputs))
    except RequestError as error:
        raise RequestError([Problem(COMMAND_LINE, f"init_from={error}", "init_from")]) from error
    if run.status != "finished":
        message = f"init_from={config.init_from}: this run is {run.status}; a finished one is needed"
        raise RequestError([Problem(COMMAND_LINE, message, "init_from")])
    path = str(run.path.resolve())
    kept = tuple(text for text in request.overrides if key_of(text) != "init_from")
    request = replace(request, overrides=(*kept, f"init_from={quoted(path)}"))
    return request, config.model_copy(update={"init_from": path})


def check_config(request: Request) -> tuple[Request, TrainConfig, Device]:
    """A request to train as it was settled, its config, and what it computes on.

    Raises `RequestError` with all that is wrong.
    """
    try:
        config, composition = compose_checked(request, TrainConfig)
    except RequestError as error:
        if error.mended is None:
            raise
        config, composition = error.mended
        problems = error.problems
        try:
            _, config = settle_init(request, config)
        except RequestError as further:
            problems += further.problems
            config = config.model_copy(update={"init_from": None})
        refused = RequestError(sorted(set(problems)))
        # Told after the others, as Keras takes seconds to start.
        refused.more = partial(_problems_with_keras, config, composition, told=problems)
        raise refused from error
    if composition.remark:
        warn(composition.remark)
    request, config = settle_init(request, config)
    computer = set_up(config)
    check_with_keras(config, composition)
    return request, config, computer


def _problems_with_keras(
    config: TrainConfig, composition: Composition, *, told: tuple[Problem, ...]
) -> tuple[Problem, ...]:
    """What Keras finds wrong beside what was told."""
    try:
        set_up(config)
        check_with_keras(config, composition)
    except RequestError as error:
        return tuple(news(error.problems, told))
    return ()


def set_up(config: TrainConfig) -> Device:
    """Start TensorFlow on the device that the config asks for. Raises `RequestError`."""
    backend.load()
    from mnist_exp.training import device

    return device.resolve(config.device)


def check_with_keras(config: TrainConfig, composition: Composition) -> None:
    """Let Keras judge the layers, the optimizer, the loss and the metrics. Raises `RequestError`."""
    from mnist_exp.engine.keras_check import check

    check(config, composition)


def settle_data(request: Request, config: TrainConfig) -> tuple[Request, TrainConfig, Source, str | None]:
    """Find the data, and decide whether its fallback stands in: the request and config are the fallback's then.

    Raises `RequestError` for data that is damaged, and where nobody has it and there is no fallback.
    """
    from mnist_exp.data.load import find
    from mnist_exp.data.sources import NotFound

    try:
        return request, config, find(config.data, say), None
    except NotFound as error:
        wanted, fallback = config.data.name, config.data.fallback
        if fallback is None:
            raise RequestError(f"{error}\n{error.advice}") from error
        warn(
            f"{error}\n{fallback.upper()} STANDS IN FOR {wanted.upper()}. data.fallback=null makes this an error."
        )
    request = request.with_option("data", fallback)
    config, composition = compose_checked(request, TrainConfig)
    check_with_keras(config, composition)
    try:
        return request, config, find(config.data, say), wanted
    except NotFound as error:
        raise RequestError(f"data.fallback={fallback}: {error}") from error
