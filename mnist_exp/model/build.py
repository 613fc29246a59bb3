"""From a config to a compiled Keras model that takes raw pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from mnist_exp.config.compose import Composition
from mnist_exp.config.schema import TrainConfig
from mnist_exp.errors import Problem, RequestError
from mnist_exp.model.layers import ArgumentError, default_name, first_sentence, make_layer, parse_entry
from mnist_exp.model.objective import make_loss, make_metrics, make_optimizer, try_on_targets, try_optimizer
from mnist_exp.model.preprocess import Statistics, preprocessing

# What a part of the config is wrong in: the dotted path and the message.
Report = Callable[[str, str], None]

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def build(config: TrainConfig, statistics: Statistics, precision: str) -> keras.Model:
    """The compiled model: input (batch, height, width, channels) of pixels 0…255, output (batch, classes).

    `precision` is what it computes in (`float32` or `bfloat16`); weights, input and output are float32. Initial
    weights are a function of `config.seed`. The learning rate is a variable that the training loop sets. The
    config must have passed `check`.
    """
    keras.utils.set_random_seed(config.seed)
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[precision])
    try:
        inputs = keras.Input(config.data.shape, name="pixels", dtype="float32")
        x = inputs
        for layer in preprocessing(config.preprocess, statistics):
            x = layer(x)
        outputs = apply_layers(config.model.layers, x, "model.layers", _refuse)
        model = keras.Model(inputs, outputs, name=_identifier(config.model.name))
        model.compile(
            optimizer=make_optimizer(config.optimizer),
            loss=make_loss(config.training),
            metrics=make_metrics(config.training),
            jit_compile=False,  # slower on CPUs
        )
    finally:
        keras.config.set_dtype_policy(previous)
    return model


def apply_layers(entries: tuple[Any, ...], x: Any, path: str, report: Report) -> Any:
    """Apply a list of layers to a symbolic tensor; a `null` entry is left out.

    Whatever is wrong is reported at its place. After a layer that does not fit, the others are still made, so
    that their own mistakes are told in the same answer.
    """
    seen: dict[str, int] = {}
    last = max((index for index, entry in enumerate(entries) if entry is not None), default=-1)
    previous = "the input"
    fits = True
    for index, entry in enumerate(entries):
        if entry is None:
            continue
        place = f"{path}.{index}"
        try:
            kind, _ = parse_entry(entry)
            layer = make_layer(entry, default_name(kind, seen))
            if index == last:
                # Probabilities in half precision would cost the loss its accuracy.
                layer.dtype_policy = keras.DTypePolicy("float32")
        except ArgumentError as error:
            report(f"{place}.{error.key}" if error.key else place, str(error))
            fits = False
            continue
        if not fits:
            continue
        try:
            x = layer(x)
        except (ValueError, TypeError) as error:
            shape = "×".join(str(size) for size in x.shape[1:])
            report(place, f"{kind} does not fit its input of {shape} (after {previous}): {first_sentence(error)}")
            fits = False
        previous = f"{place}, {kind}"
    return x if fits else None


def check(config: TrainConfig, composition: Composition) -> None:
    """Let Keras judge what only Keras can: layers, shapes, optimizer, loss and metrics.

    Builds the model from what the config declares of the data; no data is read. Raises `RequestError` with
    all problems.
    """
    problems: list[Problem] = []

    def report(path: str, message: str) -> None:
        problems.append(Problem(composition.places.place(path), f"{path}: {message}"))

    for path, make in (
        ("optimizer", lambda: try_optimizer(config.optimizer)),
        ("training", lambda: make_loss(config.training)),
        ("training", lambda: make_metrics(config.training)),
        ("training", lambda: try_on_targets(config.training, config.data.classes)),
    ):
        try:
            make()
        except ArgumentError as error:
            report(f"{path}.{error.key}" if error.key else path, str(error))
    inputs = x = keras.Input(config.data.shape, name="pixels", dtype="float32")
    for layer in preprocessing(config.preprocess, Statistics()):
        x = layer(x)
    outputs = apply_layers(config.model.layers, x, "model.layers", report)
    if outputs is not None and tuple(outputs.shape) != (None, config.data.classes):
        shape = "×".join(str(size) for size in outputs.shape[1:])
        report("model.layers", f"must end in {config.data.classes} values, one per class, but ends in {shape}")
    if outputs is not None:
        try:
            model = keras.Model(inputs, outputs)
        except ValueError as error:  # two layers of one name
            report("model.layers", first_sentence(error))
        else:
            total = float(np.sum(model(np.full((1, *config.data.shape), 128, np.float32)))) if not problems else 1
            if not abs(total - 1) < 1e-3:
                report("model.layers", f"must end in probabilities, but their sum is {total:.3g}: add Softmax")
    available = {"loss", "accuracy", *(metric.name for metric in _metrics_or_none(config))}
    selected = config.training.select.metric.removeprefix("val/")
    if not problems and selected not in available:
        names = ", ".join(f"val/{name}" for name in sorted(available))
        report("training.select.metric", f"no such metric; there are {names}")
    if problems:
        raise RequestError(sorted(set(problems)))


def _metrics_or_none(config: TrainConfig) -> list[keras.Metric]:
    try:
        return make_metrics(config.training)
    except ArgumentError:
        return []


def _refuse(path: str, message: str) -> None:
    raise RequestError([Problem(path, message)])


def _identifier(name: str) -> str:
    return "".join(character if character.isalnum() else "_" for character in name)
