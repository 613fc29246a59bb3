"""`mnist-exp visualize`: draw filters, feature maps, class activation and receptive fields."""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_exp.config.command_schemas import VisualizeConfig
from mnist_exp.config.overrides import Request, key_of
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.config.schema import TrainConfig
from mnist_exp.engine.model_pictures import Chosen, Picture, Subject, pictures_of
from mnist_exp.engine.preparation import set_up
from mnist_exp.engine.results import PLOTS
from mnist_exp.engine.saved_model import Saved, data_of, normalizes, refuse_other_form, settle_saved
from mnist_exp.errors import Problem, RequestError, WorkError
from mnist_exp.runs.atomic import new_folder, refuse_existing
from mnist_exp.runs.directory import RunDirectory, make_directory, safe_name, stamped
from mnist_exp.runs.log import say, warn
from mnist_exp.text import display_path

if TYPE_CHECKING:
    import keras

    from mnist_exp.data.dataset import Dataset, Images, Part, Shape

_MOST_IMAGES = 50  # images in a request
_AT_FIRST = 10  # images by default, and for images=wrong
FOLDER = "visualize"
CHOSEN = "chosen"  # images chosen by number


def visualize(request: Request, started: float) -> None:
    """Draw a saved model's filters, feature maps, class activation maps and receptive fields.

    Raises `RequestError`, or `WorkError` if the disk is full.
    """
    options, saved, config = settle_saved(request, VisualizeConfig)
    set_up(config)
    model = plain(saved)
    layers, chosen = choose(model, saved, config, request, options)
    is_runs_data = saved.run and not any(key_of(text).startswith("data") for text in request.overrides)
    title = f"{saved.name} · {saved.result.data.title if saved.result and is_runs_data else config.data.name}"
    named = options.layers is not None
    subject = Subject(model, layers, named, chosen, options.channels, options.unit, title)
    pictures = pictures_of(subject, options.pictures)
    if not pictures:
        names = ", ".join(layer.name for layer in layers)
        raise RequestError(f"pictures: there are no {' or '.join(options.pictures)} of {names}")
    wait_seconds = config.tracking.wait_seconds
    with place(saved, options, chosen, [picture.file for picture in pictures], wait_seconds) as folder:
        for picture in pictures:
            picture.draw(path=folder / picture.file)
    tell(subject, options.pictures, pictures, options.output or display_path(folder))


def tell(subject: Subject, kinds: Sequence[str], pictures: Sequence[Picture], folder: Path | str) -> None:
    """Print what was drawn, which kinds of pictures there are none of, and the folder."""
    say(f"images      {subject.chosen.what}: {', '.join(subject.chosen.names)}")
    for kind in dict.fromkeys(kinds):
        found = [picture.of or "all" for picture in pictures if picture.kind == kind]
        say(f"{kind:<12}{', '.join(found) or 'none: these layers have nothing to show of this kind'}")
    say(f"pictures    {folder}")


def plain(saved: Saved) -> keras.Model:
    """Return the model as a functional graph from images to classes. Raises `RequestError`."""
    import keras

    loaded = saved.load()
    from mnist_exp.inference.scoring import form

    form(loaded, str(display_path(saved.file)))
    return keras.Model(loaded.inputs[0], loaded.outputs[0])


def choose(
    model: keras.Model, saved: Saved, config: TrainConfig, request: Request, options: VisualizeConfig
) -> tuple[list[keras.Layer], Chosen]:
    """Return the requested layers and images. Raises `RequestError` with all that do not exist."""
    try:
        layers = choose_layers(model, saved, config, options)
    except RequestError as error:
        try:
            choose_images(model, saved, config, request, options)
        except RequestError as another:
            told = another.problems or (Problem("unusable", COMMAND_LINE, str(another), "images"),)
            raise RequestError([*error.problems, *told], "this request") from another
        raise
    return layers, choose_images(model, saved, config, request, options)


def choose_layers(
    model: keras.Model, saved: Saved, config: TrainConfig, options: VisualizeConfig
) -> list[keras.Layer]:
    """Return the requested layers in the order of computation.

    Raises `RequestError` with all that do not exist.
    """
    from mnist_exp.analysis.layer_selection import NoSuchLayer, choose, places_in, places_without_list, telling

    if options.layers is None:
        return telling(model)
    known = (
        places_in(config.model.layers.specs, model.input_shape[1:]) if saved.run else places_without_list(model)
    )
    problems: list[Problem] = []
    found: list[keras.Layer] = []
    for number, wanted in enumerate(options.layers):
        try:
            found += choose(model, wanted, known)
        except NoSuchLayer as error:
            problems.append(
                Problem("unknown-layer", COMMAND_LINE, f"layers.{number}: {error}", f"layers.{number}")
            )
    if problems:
        raise RequestError(problems, "this request")
    return [layer for layer in model.layers if layer in found]


def choose_images(
    model: keras.Model, saved: Saved, config: TrainConfig, request: Request, options: VisualizeConfig
) -> Chosen:
    """Return the requested images. Raises `RequestError` with all that do not exist."""
    import numpy as np

    from mnist_exp.inference.scoring import predict

    wanted = options.images
    if wanted is not None and len(wanted) > _MOST_IMAGES:
        raise _of_images(f"images: {len(wanted)} are too many for a picture; at most {_MOST_IMAGES}")
    if wanted is not None and "wrong" in wanted and len(wanted) > 1:
        raise _of_images(
            "images: 'wrong' cannot be combined with others; it chooses those that the model gets most wrong"
        )
    files = [one for one in wanted or () if isinstance(one, str) and one != "wrong"]
    read, problems = read_pictures(files, model.input_shape[1:], normalizes(saved, config, model.input_shape[1:]))
    if files and len(files) == len(wanted or ()):  # no data is needed
        if problems:
            raise _of_images(*problems)
        known = saved.result.data.class_names if saved.result else None
        class_names = tuple(known or map(str, range(model.output_shape[1])))
        names = tuple(Path(file).name for file in files)
        return Chosen("files", read, names, (None,) * len(files), predict(model, read), class_names)

    data = fitting_data(model, saved, config, request)
    part_name, part = part_of(data, saved)
    if wanted is None:
        what, entries = "the first of each class", [*map(int, part.first_of_each(_AT_FIRST))]
    elif wanted == ("wrong",):
        what, entries = "the most wrong", most_wrong(model, part)
        if not entries:
            raise _of_images(f"images=wrong: it gets none of the {len(part):,} {part_name} images wrong")
    else:
        what, entries = CHOSEN, [one for one in wanted if isinstance(one, int)]
        has = f"{config.data.name} has 0 to {len(part) - 1}"
        problems += [
            f"images: there is no {part_name} image {number}; {has}"
            for number in entries
            if not 0 <= number < len(part)
        ]
        if problems:
            raise _of_images(*problems)
    names = (*(f"{part_name} {number}" for number in entries), *(Path(file).name for file in files))
    images = np.concatenate([part.images[entries], read])
    labels = (*(int(part.labels[number]) for number in entries), *(None for _ in files))
    return Chosen(f"{what}, {part_name}", images, names, labels, predict(model, images), data.class_names)


def fitting_data(model: keras.Model, saved: Saved, config: TrainConfig, request: Request) -> Dataset:
    """Load the configured data, which must fit the model. Raises `RequestError`."""
    data, declared = data_of(config, request), config.data
    refuse_other_form(saved, model.input_shape[1:], model.output_shape[1], declared)
    if saved.result and saved.result.data.sha256 != data.sha256:
        warn(f"{declared.name} is not the data that {saved.name} was trained on: its images have other numbers")
    return data


def _of_images(*problems: str) -> RequestError:
    return RequestError(
        [Problem("unusable", COMMAND_LINE, problem, "images") for problem in problems], "this request"
    )


def read_pictures(files: Sequence[str], shape: Shape, normalized: bool) -> tuple[Images, list[str]]:
    """Read image files as `predict` does. Returns uint8 (n, *shape), and the problems of unreadable files."""
    import numpy as np

    from mnist_exp.inference.image_files import read_picture

    read, problems = np.empty((len(files), *shape), np.uint8), []
    for index, file in enumerate(files):
        try:
            content = Path(file).expanduser().read_bytes()
            read[index] = read_picture(content, file, shape, normalized=normalized)
        except OSError as error:
            hint = "; images=wrong are those that it gets most wrong" if not Path(file).suffix else ""
            problems.append(f"images: {file}: cannot be read: {error.strerror}{hint}")
        except RequestError as error:
            problems.append(f"images: {error}")
    return read, problems


def part_of(data: Dataset, saved: Saved) -> tuple[str, Part]:
    """Return the part that images are chosen from: test, else validation, else training.

    The test part is withheld from the trials of a search.
    """
    test = None if (saved.result and saved.result.withholds_test) else data.test
    parts = {"test": test, "val": data.val, "train": data.train}
    return next((name, part) for name, part in parts.items() if part is not None)


def most_wrong(model: keras.Model, part: Part) -> list[int]:
    """Return the misclassified images with the highest confidence, in descending order."""
    import numpy as np

    from mnist_exp.inference.scoring import predict

    probabilities = predict(model, part.images)
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != part.labels)
    surest = np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")
    return [int(number) for number in wrong[surest][:_AT_FIRST]]


@contextmanager
def place(
    saved: Saved, options: VisualizeConfig, chosen: Chosen, files: Sequence[str], wait_seconds: float
) -> Iterator[Path]:
    """Yield the folder for the pictures (`files`).

    In a run, its name depends on what the pictures show, so that only the same pictures are ever overwritten; the
    tracker gets them too. Raises `RequestError` if it or a picture cannot be written, `WorkError` if the disk is
    full.
    """
    try:
        if options.output is not None:
            output = Path(options.output).expanduser()
            refuse_existing(output)
            with new_folder(output) as folder:
                yield folder
        elif saved.run is None:
            yield make_directory(Path(options.outputs) / FOLDER, stamped(Path(saved.name).stem))
        else:
            name = f"{PLOTS}/{FOLDER}/{folder_name(saved, options, chosen)}"
            with in_run(saved.run, name, files, wait_seconds) as folder:
                yield folder
    except OSError as error:
        kind = WorkError if error.errno == errno.ENOSPC else RequestError
        where = error.filename if options.output is None else f"output: {options.output}"
        raise kind(f"{where} cannot be written: {error.strerror}") from error


@contextmanager
def in_run(run: Path, name: str, files: Sequence[str], wait_seconds: float) -> Iterator[Path]:
    """Yield a folder in a run, and send the files written there to the tracker. Raises `RequestError`."""
    from mnist_exp.tracking.recorder import add_artifacts

    try:
        directory = RunDirectory.open(run)
    except RequestError as error:
        raise RequestError(f"{error}; output=<folder> draws elsewhere") from error
    with directory:
        folder = directory.path / name
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        try:
            add_artifacts(directory, [f"{name}/{file}" for file in files], wait_seconds)
        except ValueError as error:
            warn(f"not sent to the tracker: {error}")


def folder_name(saved: Saved, options: VisualizeConfig, chosen: Chosen) -> str:
    """Return a folder name for pictures with these images, weights and options."""
    drawn_so = [
        saved.result and saved.result.weights_sha256,
        options.channels,
        options.unit,
        chosen.names,
        chosen.labels,
    ]
    digest = hashlib.sha256(json.dumps(drawn_so).encode() + chosen.images.tobytes()).hexdigest()
    words = "-".join(chosen.names) if chosen.what.startswith((CHOSEN, "files")) else chosen.what
    return f"{safe_name(re.sub(r'[, ]+', '-', words))[:60]}-{digest[:6]}"
