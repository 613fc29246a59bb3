"""`mnist-exp export`: a saved model in other formats, each checked against it; and into MLflow's registry."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_exp.config.command_schemas import ExportConfig
from mnist_exp.config.overrides import Request, key_of
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.config.validation import compose_checked
from mnist_exp.engine.saved_model import Saved, config_of, data_of, find_saved, split_overrides
from mnist_exp.errors import Problem, RequestError, WorkError, first_line
from mnist_exp.model import backend
from mnist_exp.runs import signals
from mnist_exp.runs.atomic import new_folder, refuse_existing, replace_file
from mnist_exp.runs.directory import free_path, stamped
from mnist_exp.runs.log import say
from mnist_exp.text import display_path

if TYPE_CHECKING:
    import keras

    from mnist_exp.data.dataset import Dataset, Images, Part
    from mnist_exp.inference.scoring import Probabilities

EXPORTS = "exports"
EXTRA = "pip install 'mnist-exp[export]'"
# What formats need beyond what is installed with this package: to be written, and to be run.
NEEDS = {"onnx": ("tf2onnx", "onnx", "onnxruntime"), "litert": ("ai_edge_litert",)}
# Formats of one file, by its ending.
ENDINGS = {"keras": ".keras", "h5": ".h5", "onnx": ".onnx", "litert": ".tflite"}
BATCH = 256  # images, for the second latency


@dataclass(frozen=True)
class Checked:
    """What is told of a format that gives what the model gives."""

    name: str
    files: tuple[str, ...]
    size: int
    """Bytes."""
    runtime: str
    difference: float
    """The largest between two probabilities, over all images and classes."""
    seconds: tuple[float, float]
    """Per image, one at a time and in batches of `BATCH`."""


def export(request: Request, started: float) -> None:
    """Write the formats that were asked for, and register the run. Raises `RequestError`, `WorkError`."""
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
    """Raises `RequestError` for overrides that would change nothing."""
    for key in map(key_of, over_run):
        if key.startswith("device") or not config.formats:
            raise RequestError(f"{key}: has no effect on 'export'" + " without format=…" * (not config.formats))


def refuse_missing(config: ExportConfig) -> None:
    """Raises `RequestError` where a format needs what is not installed."""
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
    """Raises `RequestError` for what cannot be registered: a file, and a run that has not finished."""
    if saved.run is None:
        raise RequestError("register: takes a run that is here; a file is no run")
    if saved.result is None or saved.result.status != "finished":
        status = saved.result.status if saved.result else "damaged"
        raise RequestError(f"register: {display_path(saved.run)} is {status}; a finished run is needed")


def target_of(config: ExportConfig, saved: Saved) -> Path:
    """The folder or file to write, absolute. Raises `RequestError` where it is there already."""
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
    """Whether the target is meant to be the one file of the one format, rather than a folder."""
    return config.output is not None and [target.suffix.lower()] == [ENDINGS.get(name) for name in config.formats]


def compute_on_cpu() -> None:
    """As the other formats' runtimes do: a GPU's last bits, and its times, are others."""
    backend.load()
    from mnist_exp.training.device import leave_gpus_alone

    leave_gpus_alone()


def refuse_unless_classifier(model: keras.Model, saved: Saved) -> None:
    """Raise `RequestError` unless the model takes images and returns a number per class."""
    takes, gives = model.input_shape, model.output_shape
    if not (isinstance(takes, tuple) and isinstance(gives, tuple) and len(takes) == 4 and len(gives) == 2):
        raise RequestError(f"{display_path(saved.file)}: not a classifier of images: takes {takes}, gives {gives}")


def refuse_other_images(model: keras.Model, saved: Saved, data: Dataset) -> None:
    """Raise `RequestError` unless the model takes images of the data's shape."""
    takes = model.input_shape
    images = data.train.images.shape[1:]
    if any(size not in (None, found) for size, found in zip(takes[1:], images, strict=True)):
        expected, found = ("×".join(str(size or "any") for size in shape) for shape in (takes[1:], images))
        raise RequestError(
            f"{display_path(saved.file)}: takes images of {expected}, and those of {data.origin} are {found}; "
            "data=… data.shape=… data.classes=… name others"
        )


def introduce(saved: Saved, model: keras.Model, data_name: str, data: Dataset) -> None:
    """Tell what is exported, and what it is checked on."""
    from mnist_exp.model.preprocessing import count_parameters

    kind, part = images_of(data)
    say(f"model   {saved.name}, {count_parameters(model):,} parameters")
    say(f"data    {data_name} from {data.origin}: {len(part):,} {kind} images")


def write_formats(config: ExportConfig, saved: Saved, model: keras.Model, data: Dataset, target: Path) -> None:
    """Write, check and tell. What cannot be written, or gives something else than the model, is not kept.

    Raises `WorkError` then, and `RequestError` where the target cannot be written.
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
            new_place(target, is_file(target, config)) as folder,
            images_bar("checking", len(part) * len(config.formats)) as advance,
        ):
            begun = True
            for name in config.formats:
                try:
                    checked.append(written(name, saved, part.images, expected, folder, config.tolerance))
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


class Unfit(Exception):
    """A format cannot be written, or does not give what the model gives."""


def images_of(data: Dataset) -> tuple[str, Part]:
    """The images that formats are checked on: the test part, else those for validation, else for training."""
    parts = {"test": data.test, "validation": data.val}
    return next(((kind, part) for kind, part in parts.items() if part), ("training", data.train))


@contextmanager
def new_place(target: Path, is_file: bool) -> Iterator[Path]:
    """A temporary folder that takes the target's name when the block succeeds; or whose only file does."""
    if not is_file:
        with new_folder(target) as folder:
            yield folder
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(target) as temporary, tempfile.TemporaryDirectory() as folder:
        temporary.touch()  # before anything is worked out: can it be written?
        yield Path(folder)
        [file] = Path(folder).iterdir()
        shutil.copyfile(file, temporary)


def written(
    name: str, saved: Saved, images: Images, expected: Probabilities, folder: Path, tolerance: float
) -> Checked:
    """Write a format into a folder, once it was checked. Raises `Unfit`, and `OSError` for a full disk."""
    from mnist_exp.inference.export_formats import FORMATS, run_all, seconds_per_image

    form = FORMATS[name]
    try:
        # Not in `folder`: TensorFlow reads brackets in the name of a folder as a pattern.
        with tempfile.TemporaryDirectory() as temporary, backend.quiet():
            own = Path(temporary)
            form.write(saved.load(), own)
            run = form.load(own)
            found = run_all(run, images)
            refuse_difference(found, expected, tolerance)
            seconds = (seconds_per_image(run, images, 1), seconds_per_image(run, images, BATCH))
            size = form.size(own)
            for file in form.files:
                shutil.move(own / file, folder / file)
    except Unfit:
        raise
    except Exception as error:  # what Keras, tf2onnx, TensorFlow and the runtimes raise
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise Unfit(f"could not be written or loaded: {first_line(error)}") from error
    difference = float(abs(found - expected).max())
    return Checked(name, form.files, size, form.shown_runtime, difference, seconds)


def refuse_difference(found: Probabilities, expected: Probabilities, tolerance: float) -> None:
    """Raises `Unfit` unless two models give the same classes, and the same probabilities within a tolerance."""
    if found.shape != expected.shape:
        raise Unfit(f"gives {found.shape[1:]} numbers per image instead of {expected.shape[1:]}")
    others = int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())
    difference = float(abs(found - expected).max())
    if others:
        raise Unfit(f"gives another class for {others:,} of {len(expected):,} images")
    if not difference <= tolerance:  # NaN is not
        raise Unfit(f"its probabilities differ by up to {difference:.1e}, and tolerance={tolerance:g}")


def notes(saved: Saved, model: keras.Model, target: Path, formats: Sequence[str]) -> Iterator[str]:
    """What who uses the files should know of them."""
    from mnist_exp.model.saving import hdf5_takes

    if saved.file.suffix != ".keras" and {"keras", "h5"} & set(formats):
        yield "without the optimizer's state: Keras drops it when it loads HDF5"
    elif "h5" in formats and model.optimizer is not None and not hdf5_takes(model.optimizer):
        yield f"h5 is without {type(model.optimizer).__name__}'s state: Keras has no way to restore it"
    if "savedmodel" in formats and set("[]*?") & set(str(target)):
        yield "TensorFlow does not load a SavedModel from a folder with '[', ']', '*' or '?' in its path"


def print_checked(checked: Sequence[Checked]) -> None:
    """Print the formats side by side."""
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
    """Register a run's model in MLflow, and say how it is served. Raises `WorkError`."""
    from mnist_exp.tracking import registry
    from mnist_exp.tracking.uploader import reason

    assert saved.run is not None
    assert config.name is not None
    # No training waits for it: a slow server may take its time.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    try:
        found = registry.register(saved.run, config.tracking.uri, config.name, config.alias)
    except Exception as error:  # MLflow raises anything
        raise WorkError(f"{display_path(saved.run)}: not registered: {reason(error)}") from error
    say(f"registered {display_path(saved.run)} as version {found.version} of {config.name}, in {found.store}")
    say(f"use it   run={found.uri}")
    command = f"mlflow models serve -m {found.uri} --env-manager local --port 5001"
    say(f"serve it MLFLOW_TRACKING_URI={shlex.quote(found.store)} {command}")
