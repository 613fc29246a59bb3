"""Write a saved model in other formats, each checked against the model before it is kept."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import keras

from mnist_exp.config.command_schemas import ExportConfig
from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.data.dataset import Dataset, Images, Part
from mnist_exp.engine.saved_model import Saved, load_data
from mnist_exp.errors import RequestError, WorkError, first_line
from mnist_exp.inference.export_formats import FORMATS, run_all, seconds_per_image
from mnist_exp.inference.scoring import Probabilities, predict, refuse_logits
from mnist_exp.model import backend
from mnist_exp.model.preprocessing import count_parameters
from mnist_exp.model.saving import fits_hdf5, optimizer_of
from mnist_exp.report.progress import images_bar
from mnist_exp.report.tables import print_table
from mnist_exp.runs import signals
from mnist_exp.runs.atomic import new_folder, replace_file
from mnist_exp.runs.log import say
from mnist_exp.text import display_path

BATCH = 256  # size of the batches for which the latency is measured


@dataclass(frozen=True)
class Checked:
    """A written format that agrees with the model, and its measurements."""

    name: str
    files: tuple[str, ...]
    size: int
    """Size in bytes."""
    runtime: str
    difference: float
    """The largest difference in probability, over all images and classes."""
    seconds: tuple[float, float]
    """Seconds per image, one at a time and in batches of `BATCH`."""


def export_model(
    request: Request,
    config: ExportConfig,
    saved: Saved,
    run_config: TrainConfig,
    target: Path,
    is_single_file: bool,
) -> None:
    """Write and check the formats, and print the result. Only formats that agree with the model are kept.

    Args:
        request: The command line.
        config: The verb's own config.
        saved: The model.
        run_config: The config of the model's run, with the command line's overrides applied.
        target: The folder or file to write.
        is_single_file: Whether the target is a file rather than a folder.

    Raises:
        RequestError: The model or the data is unusable, or the target cannot be written.
        WorkError: At least one format was not kept.
    """
    # Load the model first: if it is damaged or not a classifier, that is reported even if the data is missing.
    model = saved.load()
    refuse_unless_classifier(model, saved)
    data = load_data(run_config, request)
    refuse_other_images(model, saved, data)
    kind, part = select_images(data)
    say(f"model   {saved.name}, {count_parameters(model):,} parameters")
    say(f"data    {run_config.data.name} from {data.origin}: {len(part):,} {kind} images")
    checked, failed = write_formats(config, saved, model, part.images, target, is_single_file)
    print_checked(checked)
    which = "Each format" if not failed else "Each of these" if len(checked) > 1 else "This format"
    say(
        f"{which} agrees with the model on all {len(part):,} {kind} images: same classes, and probabilities "
        f"within {config.tolerance:g}."
    )
    for note in notes(saved, model, target, [one.name for one in checked]):
        say(f"note    {note}")
    say(f"written {display_path(target)}")
    if failed:
        raise WorkError("formats not kept:\n  " + "\n  ".join(failed))


def write_formats(
    config: ExportConfig, saved: Saved, model: keras.Model, images: Images, target: Path, is_single_file: bool
) -> tuple[list[Checked], list[str]]:
    """Write the formats that agree with the model.

    Returns:
        Those formats, and a message for each of the others.

    Raises:
        RequestError: The target cannot be written.
        WorkError: No format was kept.
    """
    expected = predict(model, images)
    if not (expected == expected).all():  # NaN
        raise WorkError(
            f"{display_path(saved.file)}: returns NaN for some images, so no format can be checked against it"
        )
    checked: list[Checked] = []
    failed: list[str] = []
    begun = False
    try:
        with (
            signals.raised(),
            temporary_target(target, is_single_file) as folder,
            images_bar(f"checking {', '.join(config.formats)}", len(images) * len(config.formats)) as advance,
        ):
            begun = True
            for name in config.formats:
                try:
                    checked.append(write_format(name, saved, images, expected, folder, config.tolerance))
                except Unfit as error:
                    failed.append(f"{name}: {error}")
                advance(len(images))
            if not checked:
                raise WorkError("nothing was written:\n  " + "\n  ".join(failed))
    except OSError as error:
        reason = f"{error.filename or target} cannot be written: {error.strerror or error}"
        raise (
            WorkError(f"{reason}; nothing was written") if begun else RequestError(f"output: {reason}")
        ) from error
    if is_single_file:
        checked = [replace(one, files=(target.name,)) for one in checked]
    return checked, failed


def refuse_unless_classifier(model: keras.Model, saved: Saved) -> None:
    """Raise `RequestError` unless the model takes images and returns a probability per class."""
    takes, gives = model.input_shape, model.output_shape
    if not (isinstance(takes, tuple) and isinstance(gives, tuple) and len(takes) == 4 and len(gives) == 2):
        raise RequestError(f"{display_path(saved.file)}: not an image classifier: takes {takes}, returns {gives}")
    refuse_logits(model, str(display_path(saved.file)))


def refuse_other_images(model: keras.Model, saved: Saved, data: Dataset) -> None:
    """Raise `RequestError` unless the model takes images of the data's shape."""
    takes = model.input_shape
    images = data.train.images.shape[1:]
    if any(size not in (None, found) for size, found in zip(takes[1:], images, strict=True)):
        expected, found = ("×".join(str(size or "any") for size in shape) for shape in (takes[1:], images))
        raise RequestError(
            f"{display_path(saved.file)}: takes images of {expected}, but those of {data.origin} are {found}; "
            "data=… data.shape=… data.classes=… selects other images"
        )


class Unfit(Exception):
    """A format cannot be written, or disagrees with the model."""


def select_images(data: Dataset) -> tuple[str, Part]:
    """Return the part that formats are checked on, with its name: test, else validation, else training."""
    parts = {"test": data.test, "validation": data.val}
    return next(((kind, part) for kind, part in parts.items() if part), ("training", data.train))


@contextmanager
def temporary_target(target: Path, is_single_file: bool) -> Iterator[Path]:
    """Yield a temporary folder. If the block succeeds, the folder, or the one file in it, becomes the target."""
    if not is_single_file:
        with new_folder(target) as folder:
            yield folder
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(target) as temporary, tempfile.TemporaryDirectory() as folder:
        temporary.touch()  # fail early if the target cannot be written
        yield Path(folder)
        [file] = Path(folder).iterdir()
        shutil.copyfile(file, temporary)


def write_format(
    name: str, saved: Saved, images: Images, expected: Probabilities, folder: Path, tolerance: float
) -> Checked:
    """Write a format, check it, move it into `folder`, and return its measurements.

    Raises `Unfit`, or `OSError` if the disk is full.
    """
    form = FORMATS[name]
    try:
        # Not in `folder`: TensorFlow interprets brackets in a folder's name as a pattern.
        with tempfile.TemporaryDirectory() as temporary, backend.quiet():
            own = Path(temporary)
            form.write(saved.load(), own)
            run = form.load(own)
            probabilities = run_all(run, images)
            refuse_difference(probabilities, expected, tolerance)
            seconds = (seconds_per_image(run, images, 1), seconds_per_image(run, images, BATCH))
            size = form.size(own)
            for file in form.files:
                shutil.move(own / file, folder / file)
    except Unfit:
        raise
    except Exception as error:  # Keras, converters and runtimes raise errors of many types
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise Unfit(f"cannot be written or loaded: {first_line(error)}") from error
    difference = float(abs(probabilities - expected).max())
    return Checked(name, form.files, size, form.shown_runtime, difference, seconds)


def refuse_difference(probabilities: Probabilities, expected: Probabilities, tolerance: float) -> None:
    """Raise `Unfit` unless all predicted classes are equal and all probabilities are within the tolerance."""
    if probabilities.shape != expected.shape:
        raise Unfit(f"returns {probabilities.shape[1:]} numbers per image instead of {expected.shape[1:]}")
    others = int((probabilities.argmax(axis=1) != expected.argmax(axis=1)).sum())
    difference = float(abs(probabilities - expected).max())
    if others:
        raise Unfit(f"predicts another class for {others:,} of {len(expected):,} images")
    if not difference <= tolerance:  # also false for NaN
        raise Unfit(f"its probabilities differ by up to {difference:.1e}, more than tolerance={tolerance:g}")


def notes(saved: Saved, model: keras.Model, target: Path, formats: Sequence[str]) -> Iterator[str]:
    """Yield notes for users of the exported files."""
    if saved.file.suffix != ".keras" and {"keras", "h5"} & set(formats):
        yield "the files lack the optimizer's state, which Keras drops when it loads HDF5"
    elif "h5" in formats and (optimizer := optimizer_of(model)) is not None and not fits_hdf5(optimizer):
        yield f"h5 lacks {type(optimizer).__name__}'s state, which Keras cannot restore from HDF5"
    if "savedmodel" in formats and set("[]*?") & set(str(target)):
        yield "TensorFlow does not load a SavedModel from a folder with '[', ']', '*' or '?' in its path"


def print_checked(checked: Sequence[Checked]) -> None:
    """Print a table of the formats."""
    header = [
        "format",
        "files",
        "bytes",
        "runtime",
        "largest difference",
        "ms per image",
        f"in batches of {BATCH}",
    ]
    rows = [
        [
            one.name,
            ", ".join(one.files),
            f"{one.size:,}",
            one.runtime,
            f"{one.difference:.1e}" if one.difference else "0",
            *(f"{1000 * seconds:.3f}" for seconds in one.seconds),
        ]
        for one in checked
    ]
    print_table(header, rows, right=(header[2], *header[4:]))
