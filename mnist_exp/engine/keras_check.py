"""The checks of a config that only Keras can make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from mnist_exp.analysis.layer_selection import NoSuchLayer, choose
from mnist_exp.analysis.summary import multiply_adds
from mnist_exp.config.compose import Composition
from mnist_exp.config.schema import TrainConfig
from mnist_exp.errors import Problem, RequestError
from mnist_exp.keras_spec.layer_types import Report, augmentation_faults, tell, told_at
from mnist_exp.model.compile_args import make_loss, make_metrics, make_optimizer, try_on_targets, try_optimizer
from mnist_exp.model.graph import apply_layers
from mnist_exp.model.keras_errors import first_sentence
from mnist_exp.model.preprocessing import Statistics, apply_preprocessing, count_parameters
from mnist_exp.model.warm_start import compare, load_donor
from mnist_exp.training.keras_augment import make_augmentation, try_augmentation


def check(config: TrainConfig, composition: Composition) -> None:
    """Check with Keras what only Keras can check: layers, shapes, optimizer, loss and metrics.

    The model is built for the data that the config declares; no data is read. Raises `RequestError` with all
    problems.
    """
    problems: list[Problem] = []

    def report(path: str, message: str) -> None:
        problems.append(composition.problem(path, message, "rejected-by-keras"))

    _check_objective(config, report)
    _check_augmentation(config, report)
    inputs = keras.Input(config.data.shape, name="pixels", dtype="float32")
    x = apply_preprocessing(config.preprocess, Statistics(), inputs)
    places: dict[str, str] = {}
    outputs = apply_layers(config.model.layers, x, "model.layers", report, places)
    if outputs is not None:
        try:
            model = keras.Model(inputs, outputs)
        except ValueError as error:  # two layers with one name
            report("model.layers", first_sentence(error))
        else:
            _check_model(model, config, places, report, learns=not problems)
    if problems:
        raise RequestError(sorted(set(problems)))


def _check_objective(config: TrainConfig, report: Report) -> None:
    """Check the optimizer, the loss, the metrics, and the metric that selects the best epoch."""
    wrong: list[str] = []

    def note(path: str, message: str) -> None:
        wrong.append(path)
        report(path, message)

    for path, make in (
        ("optimizer", lambda: try_optimizer(config.optimizer)),
        ("training", lambda: make_loss(config.training)),
        ("training", lambda: make_metrics(config.training)),
        ("training", lambda: try_on_targets(config.training, config.data.classes)),
    ):
        if "training.loss" not in wrong:  # the loss determines the metrics' targets
            with told_at(path, note):
                make()
    if wrong:
        return
    available = {"loss", *(metric.name for metric in make_metrics(config.training))}
    if config.training.select.metric.removeprefix("val/") not in available:
        names = ", ".join(f"val/{name}" for name in sorted(available))
        report("training.select.metric", f"no such metric; there are {names}")


def _check_augmentation(config: TrainConfig, report: Report) -> None:
    for index, entry in enumerate(config.aug.layers):
        if entry is not None:
            place = f"aug.layers.{index}"
            if not tell(augmentation_faults(entry), place, report):
                with told_at(place, report):
                    try_augmentation(make_augmentation(entry), config.data.shape)


def _check_model(
    model: keras.Model, config: TrainConfig, places: dict[str, str], report: Report, *, learns: bool
) -> None:
    """Check the model's output, watched layers, initial weights and size.

    If it `learns`, also check a training step on two images, and that the model can be saved.
    """
    if model.output_shape != (None, config.data.classes):
        shape = "×".join(str(size) for size in model.output_shape[1:])
        report("model.layers", f"must end in {config.data.classes} values, one per class, but ends in {shape}")
        return
    for index, wanted in enumerate(config.training.watch):
        try:
            choose(model, wanted, places)
        except NoSuchLayer as error:
            report(f"training.watch.{index}", str(error))
    if config.init_from is not None:
        _check_donor(model, config.init_from, report)
    for key, most, found, what in (
        ("max_parameters", config.budget.max_parameters, count_parameters(model), "parameters"),
        ("max_macs", config.budget.max_macs, sum(map(multiply_adds, model.layers)), "multiply-adds per image"),
    ):
        if most is not None and found > most:
            report(f"budget.{key}", f"the model has {found:,} {what}, {found - most:,} more than {most:,}")
    if not learns:
        return
    images = np.full((2, *config.data.shape), 128, np.float32)
    targets = np.eye(2, config.data.classes) if config.training.one_hot else np.arange(2)
    try:
        total = float(np.sum(model(images))) / 2
        if not abs(total - 1) < 1e-3:
            report("model.layers", f"must end in probabilities, but their sum is {total:.3g}: add Softmax")
            return
        optimizer, loss = make_optimizer(config.optimizer, config.training.ema), make_loss(config.training)
        model.compile(optimizer, loss, run_eagerly=True, jit_compile=False)
        model.train_on_batch(images, targets)
    # Keras builds models that TensorFlow cannot compute, for example with unequal strides
    except Exception as error:
        place = _first_that_fails(model, images, places)
        report(place, f"can be built, but not computed: {first_sentence(error)}")
        return
    try:
        keras.models.model_from_json(model.to_json())
    except Exception as error:
        report("model.layers", f"can be trained, but not saved: {first_sentence(error)}")


def _check_donor(model: keras.Model, run: str, report: Report) -> None:
    try:
        taken = compare(model, load_donor(Path(run))).taken
    except RequestError as error:
        report("init_from", str(error))
    else:
        if not taken:
            report("init_from", f"no layer of {run} has the name and shapes of one here")


def _first_that_fails(model: keras.Model, images: Any, places: dict[str, str]) -> str:
    for layer in model.layers[1:]:
        try:
            keras.Model(model.input, layer.output)(images, training=True)
        except Exception:
            return places.get(layer.name, "model.layers")
    return "model.layers"  # the forward pass works
