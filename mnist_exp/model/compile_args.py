"""Create the optimizer, loss and metrics of a config, which names them as Keras does."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from mnist_exp.config.schema import OptimizerConfig, TrainingConfig
from mnist_exp.keras_spec.signatures import find_class, snake_case
from mnist_exp.model.keras_errors import ArgumentError, first_sentence
from mnist_exp.model.layers import keras_class


def make_optimizer(config: OptimizerConfig, ema: float | None = None) -> keras.Optimizer:
    """Create the optimizer, with its base learning rate. Raises `ArgumentError` for values that Keras rejects.

    Args:
        config: The optimizer's type and arguments.
        ema: The momentum of the exponential moving average of the weights; None for no average.
    """
    optimizer_class = keras_class("optimizers", config.type)
    more: dict[str, Any] = {} if ema is None else {"use_ema": True, "ema_momentum": ema}
    decay = inspect.signature(optimizer_class).parameters.get("weight_decay")
    if config.weight_decay is None and decay is not None and decay.default:
        more["weight_decay"] = 0.0  # null means no decay, even for AdamW and others that decay by default
    try:
        return optimizer_class(**config.arguments, **more)
    except Exception as error:  # of any type, in a plug-in
        raise ArgumentError(f"{config.type} cannot be created: {first_sentence(error)}") from error


def try_optimizer(optimizer: keras.Optimizer) -> None:
    """Try one step of a new optimizer. Raises `ArgumentError` for arguments that fail only when a step is run."""
    variable = keras.Variable(np.ones((2, 2), np.float32))
    try:
        optimizer.apply([keras.ops.ones((2, 2))], [variable])
    except Exception as error:  # of any type: without this check, it would be raised in training
        kind = type(optimizer).__name__
        raise ArgumentError(f"{kind} fails at its first step: {first_sentence(error)}") from error


def make_loss(config: TrainingConfig) -> keras.Loss:
    """Create the loss, which takes probabilities, with the configured label smoothing."""
    arguments = {"label_smoothing": config.label_smoothing} if config.label_smoothing else {}
    try:
        loss: keras.Loss = keras_class("losses", str(find_class("losses", config.loss)))(**arguments)
    except Exception as error:  # of any type, in a plug-in
        raise ArgumentError(f"{config.loss} cannot be created: {first_sentence(error)}", "loss") from error
    return loss


def make_metrics(config: TrainingConfig) -> list[keras.Metric]:
    """Create the accuracy, followed by the additional metrics of the config.

    Raises:
        ArgumentError: If Keras cannot create a metric without arguments.
    """
    accuracy = keras.metrics.CategoricalAccuracy if config.one_hot else keras.metrics.SparseCategoricalAccuracy
    metrics = [accuracy(name="accuracy")]
    for index, name in enumerate(config.metrics):
        class_name = str(find_class("metrics", name))
        try:
            # An explicit name: Keras numbers its default names within the process.
            metrics.append(keras_class("metrics", class_name)(name=snake_case(class_name)))
        except Exception as error:  # of any type, in a plug-in
            message = f"{name} cannot be created: {first_sentence(error)}"
            raise ArgumentError(message, f"metrics.{index}") from error
    return metrics


def try_on_targets(
    loss: keras.Loss, metrics: Sequence[keras.Metric], config: TrainingConfig, classes: int
) -> None:
    """Check that the loss and each additional metric return one number for two images. Raises `ArgumentError`."""
    probabilities = np.full((2, classes), 1 / classes, np.float32)
    targets = np.eye(2, classes) if config.one_hot else np.arange(2)
    kind = "one-hot targets" if config.one_hot else "class indices"
    try:
        value = np.asarray(loss(targets, probabilities))
    except Exception as error:  # of any type: without this check, it would be raised in training
        raise ArgumentError(f"{config.loss} does not work with {kind}: {first_sentence(error)}", "loss") from error
    if value.shape != ():
        raise ArgumentError(f"{config.loss} returns {value.size} values instead of one", "loss")
    for index, metric in enumerate(metrics[1:]):
        key = f"metrics.{index}"
        try:
            metric.update_state(targets, probabilities)
            value = np.asarray(metric.result())
        except Exception as error:
            message = f"{metric.name} does not work with {kind}: {first_sentence(error)}"
            raise ArgumentError(message, key) from error
        if value.shape != ():
            raise ArgumentError(f"{metric.name} returns {value.size} values instead of one", key)
