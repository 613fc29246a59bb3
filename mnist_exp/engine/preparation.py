"""Prepare a training run: validate the config, select the device, locate the data.

All problems are found here, before anything is created.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_exp.config.compose import Composition
from mnist_exp.config.overrides import Request, key_of, override_value, quoted
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import CheckResult, check_request, select_unreported
from mnist_exp.engine.plugins import require
from mnist_exp.errors import Problem, RequestError
from mnist_exp.keras_spec.arguments import Fault
from mnist_exp.model import backend
from mnist_exp.runs.directory import ENSEMBLE, MODEL, explain_missing_model
from mnist_exp.runs.log import say, warn
from mnist_exp.runs.lookup import find_run, read_config
from mnist_exp.runs.regular_files import file_inside
from mnist_exp.text import display_path
from mnist_exp.training.device import Device, leave_gpus_alone, resolve

if TYPE_CHECKING:
    from mnist_exp.data.dataset import Source

MODEL_FILES = (".keras", ".h5", ".hdf5")

# Keys that name a run or a model file.
MODEL_KEYS = ("init_from", "teacher")

# Keys that a new run does not inherit from the run that it is based on (`from=…`).
NOT_INHERITED = ("from", "name", "outputs", "sweep", "tracking")


def load_base_run(request: Request) -> Request:
    """Return the request, based on the config of the run named by `from=<run>`, if any. Raises `RequestError`."""
    wanted = override_value(request, "from")
    if wanted is None:
        return request
    if not isinstance(wanted, str):
        raise RequestError("from: must be a single run")
    run = find_run(wanted, Path(override_value(request, "outputs") or "outputs"))
    require(run.result, str(display_path(run.path)))
    saved = {key: value for key, value in read_config(run.path).items() if key not in NOT_INHERITED}
    if isinstance(saved.get("training"), Mapping):  # repeat its epochs, however fast this machine is
        saved["training"] = {**saved["training"], "max_seconds": None}
    return replace(request, base=saved, base_file=run.path / "config.yaml")


def resolve_models(request: Request, config: TrainConfig) -> tuple[Request, TrainConfig]:
    """Return request and config with `init_from` and `teacher` set to the paths of the runs or files.

    Raises `RequestError` with the problems of both.
    """
    problems: list[Problem] = []
    for key in MODEL_KEYS:
        wanted = getattr(config, key)
        if wanted is None:
            continue
        try:
            path = str(_find_model(key, wanted, Path(config.outputs)).resolve())
        except RequestError as error:
            problems += error.problems
            continue
        kept = tuple(text for text in request.overrides if key_of(text) != key)
        request = replace(request, overrides=(*kept, f"{key}={quoted(path)}"))
        config = config.model_copy(update={key: path})
    if problems:
        raise RequestError(problems)
    return request, config


def _find_model(key: str, wanted: str, outputs: Path) -> Path:
    """Return the model file, the run's directory or, for a teacher, the ensemble's. Raises `RequestError`."""
    file = Path(wanted).expanduser()
    if file.suffix.lower() in MODEL_FILES and file.is_file():
        return file
    if key == "teacher" and os.path.lexists(file / ENSEMBLE):
        try:
            return file_inside(file, MODEL).parent
        except (OSError, ValueError) as error:
            raise RequestError([Problem("unusable", COMMAND_LINE, f"{key}={error}", key)]) from error
    try:
        run = find_run(wanted, outputs)
    except RequestError as error:
        raise RequestError([Problem("not-found", COMMAND_LINE, f"{key}={error}", key)]) from error
    if run.status == "running" or not (run.path / MODEL).is_file():
        why = "this run is running" if run.status == "running" else explain_missing_model(run)
        message = f"{key}={wanted}: must be a run with a saved model; {why}"
        raise RequestError([Problem("unusable", COMMAND_LINE, message, key)])
    return run.path


def complete_data(data: Mapping[str, Any], *, needs_train: bool = True) -> Mapping[str, Any]:
    """Return the image shape and number of classes of `data`, inferring them if not set. Raises `RequestError`.

    Without `needs_train`, the training set may be missing.
    """
    state: tuple[tuple[str, int], ...] = ()
    if folder := data.get("dir"):
        folder = os.path.abspath(os.path.expanduser(str(folder)))
        with suppress(OSError), os.scandir(folder) as entries:  # problems with the folder are reported later
            state = tuple(sorted((entry.name, entry.stat().st_mtime_ns) for entry in entries))
    return _inferred(json.dumps({**data, "dir": folder}, sort_keys=True, default=str), state, needs_train)


@lru_cache(maxsize=16)  # for the jobs of a sweep
def _inferred(data: str, state: tuple[tuple[str, int], ...], needs_train: bool) -> Mapping[str, Any]:
    from mnist_exp.data.declaration import infer
    from mnist_exp.report.progress import images_bar

    return infer(data, say, images_bar, needs_train=needs_train)


def check_config(request: Request) -> tuple[Request, TrainConfig, Device]:
    """Check a request to train; return it with resolved paths, its config and its device.

    Raises `RequestError` with all problems.
    """
    return finish_check(request, check_request(request, TrainConfig, complete_data))


def finish_check(request: Request, checked: CheckResult[TrainConfig]) -> tuple[Request, TrainConfig, Device]:
    """Run the checks of `check_config` that remain after composition. Raises `RequestError`."""
    if checked.problems:
        raise _refusal(request, checked)
    config, composition = checked.unwrap()
    if composition.remark:
        warn(composition.remark)
    request, config = resolve_models(request, config)
    computer = set_up(config)
    check_with_keras(config, composition)
    return request, config, computer


def _refusal(request: Request, checked: CheckResult[TrainConfig]) -> RequestError:
    """Return the error for a request with problems. Checks that need Keras stay pending, as they are slow."""
    problems, config = checked.problems, checked.config
    if config is None:
        return RequestError(problems)
    try:
        _, config = resolve_models(request, config)
    except RequestError as error:
        problems += error.problems
        config = config.model_copy(update=dict.fromkeys(MODEL_KEYS))
    pending = partial(_problems_with_keras, config, checked, reported=problems)
    return RequestError(sorted(set(problems)), pending=pending if checked.needs_keras else None)


def _problems_with_keras(
    config: TrainConfig, checked: CheckResult[TrainConfig], *, reported: tuple[Problem, ...]
) -> tuple[Problem, ...]:
    """Return the problems that Keras finds in addition to the reported ones."""
    try:
        set_up(config)
        check_with_keras(config, checked.composition, checked.faults)
    except RequestError as error:
        return tuple(select_unreported(error.problems, reported))
    return ()


def set_up(config: TrainConfig) -> Device:
    """Start TensorFlow on the configured device. Raises `RequestError`."""
    backend.load()
    return resolve(config.device)


def set_up_on_cpu() -> None:
    """Start TensorFlow on the CPU, on which exported models run too: a GPU would change results and times."""
    backend.load()
    leave_gpus_alone()


def check_with_keras(config: TrainConfig, composition: Composition, faults: Sequence[Fault] = ()) -> None:
    """Check the layers, the optimizer, the loss and the metrics with Keras. Raises `RequestError`."""
    from mnist_exp.engine.keras_check import check

    check(config, composition, faults)


def recheck_with_data(request: Request, option: str) -> tuple[Request, TrainConfig]:
    """Check a request again with its fallback data; return it and its new config. Raises `RequestError`."""
    request = request.with_option("data", option)
    config, composition = check_request(request, TrainConfig).unwrap()
    check_with_keras(config, composition)
    return request, config


def resolve_data(
    request: Request, config: TrainConfig, trained: Sequence[str] | None = None
) -> tuple[Request, TrainConfig, Source, str | None]:
    """Find the data or, if it is missing, its fallback; the returned request and config are for the data found.

    The last value is the name of the data that the fallback replaces; None without a fallback. `trained` holds the
    class names of the model to score, if the data may lack a training set.
    Raises `RequestError` if the data is damaged, or not found and without a fallback.
    """
    from mnist_exp.data.formats import find
    from mnist_exp.data.sources import NotFound
    from mnist_exp.report.progress import images_bar

    try:
        return request, config, find(config.data, say, images_bar, trained), None
    except NotFound as error:
        wanted, fallback = config.data.name, config.data.fallback
        if fallback is None:
            raise RequestError(f"{error}\n{error.advice}") from error
        instead = f"USING {fallback.upper()} INSTEAD OF {wanted.upper()}"
        warn(f"{error}\n{instead}. data.fallback=error refuses this.")
    request, config = recheck_with_data(request, fallback)
    try:
        return request, config, find(config.data, say, images_bar), wanted
    except NotFound as error:
        raise RequestError(f"data.fallback={fallback}: {error}") from error
