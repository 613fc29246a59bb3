"""Choose the layers and images for pictures of a model's internals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from mnist_exp.config.command_schemas import VisualizeConfig
from mnist_exp.config.overrides import Request, key_of
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.config.schema import TrainConfig
from mnist_exp.data.dataset import Dataset, Images, Part, Shape, first_class_names
from mnist_exp.engine.saved_model import (
    Saved,
    load_data,
    names_for_other_data,
    normalizes,
    refuse_other_form,
)
from mnist_exp.errors import Problem, RequestError
from mnist_exp.inference.image_files import read_photograph, read_picture
from mnist_exp.inference.metrics import confident_mistakes
from mnist_exp.inference.scoring import inspect_classifier, predict
from mnist_exp.model.keras_graph import functional_graph
from mnist_exp.model.layer_selection import (
    NoSuchLayer,
    find_layers,
    informative_layers,
    locate_layers,
    number_layers,
)
from mnist_exp.report.class_labels import class_labels
from mnist_exp.runs.log import warn
from mnist_exp.text import display_path, format_percent

CHOSEN = "chosen"
"""Describes images that were chosen by number."""
_MOST_IMAGES = 50  # maximum number of images per request
_DEFAULT_IMAGES = 10  # number of images by default, and maximum for images=wrong
_LONGEST_NAME = 14  # columns


@dataclass(frozen=True)
class Chosen:
    """Images, and a model's predictions for them."""

    what: str
    """A description of the selection, for titles."""
    images: Images
    names: tuple[str, ...]
    """The name of each image, such as `test 17`."""
    labels: tuple[int | None, ...]
    """The true class of each image; None if unknown."""
    probabilities: npt.NDArray[np.float32]
    class_names: tuple[str, ...]

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The most probable class of each image."""
        predicted: npt.NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return predicted

    @property
    def listing(self) -> str:
        """The selection and its images, such as `chosen, test: 17, seven.png`."""
        images = zip(self.names, self.labels, strict=True)
        shown = [name if label is None else name.rpartition(" ")[2] for name, label in images]
        return f"{self.what}: {', '.join(shown)}"

    @property
    def are_named(self) -> bool:
        """Whether the user named each image, by its number or file."""
        return self.what.startswith((CHOSEN, "files"))

    @property
    def captions(self) -> list[str]:
        """A caption for each image: its name, its class if it is misclassified, and the predicted class."""
        captions = []
        for name, label, taken_for, row in zip(
            self.names, self.labels, self.predicted, self.probabilities, strict=True
        ):
            true = "" if label in (None, taken_for) else self.class_name(int(label or 0))
            arrow = "" if label == taken_for else f"{true} → " if len(true) < 4 else f"{true}\n→ "
            captions.append(
                f"{name}\n{arrow.lstrip()}{self.class_name(int(taken_for))}, {format_percent(row[taken_for], 0)}"
            )
        return captions

    def class_name(self, label: int) -> str:
        """Return a class's name, shortened if it is long, but different from the other names."""
        return class_labels(self.class_names, _LONGEST_NAME)[label]


@dataclass(frozen=True)
class Subject:
    """The model, layers and images to visualize."""

    model: keras.Model
    layers: Sequence[keras.Layer]
    were_named: bool
    """Whether the user named these layers."""
    chosen: Chosen
    channels: int | None
    unit: tuple[int, int] | None
    title: str
    """The run and its data, as named at the end of each picture's title."""


def choose_subject(request: Request, saved: Saved, config: TrainConfig, options: VisualizeConfig) -> Subject:
    """Return the requested layers and images of a model. Raises `RequestError` listing those that do not exist.

    Args:
        request: The command line.
        saved: The model.
        config: The config of the model's run, with the overrides of the command line.
        options: The config of the verb.
    """
    model = load_graph(saved)
    layers, chosen = choose_layers_and_images(model, saved, config, request, options)
    is_runs_data = saved.run and not any(key_of(text).startswith("data") for text in request.overrides)
    title = f"{saved.name} · {saved.result.data.title if saved.result and is_runs_data else config.data.name}"
    return Subject(model, layers, options.layers is not None, chosen, options.channels, options.unit, title)


def load_graph(saved: Saved) -> keras.Model:
    """Return the model as a functional graph from images to classes. Raises `RequestError`."""
    loaded = saved.load()
    inspect_classifier(loaded, str(display_path(saved.file)))
    return functional_graph(loaded)


def choose_layers_and_images(
    model: keras.Model, saved: Saved, config: TrainConfig, request: Request, options: VisualizeConfig
) -> tuple[list[keras.Layer], Chosen]:
    """Return the requested layers and images. Raises `RequestError` listing those that do not exist."""
    try:
        layers = choose_layers(model, saved, config, options)
    except RequestError as error:
        try:
            choose_images(model, saved, config, request, options)
        except RequestError as another:
            others = another.problems or (Problem("unusable", COMMAND_LINE, str(another), "images"),)
            raise RequestError([*error.problems, *others], "this request") from another
        raise
    return layers, choose_images(model, saved, config, request, options)


def choose_layers(
    model: keras.Model, saved: Saved, config: TrainConfig, options: VisualizeConfig
) -> list[keras.Layer]:
    """Return the requested layers in the order of computation.

    Raises `RequestError` listing those that do not exist.
    """
    if options.layers is None:
        return informative_layers(model)
    known = locate_layers(config.model.layers.specs, model.input_shape[1:]) if saved.run else number_layers(model)
    problems: list[Problem] = []
    layers: list[keras.Layer] = []
    for number, wanted in enumerate(options.layers):
        try:
            layers += find_layers(model, wanted, known)
        except NoSuchLayer as error:
            problems.append(Problem("unknown-layer", COMMAND_LINE, f"layers: {error}", f"layers.{number}"))
    if problems:
        raise RequestError(problems, "this request")
    return [layer for layer in model.layers if layer in layers]


def choose_images(
    model: keras.Model, saved: Saved, config: TrainConfig, request: Request, options: VisualizeConfig
) -> Chosen:
    """Return the requested images. Raises `RequestError` listing those that do not exist."""
    wanted, shape = options.images, model.input_shape[1:]
    refuse_unusable(wanted)
    files = [one for one in wanted or () if isinstance(one, str) and one != "wrong"]
    read, problems = read_pictures(files, shape, normalizes(saved, config, shape), config.data.resize)
    if files and len(files) == len(wanted or ()):  # no data is needed
        if problems:
            raise _image_error(*problems)
        return _chosen_files(model, saved, files, read)
    data = load_fitting_data(model, saved, config, request)
    part_name, part = select_part(data, saved)
    what, numbers = choose_numbers(model, wanted, part_name, part)
    existing = f"{config.data.name} has 0 to {len(part) - 1}"
    problems += [
        f"images: there is no {part_name} image {number}; {existing}"
        for number in numbers
        if not 0 <= number < len(part)
    ]
    if problems:
        raise _image_error(*problems)
    names = (*(f"{part_name} {number}" for number in numbers), *map(_file_name, files))
    images = np.concatenate([part.images[numbers], read])
    labels = (*part.labels[numbers].tolist(), *[None] * len(files))
    return Chosen(f"{what}, {part_name}", images, names, labels, predict(model, images), data.class_names)


def _chosen_files(model: keras.Model, saved: Saved, files: Sequence[str], images: Images) -> Chosen:
    class_names = first_class_names(model.output_shape[1], saved.result.data.class_names if saved.result else None)
    names = tuple(map(_file_name, files))
    return Chosen("files", images, names, (None,) * len(files), predict(model, images), class_names)


def _file_name(file: str) -> str:
    return Path(file).name


def refuse_unusable(wanted: Sequence[int | str] | None) -> None:
    """Raise `RequestError` for too many images, or for a combination that is not supported."""
    if wanted is not None and len(wanted) > _MOST_IMAGES:
        raise _image_error(f"images: must name at most {_MOST_IMAGES} images, found {len(wanted)}")
    if wanted is not None and "wrong" in wanted and len(wanted) > 1:
        raise _image_error(
            "images: 'wrong' cannot be combined with other images; it selects the most confident mistakes"
        )


def choose_numbers(
    model: keras.Model, wanted: Sequence[int | str] | None, part_name: str, part: Part
) -> tuple[str, list[int]]:
    """Return a description of the requested images and their indices in a part of the data.

    The indices may be out of range. Raises `RequestError` for `images=wrong` if the model misclassifies no image.
    """
    if wanted is None:
        return "the first of each class", [*map(int, part.first_of_each(_DEFAULT_IMAGES))]
    if tuple(wanted) != ("wrong",):
        return CHOSEN, [one for one in wanted if isinstance(one, int)]
    if numbers := find_most_wrong(model, part):
        return "the most confident mistakes", numbers
    raise _image_error(f"images=wrong: the model misclassifies none of the {len(part):,} {part_name} images")


def load_fitting_data(model: keras.Model, saved: Saved, config: TrainConfig, request: Request) -> Dataset:
    """Load the configured data, which must fit the model. Raises `RequestError`."""
    data, declared = load_data(config, request, names_for_other_data(saved, config)), config.data
    refuse_other_form(saved, model.input_shape[1:], model.output_shape[1], declared)
    if saved.result and saved.result.data.sha256 != data.sha256:
        warn(f"{declared.name} is not the data that {saved.name} was trained on: image indices differ")
    return data


def _image_error(*problems: str) -> RequestError:
    return RequestError(
        [Problem("unusable", COMMAND_LINE, problem, "images") for problem in problems], "this request"
    )


def read_pictures(
    files: Sequence[str], shape: Shape, normalized: bool, resize: str | None
) -> tuple[Images, list[str]]:
    """Read image files as `predict` does. Returns uint8 (n, *shape), and the problems of unreadable files."""
    read, problems = np.empty((len(files), *shape), np.uint8), []
    for index, file in enumerate(files):
        try:
            content = Path(file).expanduser().read_bytes()
            if normalized:
                reading = read_photograph(content, file, shape)[0]
                read[index] = reading.image
                if reading.warning:
                    warn(f"{file}: might not show exactly one digit: {reading.warning}")
            else:
                read[index] = read_picture(content, file, shape, resize)
        except OSError as error:
            hint = "; images=wrong selects the most confident mistakes" if not Path(file).suffix else ""
            problems.append(f"images: {file}: cannot be read: {error.strerror}{hint}")
        except RequestError as error:
            problems.append(f"images: {error}")
    return read, problems


def select_part(data: Dataset, saved: Saved) -> tuple[str, Part]:
    """Return the part that images are chosen from: test, else validation, else training.

    The test set is withheld from the trials of a search.
    """
    test = None if (saved.result and saved.result.withholds_test) else data.test
    parts = {"test": test, "val": data.val, "train": data.train}
    return next((name, part) for name, part in parts.items() if part is not None)


def find_most_wrong(model: keras.Model, part: Part) -> list[int]:
    """Return the indices of the most confidently misclassified images, in descending order of confidence."""
    mistakes = confident_mistakes(part.labels, predict(model, part.images))
    return [int(number) for number in mistakes[:_DEFAULT_IMAGES]]
