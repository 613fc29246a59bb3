"""Write a saved model in other formats, each checked against the model before it is kept."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_exp.engine.saved_model import Saved
from mnist_exp.errors import RequestError, first_line
from mnist_exp.model import backend
from mnist_exp.runs.atomic import new_folder, replace_file
from mnist_exp.text import display_path

if TYPE_CHECKING:
    import keras

    from mnist_exp.data.dataset import Dataset, Images, Part
    from mnist_exp.inference.scoring import Probabilities


BATCH = 256  # images for which the batch latency is measured


@dataclass(frozen=True)
class Checked:
    """A format that agrees with the model, and its figures."""

    name: str
    files: tuple[str, ...]
    size: int
    """Size in bytes."""
    runtime: str
    difference: float
    """The largest difference of a probability, over all images and classes."""
    seconds: tuple[float, float]
    """Seconds per image, one at a time and in batches of `BATCH`."""


def compute_on_cpu() -> None:
    """Use the CPU, as the other formats' runtimes do: a GPU gives other last bits and times."""
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


class Unfit(Exception):
    """A format cannot be written, or disagrees with the model."""


def images_of(data: Dataset) -> tuple[str, Part]:
    """Return the images that formats are checked on: the test part, else validation, else training."""
    parts = {"test": data.test, "validation": data.val}
    return next(((kind, part) for kind, part in parts.items() if part), ("training", data.train))


@contextmanager
def temporary_target(target: Path, is_file: bool) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to the target when the block succeeds, or whose only file is."""
    if not is_file:
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
    """Write a format, check it, and move it into a folder. Raises `Unfit`, or `OSError` if the disk is full."""
    from mnist_exp.inference.export_formats import FORMATS, run_all, seconds_per_image

    form = FORMATS[name]
    try:
        # Not in `folder`: TensorFlow interprets brackets in a folder's name as a pattern.
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
    except Exception as error:  # Keras, tf2onnx, TensorFlow and the runtimes raise anything
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise Unfit(f"could not be written or loaded: {first_line(error)}") from error
    difference = float(abs(found - expected).max())
    return Checked(name, form.files, size, form.shown_runtime, difference, seconds)


def refuse_difference(found: Probabilities, expected: Probabilities, tolerance: float) -> None:
    """Raise `Unfit` unless all classes are equal, and all probabilities within the tolerance."""
    if found.shape != expected.shape:
        raise Unfit(f"gives {found.shape[1:]} numbers per image instead of {expected.shape[1:]}")
    others = int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())
    difference = float(abs(found - expected).max())
    if others:
        raise Unfit(f"gives another class for {others:,} of {len(expected):,} images")
    if not difference <= tolerance:  # also false for NaN
        raise Unfit(f"its probabilities differ by up to {difference:.1e}, and tolerance={tolerance:g}")
