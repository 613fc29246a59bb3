"""Read labelled photographs and scans of digits, each in the folder of its class, in MNIST style."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnist_exp.config.data_schema import DataConfig
from mnist_exp.data.dataset import SET_NAMES, Dataset, Part, Progress, Shape, Tell, digest
from mnist_exp.data.faults import Faults
from mnist_exp.data.formats import list_classes
from mnist_exp.errors import RequestError
from mnist_exp.inference.image_files import read_photograph
from mnist_exp.inference.mnist_form import Reading


@dataclass(frozen=True)
class LabelledPhotographs:
    """A data set of digits found in photographs, each with its path and why it might not show exactly one."""

    data: Dataset
    paths: list[str]
    warnings: list[str]
    """Empty for pictures that look like one digit."""


def read_labelled_photographs(
    data: DataConfig, part: str | None, shape: Shape, trained: Sequence[str], tell: Tell, progress: Progress
) -> LabelledPhotographs:
    """Read one part of an image folder, with the digit in each photograph in MNIST style.

    Args:
        data: The config.
        part: `train` or `test`; None: the test set or, if there is none, the training set.
        shape: The height, width and channels that the model takes.
        trained: The model's class names.
        tell: Prints a note.
        progress: Shows the progress of reading.

    Raises:
        RequestError: The data is unusable; the message lists all photographs without a digit.
    """
    listing, folders, names = list_classes(data, tell, trained, progress)
    chosen = part or ("test" if "test" in listing.files else "train")
    images = listing.files.get(chosen, {})
    files = [(path, label) for label, name in enumerate(folders) for path in images.get(name, ())]
    if not files:
        raise RequestError(f"{data.dir}: no images in the {SET_NAMES[chosen]}")

    found = _read_all(files, shape, listing.faults, progress)
    if listing.clutter:
        tell(f"{data.dir}: {listing.note_clutter()}")
    if not (data.skip_bad and found):
        listing.faults.raise_any(
            f"{data.dir}, {len(files):,} images", "; data.skip_bad=true leaves such files out"
        )
    elif len(listing.faults):
        tell(listing.faults.note(str(data.dir)))
    paths, labels, readings = zip(*found, strict=True)
    found_part = Part(np.stack([reading.image for reading in readings]), np.array(labels, np.int64))
    nothing = found_part.take(np.empty(0, np.int64))
    train, test = (nothing, found_part) if chosen == "test" else (found_part, None)
    of_all = Dataset(train, None, test, str(data.dir), names, digest([found_part]))
    return LabelledPhotographs(of_all, list(paths), [reading.warning for reading in readings])


def _read_all(
    files: Sequence[tuple[str, int]], shape: Shape, faults: Faults, progress: Progress
) -> list[tuple[str, int, Reading]]:
    """Return the path, label and reading of each usable photograph, and add the others to `faults`."""

    def read(file: tuple[str, int]) -> Reading | str:
        path, _ = file
        try:
            return read_photograph(Path(path).read_bytes(), path, shape)[0]
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        except RequestError as error:
            return str(error).removeprefix(f"{path}: ")

    found = []
    with progress("reading", len(files)) as advance, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        for (path, label), reading in zip(files, threads.map(read, files), strict=True):
            advance(1)
            if isinstance(reading, str):
                faults.add("unusable photographs", path, reading)
            else:
                found.append((path, label, reading))
    return found
