"""Resume an interrupted run: find its checkpoint, and check that only permitted settings differ."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_exp.config.overrides import Request, key_of, override_value
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import CheckResult, check_request, compose_checked
from mnist_exp.engine.job import Job, Resumption
from mnist_exp.engine.plugins import changed_since, require
from mnist_exp.engine.preparation import finish_check, resolve_data
from mnist_exp.errors import RequestError
from mnist_exp.model import backend
from mnist_exp.runs import journal
from mnist_exp.runs.directory import SWEEPS, RunDirectory, find_outputs
from mnist_exp.runs.fingerprint import LIBRARIES, as_values, code_digest
from mnist_exp.runs.log import say, warn
from mnist_exp.runs.lookup import read_config, refuse_irregular
from mnist_exp.runs.result import ResumptionRecord, RunResult
from mnist_exp.runs.stopwatch import Stopwatch
from mnist_exp.text import display_path
from mnist_exp.tracking.known_stores import identify_store
from mnist_exp.training.device import Device, available_cores

if TYPE_CHECKING:
    from mnist_exp.training.checkpoint import State


# Keys and groups that may change when a run is resumed: they do not affect the steps already done.
MAY_DIFFER = (
    "outputs", "teacher", "any_version", "plots", "report", "tracking.wait_seconds",
    "tracking.system_metrics", "budget",
    "training.epochs", "training.checkpoint_seconds", "training.keep_checkpoint", "training.watch",
    "device.kind", "device.threads", "device.precision", "data.dir", "data.mirrors", "data.fallback",
)  # fmt: skip


def check_resumption(request: Request, directory: RunDirectory, stopwatch: Stopwatch) -> Job:
    """Return the job that resumes a run. Raises `RequestError` if the run cannot be resumed."""
    path, result = directory.path, directory.read_result()
    with stopwatch.phase("start"):
        refuse_irregular(path)
        require(result, str(display_path(path)))
        versions = other_versions(result)
        check_versions(request, path, versions)
        check_journal(path)
        saved = read_config(path)
        backend.load()
        from mnist_exp.engine.resumed_state import check_data, find_state  # Keras

        state = find_state(path, result)
        request = with_saved_config(request, path, saved, result, state)
        same = compose_checked(replace(request, overrides=()), TrainConfig)[0] if request.overrides else None
        checked = check_request(request, TrainConfig)
        config, _ = checked.unwrap()
        same = same or config
        check_same_config(path, config, same)
        check_epochs(path, result, config, state)
        config, computer = check_device(request, checked, result)
    outputs = find_outputs(path) or Path(config.outputs)
    data_config = config.data.model_copy(update={"fallback": None})  # a fallback would have other images
    config = config.model_copy(update={"outputs": str(outputs), "data": data_config})
    with stopwatch.phase("data"):
        _, _, source, _ = resolve_data(request, config)
        check_data(path, result, source, config, same, state, same_code=not versions)
    others = [*versions, *device_differences(result, computer)]
    exact = not others
    epochs, steps = (state.progress["epochs"], state.progress["steps"]) if state else (0, 0)
    if state is None:
        say("resume  from the beginning: no checkpoint had been written")
    elif epochs == config.training.epochs:
        say("resume  after the last epoch")
    else:
        say(f"resume  at epoch {epochs + 1}" + (f", after step {steps}" if steps else ""))
    overrides = list(request.overrides)
    entry = ResumptionRecord(at=time.time(), epochs=epochs, steps=steps, overrides=overrides, exact=exact)
    if not exact:
        why = "; ".join(others)
        warn(f"{why}: from here on, the results are not bit-identical to those of an uninterrupted run")
    values = {**saved, "training": {**saved["training"], "epochs": config.training.epochs}}
    known = result.as_resumed(entry)
    sweep = path.parent if path.parent.parent.name == SWEEPS else None
    return Job(
        config, tuple(result.overrides), computer, source, path.parent, path.name,
        result.data.stands_in_for, sweep, Resumption(directory, known, values, state),
        withholds_test=result.withholds_test,
    )  # fmt: skip


def check_versions(request: Request, path: Path, versions: Sequence[str]) -> None:
    """Raise `RequestError` if code or libraries differ from the run's, unless the user permits that."""
    if versions and not override_value(request, "any_version"):
        raise RequestError(
            f"{display_path(path)}: cannot be resumed exactly: {'; '.join(versions)}. any_version=true resumes"
            f" it anyway; mnist-exp from={display_path(path)} starts a new run with its config"
        )


def check_journal(path: Path) -> None:
    """Raise `RequestError` if the journal cannot be read."""
    try:
        journal.read(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RequestError(f"{display_path(path / journal.FILE)}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RequestError(f"{error}\nDelete this file to resume the run as a new one in MLflow.") from error


def other_versions(result: RunResult) -> list[str]:
    """Return how this package's code, the libraries and the plug-ins differ from the run's."""
    names = [name for name in LIBRARIES if version(name) != result.versions.get(name)]
    others = [f"{name} is {version(name)}, was {result.versions.get(name)}" for name in names]
    if result.code_sha256 != code_digest():
        others.append("mnist-exp's code for data, models or training has changed")
    return others + changed_since(result)


def with_saved_config(
    request: Request, path: Path, saved: Mapping[str, Any], result: RunResult, state: State | None
) -> Request:
    """Base the request on the run's own config and device. Raises `RequestError` if the config lacks a group."""
    for group in ("device", "training"):
        if not isinstance(saved.get(group), Mapping):
            raise RequestError(f"{path / 'config.yaml'}: damaged: {group} must be a mapping")
    device = {**saved["device"], **result.device.model_dump(include={"kind", "threads", "precision"})}
    base = {**saved, "device": device}
    if state is not None:
        base["init_from"] = None  # the checkpoint has the weights: no other run is needed
    return replace(request, base=base, base_file=path / "config.yaml")


def check_same_config(path: Path, config: TrainConfig, same: TrainConfig) -> None:
    """Raise `RequestError` for overrides that would make the resumed run a different one."""
    here, there = journal.flatten(as_values(config)), journal.flatten(as_values(same))
    if not config.tracking.enabled:
        here["tracking.enabled"] = there["tracking.enabled"]  # a run can be resumed without its tracker
    store = config.tracking.uri
    if store is None or identify_store(store) == identify_store(same.tracking.uri or ""):
        here["tracking.uri"] = there["tracking.uri"]  # no store, or the same store with other credentials
    others = [
        f"{key} is {there.get(key, 'not set')}, not {here.get(key, 'unset')}"
        for key in {**there, **here}
        if here.get(key) != there.get(key) and not f"{key}.".startswith(tuple(f"{may}." for may in MAY_DIFFER))
    ]
    if others:
        raise RequestError(
            f"{display_path(path)}: can only be resumed with its own config: {'; '.join(others)}. "
            f"mnist-exp from={display_path(path)} starts a new run with your changes"
        )


def check_epochs(path: Path, result: RunResult, config: TrainConfig, state: State | None) -> None:
    """Raise `RequestError` if nothing is left to do, or if fewer epochs are requested than are already done."""
    epochs = config.training.epochs
    done, steps = (state.progress["epochs"], state.progress["steps"]) if state else (0, 0)
    finished = f"{done} epoch{'s' * (done != 1)}"
    if result.status == "finished" and result.stopped_early and epochs >= done:
        raise RequestError(
            f"{display_path(path)}: training.early_stopping ended it after {finished}, and would do so again"
        )
    if epochs < done + (steps > 0):
        more = f" and {steps} step{'s' * (steps > 1)}" if steps else ""
        raise RequestError(
            f"training.epochs={epochs}: {display_path(path)} has already completed {finished}{more}"
        )
    if config.training.max_seconds is not None and epochs != result.planned_epochs:
        raise RequestError(
            f"training.epochs={epochs}: {display_path(path)} trains for the {result.planned_epochs} epochs that "
            f"fit into training.max_seconds={config.training.max_seconds:g}; "
            f"mnist-exp from={display_path(path)} training.epochs={epochs} starts a new run"
        )
    if result.status == "finished" and epochs == done:
        raise RequestError(
            f"{display_path(path)}: nothing to resume: it has finished its {finished}; a larger "
            "training.epochs trains it longer"
        )


def check_device(
    request: Request, checked: CheckResult[TrainConfig], result: RunResult
) -> tuple[TrainConfig, Device]:
    """Finish checking the config with Keras; return it and the selected device.

    Raises `RequestError` if the device is not the run's, unless the user asked for it.
    """
    asked = {key_of(text) for text in request.overrides}
    had, other = result.device, "resumes anyway, but not bit-identically"
    if not asked & {"device", "device.threads"} and (had.threads or 0) > (cores := available_cores()):
        raise RequestError(
            f"the run used {had.threads} threads, but this process may use only {cores}: "
            f"device.threads={cores} {other}"
        )
    try:
        _, config, computer = finish_check(request, checked)
    except RequestError as error:
        if had.kind == "gpu" and not asked & {"device", "device.kind"} and "no GPU" in str(error):
            raise RequestError(f"the run used {_device(result)}. {error}\ndevice.kind=cpu {other}") from error
        raise
    if computer.name != had.device and not asked & {"device", "device.kind"}:
        raise RequestError(
            f"the run used {_device(result)}, but this is {computer}: device.kind={computer.kind} {other}"
        )
    return config, computer


def device_differences(result: RunResult, computer: Device) -> list[str]:
    """Return the differences between the run's device and this one that can make results differ.

    On CPUs, they include the instruction sets and the environment variables by which oneDNN selects its kernels,
    unless the run was recorded by a version without these fields.
    """
    had = result.device
    found = []
    if (computer.name, computer.threads, computer.precision) != (had.device, had.threads, had.precision):
        found.append(f"the run used {_device(result)}")
    if computer.kind == had.kind == "cpu":
        before, now = set(had.cpu_features or ()), set(computer.cpu_features)
        if had.cpu_features is not None and before != now:
            names = [*(f"without {name}" for name in sorted(now - before)),
                     *(f"with {name}" for name in sorted(before - now))]  # fmt: skip
            found.append(f"the run used a CPU {', '.join(names)}")
        if had.onednn is not None:
            found += [
                f"{name} was {had.onednn.get(name, 'not set')} and is {computer.onednn.get(name, 'not set')}"
                for name in sorted({*had.onednn, *computer.onednn})
                if had.onednn.get(name) != computer.onednn.get(name)
            ]
    return found


def _device(result: RunResult) -> str:
    device = result.device
    return f"{device.device}, {device.threads} threads, {device.precision}"
