"""`mnist-exp export`: write a saved model in other formats, each verified, or register it in MLflow."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from mnist_exp.config.command_schemas import ExportConfig
from mnist_exp.config.overrides import Request, key_of
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.config.validation import compose_checked
from mnist_exp.engine.preparation import set_up_on_cpu
from mnist_exp.engine.saved_model import Saved, compose_run_config, find_saved, split_overrides
from mnist_exp.errors import Problem, RequestError, WorkError
from mnist_exp.runs.atomic import refuse_existing
from mnist_exp.runs.directory import add_timestamp, free_path
from mnist_exp.runs.log import say
from mnist_exp.text import display_path, how_to_install, mask_credentials
from mnist_exp.tracking import registry
from mnist_exp.tracking.failure import describe_failure
from mnist_exp.tracking.known_stores import remember

EXPORTS = "exports"
# The additional packages needed to write a format and to run models in it.
NEEDS = {"onnx": ("tf2onnx", "onnx", "onnxruntime"), "litert": ("ai_edge_litert",)}
# The suffix of each format that consists of a single file.
ENDINGS = {"keras": ".keras", "h5": ".h5", "onnx": ".onnx", "litert": ".tflite"}


def export(request: Request, started: float) -> None:
    """Write the formats and register the model, as requested. Raises `RequestError` or `WorkError`."""
    request, over_run = split_overrides(request)
    config, _ = compose_checked(request, ExportConfig)
    refuse_without_use(over_run, config)
    refuse_missing_packages(config)
    saved = find_saved(config.run, Path(config.outputs), config.tracking.uri)
    if config.name is not None:
        refuse_unfinished(saved)
    if config.formats:
        target = resolve_target(config, saved)
        run_config = compose_run_config(saved, request, over_run)
        set_up_on_cpu()
        from mnist_exp.engine.exporting import export_model  # Keras

        export_model(request, config, saved, run_config, target, is_file(target, config))
    if config.name is not None:
        register(config, saved)


def refuse_without_use(over_run: Sequence[str], config: ExportConfig) -> None:
    """Raise `RequestError` for overrides without effect."""
    for key in map(key_of, over_run):
        if key.startswith("device") or not config.formats:
            raise RequestError(f"{key}: has no effect on 'export'" + " without format=…" * (not config.formats))


def refuse_missing_packages(config: ExportConfig) -> None:
    """Raise `RequestError` if a format needs packages that are not installed."""
    missing = {form: [m for m in NEEDS.get(form, ()) if find_spec(m) is None] for form in config.formats}
    if problems := [
        Problem(
            "not-installed",
            COMMAND_LINE,
            f"format={form}: needs {', '.join(modules)}; {how_to_install('export')}",
            "format",
        )
        for form, modules in missing.items()
        if modules
    ]:
        raise RequestError(problems, "this export")


def refuse_unfinished(saved: Saved) -> None:
    """Raise `RequestError` if the model cannot be registered: it is only a file, or its run has not finished."""
    if saved.run is None:
        raise RequestError("register: needs a run; a model file cannot be registered")
    if saved.result is None or saved.result.status != "finished":
        status = saved.result.status if saved.result else "damaged"
        raise RequestError(f"register: {display_path(saved.run)} is {status}; a finished run is needed")


def resolve_target(config: ExportConfig, saved: Saved) -> Path:
    """Return the absolute path of the folder or file to write. Raises `RequestError` if it exists."""
    if config.output is None:
        name = add_timestamp(saved.name.removesuffix(saved.file.suffix))
        target = free_path(Path(config.outputs) / EXPORTS, name)
    else:
        target = Path(config.output).expanduser()
    if target.suffix.lower() in ENDINGS.values() and not is_file(target, config):
        formats = ", ".join(config.formats)
        raise RequestError(
            f"output={config.output}: has the extension of a format other than {formats}; give a file of "
            "one of these formats, or a folder"
        )
    refuse_existing(target)
    if is_file(target, config) and target.is_dir():
        raise RequestError(f"output: {target} is a folder; give a new file, or a folder with another extension")
    return target.resolve()


def is_file(target: Path, config: ExportConfig) -> bool:
    """Return whether the target is the file of a single format, rather than a folder."""
    return config.output is not None and [target.suffix.lower()] == [ENDINGS.get(name) for name in config.formats]


def register(config: ExportConfig, saved: Saved) -> None:
    """Register a run's model in MLflow, and print how to serve it. Raises `WorkError`."""
    assert saved.run is not None
    assert config.name is not None
    # No training waits for this: allow a slow server more time.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    store = config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or None
    if store is not None:
        remember(store)
    try:
        model = registry.register(saved.run, store, config.name, config.alias)
    except Exception as error:  # MLflow raises errors of many types
        raise WorkError(f"{display_path(saved.run)}: not registered: {describe_failure(error, store)}") from error
    say(f"registered {display_path(saved.run)} as version {model.version} of {config.name}, in {model.store}")
    say(f"use     run={model.uri}")
    command = f"mlflow models serve -m {model.uri} --env-manager local --port 5001"
    say(f"serve   MLFLOW_TRACKING_URI={shlex.quote(mask_credentials(model.store))} {command}")
