"""`mnist-exp export`: write a saved model in other formats, each verified, or register it in MLflow."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_exp.config.command_schemas import ExportConfig
from mnist_exp.config.overrides import Request, key_of
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.config.validation import compose_checked
from mnist_exp.engine.exporting import (
    BATCH,
    Checked,
    Unfit,
    compute_on_cpu,
    images_of,
    refuse_other_images,
    refuse_unless_classifier,
    temporary_target,
    write_format,
)
from mnist_exp.engine.saved_model import Saved, config_of, data_of, find_saved, split_overrides
from mnist_exp.errors import Problem, RequestError, WorkError
from mnist_exp.runs import signals
from mnist_exp.runs.atomic import refuse_existing
from mnist_exp.runs.directory import free_path, stamped
from mnist_exp.runs.log import say
from mnist_exp.text import display_path, mask_credentials

if TYPE_CHECKING:
    import keras

    from mnist_exp.data.dataset import Dataset

EXPORTS = "exports"
EXTRA = "pip install 'mnist-exp[export]'"
# The packages that formats need in addition, to be written and to be run.
NEEDS = {"onnx": ("tf2onnx", "onnx", "onnxruntime"), "litert": ("ai_edge_litert",)}
# The formats that are a single file, and its suffix.
ENDINGS = {"keras": ".keras", "h5": ".h5", "onnx": ".onnx", "litert": ".tflite"}


def export(request: Request, started: float) -> None:
    """Write the requested formats and register the run. Raises `RequestError` or `WorkError`."""
    request, over_run = split_overrides(request)
    config, _ = compose_checked(request, ExportConfig)
    refuse_without_use(over_run, config)
    refuse_missing(config)
    saved = find_saved(config.run, Path(config.outputs), config.tracking.uri)
    if config.name is not None:
        refuse_unfinished(saved)
    if config.formats:
        target = target_of(config, saved)
        training = config_of(saved, request, over_run)
        compute_on_cpu()
        # The model comes first: one that is damaged or no classifier is reported even if the data is missing.
        model = saved.load()
        refuse_unless_classifier(model, saved)
        data = data_of(training, request)
        refuse_other_images(model, saved, data)
        introduce(saved, model, training.data.name, data)
        write_formats(config, saved, model, data, target)
    if config.name is not None:
        register(config, saved)


def refuse_without_use(over_run: Sequence[str], config: ExportConfig) -> None:
    """Raise `RequestError` for overrides without effect."""
    for key in map(key_of, over_run):
        if key.startswith("device") or not config.formats:
            raise RequestError(f"{key}: has no effect on 'export'" + " without format=…" * (not config.formats))


def refuse_missing(config: ExportConfig) -> None:
    """Raise `RequestError` if a format needs packages that are not installed."""
    missing = {form: [m for m in NEEDS.get(form, ()) if find_spec(m) is None] for form in config.formats}
    if problems := [
        Problem(
            "not-installed",
            COMMAND_LINE,
            f"format={form}: needs {', '.join(modules)}, not installed here: {EXTRA}",
            "format",
        )
        for form, modules in missing.items()
        if modules
    ]:
        raise RequestError(problems, "this export")


def refuse_unfinished(saved: Saved) -> None:
    """Raise `RequestError` if the model is a file alone or its run has not finished: it cannot be registered."""
    if saved.run is None:
        raise RequestError("register: needs a run; a model file cannot be registered")
    if saved.result is None or saved.result.status != "finished":
        status = saved.result.status if saved.result else "damaged"
        raise RequestError(f"register: {display_path(saved.run)} is {status}; a finished run is needed")


def target_of(config: ExportConfig, saved: Saved) -> Path:
    """Return the absolute path of the folder or file to write. Raises `RequestError` if it exists."""
    if config.output is None:
        name = stamped(saved.name.removesuffix(saved.file.suffix))
        target = free_path(Path(config.outputs) / EXPORTS, name)
    else:
        target = Path(config.output).expanduser()
    if target.suffix.lower() in ENDINGS.values() and not is_file(target, config):
        formats = ", ".join(config.formats)
        raise RequestError(
            f"output={config.output}: ends as the file of another format than {formats}; name such a file "
            "for one format, or a folder"
        )
    refuse_existing(target)
    if is_file(target, config) and target.is_dir():
        raise RequestError(f"output: {target} is a folder; name a new file, or a folder with another ending")
    return target.resolve()


def is_file(target: Path, config: ExportConfig) -> bool:
    """Whether the target is the file of a single format, rather than a folder."""
    return config.output is not None and [target.suffix.lower()] == [ENDINGS.get(name) for name in config.formats]


def introduce(saved: Saved, model: keras.Model, data_name: str, data: Dataset) -> None:
    """Print which model is exported and on which images it is checked."""
    from mnist_exp.model.preprocessing import count_parameters

    kind, part = images_of(data)
    say(f"model   {saved.name}, {count_parameters(model):,} parameters")
    say(f"data    {data_name} from {data.origin}: {len(part):,} {kind} images")


def write_formats(config: ExportConfig, saved: Saved, model: keras.Model, data: Dataset, target: Path) -> None:
    """Write and check the formats, and print the result. Only formats that agree with the model are kept.

    Raises `WorkError` if a format is not kept, `RequestError` if the target cannot be written.
    """
    from mnist_exp.inference.scoring import predict
    from mnist_exp.report.progress import images_bar

    kind, part = images_of(data)
    expected = predict(model, part.images)
    if not (expected == expected).all():  # NaN
        raise WorkError(
            f"{display_path(saved.file)}: gives NaN for some images; there is nothing to check formats against"
        )
    checked: list[Checked] = []
    failed: list[str] = []
    begun = False
    try:
        with (
            signals.raised(),
            temporary_target(target, is_file(target, config)) as folder,
            images_bar("checking", len(part) * len(config.formats)) as advance,
        ):
            begun = True
            for name in config.formats:
                try:
                    checked.append(write_format(name, saved, part.images, expected, folder, config.tolerance))
                except Unfit as error:
                    failed.append(f"{name}: {error}")
                advance(len(part))
            if not checked:
                raise WorkError("nothing was kept:\n  " + "\n  ".join(failed))
    except OSError as error:
        reason = f"{error.filename or target} cannot be written: {error.strerror or error}"
        raise WorkError(f"{reason}; nothing was kept") if begun else RequestError(f"output: {reason}") from error
    if is_file(target, config):
        checked = [replace(of, files=(target.name,)) for of in checked]
    print_checked(checked)
    which = "Each" if not failed else "Each of these" if len(checked) > 1 else "This one"
    say(
        f"{which} gives the model's class for all {len(part):,} {kind} images, and its probabilities within "
        f"{config.tolerance:g}."
    )
    for note in notes(saved, model, target, [of.name for of in checked]):
        say(f"note    {note}")
    say(f"written {display_path(target)}")
    if failed:
        raise WorkError("not kept:\n  " + "\n  ".join(failed))


def notes(saved: Saved, model: keras.Model, target: Path, formats: Sequence[str]) -> Iterator[str]:
    """Yield remarks for users of the files."""
    from mnist_exp.model.saving import hdf5_takes

    if saved.file.suffix != ".keras" and {"keras", "h5"} & set(formats):
        yield "without the optimizer's state: Keras drops it when it loads HDF5"
    elif "h5" in formats and model.optimizer is not None and not hdf5_takes(model.optimizer):
        yield f"h5 is without {type(model.optimizer).__name__}'s state: Keras has no way to restore it"
    if "savedmodel" in formats and set("[]*?") & set(str(target)):
        yield "TensorFlow does not load a SavedModel from a folder with '[', ']', '*' or '?' in its path"


def print_checked(checked: Sequence[Checked]) -> None:
    """Print a table of the formats."""
    from mnist_exp.report.tables import print_table

    header = ["format", "files", "bytes", "run by", "largest difference", "ms per image", f"in batches of {BATCH}"]
    rows = [
        [
            of.name,
            ", ".join(of.files),
            f"{of.size:,}",
            of.runtime,
            f"{of.difference:.1e}" if of.difference else "0",
            *(f"{1000 * seconds:.3f}" for seconds in of.seconds),
        ]
        for of in checked
    ]
    print_table(header, rows, right=(header[2], *header[4:]))


def register(config: ExportConfig, saved: Saved) -> None:
    """Register a run's model in MLflow, and print how to serve it. Raises `WorkError`."""
    from mnist_exp.tracking import registry
    from mnist_exp.tracking.known_stores import remember
    from mnist_exp.tracking.uploader import reason

    assert saved.run is not None
    assert config.name is not None
    # No training waits for this: allow a slow server more time.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    if config.tracking.uri is not None:
        remember(config.tracking.uri)
    try:
        found = registry.register(saved.run, config.tracking.uri, config.name, config.alias)
    except Exception as error:  # MLflow raises anything
        raise WorkError(f"{display_path(saved.run)}: not registered: {reason(error)}") from error
    say(f"registered {display_path(saved.run)} as version {found.version} of {config.name}, in {found.store}")
    say(f"use it   run={found.uri}")
    command = f"mlflow models serve -m {found.uri} --env-manager local --port 5001"
    say(f"serve it MLFLOW_TRACKING_URI={shlex.quote(mask_credentials(found.store))} {command}")
