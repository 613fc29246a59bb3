"""Average the probabilities of saved models, or of shifted images, in one model; verify, score and write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import yaml

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.data.dataset import SET_NAMES, Dataset, Images, Part
from mnist_exp.engine.evaluation import has_runs_split, resolve_class_names
from mnist_exp.engine.exporting import Unfit, refuse_difference
from mnist_exp.engine.picture_subject import select_part
from mnist_exp.engine.saved_model import Saved, load_data, names_for_other_data, refuse_other_form
from mnist_exp.errors import RequestError, WorkError
from mnist_exp.inference.metrics import wilson
from mnist_exp.inference.scoring import Probabilities, Scores, inspect_classifier, load, score
from mnist_exp.model.preprocessing import count_parameters
from mnist_exp.model.saving import save_keras, weights_sha256
from mnist_exp.report.documents import EnsembleDocument, EvaluatedData, MemberEntry, Metrics
from mnist_exp.report.progress import images_bar
from mnist_exp.report.tables import print_table
from mnist_exp.runs import signals
from mnist_exp.runs.atomic import cannot_write, new_folder, write_text
from mnist_exp.runs.directory import ENSEMBLE, MODEL
from mnist_exp.runs.log import say, warn
from mnist_exp.runs.lookup import read_config
from mnist_exp.text import display_path, format_loss, format_percent
from mnist_exp.training.device import Device

TOLERANCE = 1e-4
"""The largest accepted difference between the written model's probabilities and the mean of its members'."""
_MOST_MEMBERS = 20  # listed in the output


Shifts = Sequence[tuple[int, int]]
"""How far down and to the right images are shifted, in pixels."""
UNSHIFTED: Shifts = ((0, 0),)


def average(models: Sequence[keras.Model], shifts: Shifts = UNSHIFTED) -> keras.Model:
    """Return a model whose output is the mean of the outputs of models that take the same images.

    It consists of copies of the models' layers, whose names end in the number of their member, and shares no
    weights with the models. All shifted images go through the same copies.
    """
    pixels = keras.Input(models[0].input_shape[1:], name="pixels")
    moves = [shift for shift in shifts if shift != (0, 0)]
    views = [_shift(pixels, down, right, number) for number, (down, right) in enumerate(moves, 1)]
    outputs = []
    for number, model in enumerate(models, 1):
        unshifted, shifted = _copy(model, number, pixels, views)
        outputs += [unshifted] * (len(moves) < len(shifts)) + shifted
    mean = keras.layers.Average(name="mean")(outputs) if len(outputs) > 1 else outputs[0]
    return keras.Model(pixels, mean, name="ensemble")


def _shift(pixels: keras.KerasTensor, down: int, right: int, number: int) -> keras.KerasTensor:
    """Return shifted images; the pixels that enter the frame are 0."""
    entering = ((max(down, 0), max(-down, 0)), (max(right, 0), max(-right, 0)))
    leaving = tuple(sides[::-1] for sides in entering)
    padded = keras.layers.ZeroPadding2D(entering, name=f"pad_{number}")(pixels)
    return keras.layers.Cropping2D(leaving, name=f"shift_{number}")(padded)


def shift_images(images: Images, down: int, right: int) -> Images:
    """Return shifted images, computed without Keras: the reference that a written model is compared with."""
    height, width = images.shape[1:3]
    shifted = np.zeros_like(images)
    target = images[:, max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)]
    shifted[:, max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = target
    return shifted


def _copy(
    model: keras.Model, number: int, pixels: keras.KerasTensor, views: Sequence[keras.KerasTensor]
) -> tuple[keras.KerasTensor, list[keras.KerasTensor]]:
    """Apply a copy of a model, with a number appended to the names of its layers, to images and to views of them.

    A nested model would be shorter, but the layers inside could not be drawn.

    Returns:
        The output for `pixels`, and those for `views`.
    """
    seen_as = {id(pixels): views}  # tensors for the views, by the tensor for the images

    def renamed(layer: keras.Layer) -> keras.Layer:
        return type(layer).from_config({**layer.get_config(), "name": f"{layer.name}_{number}"})

    def in_view(index: int, tensor: keras.KerasTensor) -> keras.KerasTensor:
        return seen_as[id(tensor)][index]

    def call(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        output = layer(*args, **kwargs)
        given = [keras.tree.map_structure(partial(in_view, index), args) for index in range(len(views))]
        seen_as[id(output)] = [layer(*inputs, **kwargs) for inputs in given]
        return output

    copy = keras.models.clone_model(model, input_tensors=pixels, clone_function=renamed, call_function=call)
    copy.set_weights(model.get_weights())
    return copy.output, list(seen_as[id(copy.output)])


class EnsembleWriter:
    """Writes an ensemble: loads and scores its members, then builds, verifies and scores their mean."""

    def __init__(
        self, request: Request, members: Sequence[Saved], run_config: TrainConfig, shifts: Shifts
    ) -> None:
        """Load the models and the images to verify and score the ensemble with.

        Args:
            request: The command line.
            members: The members' saved models, which have the same image shape and classes.
            run_config: The config of the first member's run, with the overrides of the command line.
            shifts: The shifts to average over, different from each other.

        Raises:
            RequestError: A model or the data is unusable, or they do not fit each other.
        """
        self._members, self._config, self._shifts = members, run_config, shifts
        self._models = _load_all(members, run_config)
        self._data = load_data(run_config, request, names_for_other_data(members[0], run_config))
        classes = self._models[0].output_shape[1]
        self._class_names = resolve_class_names(members[0], classes, self._data, run_config)
        self._part_name, self._part = _select_part(self._data, members)
        _warn_of_seen_images(request, members, run_config, self._data, self._part_name)

    def write(self, target: Path, device: Device) -> EnsembleDocument:
        """Write the ensemble into a new folder, print the figures, and return them.

        Raises:
            RequestError: The folder cannot be written.
            WorkError: The disk is full, or the written model differs from the mean of its members.
        """
        part, training = self._part, self._config.training
        with images_bar("scoring", len(part) * (len(self._models) + 1)) as advance:
            scores, views = [], []
            for model in self._models:
                scores.append(score(model, part, training))
                views += self._score_views(model, scores[-1])
                advance(len(part))
            try:
                with signals.raised(), new_folder(target) as folder:
                    save_keras(average(self._models, self._shifts), folder)
                    written = load(folder / MODEL)
                    mean = mean_probabilities(views)
                    document = self._describe(target, written, scores, mean, score(written, part, training))
                    write_text(folder / ENSEMBLE, document.as_json())
                    write_text(folder / "config.yaml", self._config_text())
            except OSError as error:
                raise cannot_write(error, target) from error
        self._print(document, device, count_parameters(written))
        return document

    def _score_views(self, model: keras.Model, unshifted: Scores) -> list[Probabilities]:
        """Return a member's probabilities for each shift of the images."""
        part, training = self._part, self._config.training
        return [
            unshifted.probabilities
            if shift == (0, 0)
            else score(model, replace(part, images=shift_images(part.images, *shift)), training).probabilities
            for shift in self._shifts
        ]

    def _describe(
        self,
        target: Path,
        written: keras.Model,
        members: Sequence[Scores],
        mean: Probabilities,
        scores: Scores,
    ) -> EnsembleDocument:
        """Return the document of a written model that agrees with `mean`. Raises `WorkError` otherwise."""
        try:
            refuse_difference(scores.probabilities, mean, TOLERANCE)
        except Unfit as error:
            raise WorkError(
                f"nothing was written: the ensemble differs from the mean of its members: {error}"
            ) from error
        entries = [
            MemberEntry(
                run=member.name,
                path=str(member.file.parent.resolve()),
                weights_sha256=weights_sha256(model),
                metrics=dict(scores.metrics),
            )
            for member, model, scores in zip(self._members, self._models, members, strict=True)
        ]
        rights = [_count_right(scores, self._part) for scores in members]
        first, data = self._members[0].result, self._data
        assert first is not None
        return EnsembleDocument(
            model=str(target / MODEL),
            weights_sha256=weights_sha256(written),
            data=EvaluatedData(
                name=self._config.data.name,
                sha256=data.sha256,
                origin=data.origin,
                part=self._part_name,  # type: ignore[arg-type]
                images=len(self._part),
                class_names=list(self._class_names),
                of_the_run=data.sha256 == first.data.sha256,
                normalized=False,
                fallback_for=first.data.stands_in_for if data.sha256 == first.data.sha256 else None,
            ),
            metrics=dict(scores.metrics),
            interval=wilson(_count_right(scores, self._part), len(self._part)),
            members=entries,
            shifts=list(self._shifts),
            mean={name: float(np.mean([one.metrics[name] for one in members])) for name in scores.metrics},
            best=entries[int(np.argmax(rights))].path,
            largest_difference=float(abs(scores.probabilities - mean).max()),
            folder=str(target),
        )

    def _config_text(self) -> str:
        """Return the first member's config as YAML, with the names of the classes."""
        assert self._members[0].settings is not None
        values = read_config(self._members[0].settings)
        values["data"] = {**values["data"], "class_names": list(self._class_names)}
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)

    def _print(self, document: EnsembleDocument, device: Device, parameters: int) -> None:
        data, members = document.data, document.members
        say(f"members {len(members)} run{'s' * (len(members) > 1)}, {parameters:,} parameters in total")
        if len(document.shifts) > 1:
            say(f"shifts  {', '.join(str(list(shift)) for shift in document.shifts)}")
        say(f"data    {data.name} from {data.origin}: {data.images:,} images of the {SET_NAMES[data.part]}")
        say(f"device  {device.name}, float32")
        best = next(member for member in members if member.path == document.best)
        listed = members if len(members) <= _MOST_MEMBERS else []
        lines = [(member.run, member.metrics) for member in listed]
        lines += [("mean of the members", document.mean), (f"best member, {best.run}", best.metrics)]
        lines += [("ensemble", document.metrics)]
        names = sorted(document.metrics, key=lambda name: name == "loss")
        print_table(["model", *names], [[name, *_format(metrics, names)] for name, metrics in lines], right=names)
        over = " over all shifts" * (len(document.shifts) > 1)
        low, high = (f"{100 * bound:.2f}" for bound in document.interval)
        say(f"{data.part:<7} the ensemble's accuracy has the 95 % interval {low} … {high} (Wilson)")
        say(
            f"The saved model agrees with the mean of its members{over} on all {data.images:,} images: "
            f"same classes, and probabilities within {TOLERANCE:g}."
        )
        say(f"written {display_path(Path(document.folder))}")


def mean_probabilities(probabilities: Sequence[Probabilities]) -> Probabilities:
    """Return the mean of probabilities (n, classes), adding them in the order in which the saved model does."""
    total = probabilities[0]
    for other in probabilities[1:]:
        total = total + other
    return (total / np.float32(len(probabilities))).astype(np.float32)


def _load_all(members: Sequence[Saved], run_config: TrainConfig) -> list[keras.Model]:
    """Load the members' models. Raises `RequestError` with the problems of all."""
    models, problems = [], []
    for member in members:
        try:
            model = member.load()
            shape, classes = inspect_classifier(model, str(display_path(member.file)))
            refuse_other_form(member, shape, classes, run_config.data)
            models.append(model)
        except RequestError as error:
            problems.append(str(error))
    if problems:
        raise RequestError("\n".join(problems))
    return models


def _select_part(data: Dataset, members: Sequence[Saved]) -> tuple[str, Part]:
    """Return the part to score: test, unless it is withheld from a member; else validation, else training."""
    withheld = [member for member in members if member.result and member.result.withholds_test]
    name, part = select_part(data, (withheld or members)[0])
    if withheld and data.test:
        say(f"note    {withheld[0].name} is a trial of a search, which scores only its best trial on the test set")
    return name, part


def _warn_of_seen_images(
    request: Request, members: Sequence[Saved], run_config: TrainConfig, data: Dataset, part: str
) -> None:
    """Warn if a member may have been trained on some of the images to score."""
    for member in members:
        assert member.result is not None
        if member.result.data.sha256 != data.sha256:
            warn(f"{member.name} was trained on other data, which may contain some of these images")
        elif part != "test" and not has_runs_split(member, request, run_config):
            warn(
                f"{member.name} split its images differently, so it may have been trained on some of these images"
            )


def _count_right(scores: Scores, part: Part) -> int:
    return int((scores.predicted == part.labels).sum())


def _format(metrics: Metrics, names: Sequence[str]) -> list[str]:
    return [
        format_percent(metrics[name]) if name == "accuracy" else format_loss(metrics[name] or 0.0)
        for name in names
    ]
