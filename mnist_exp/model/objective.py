"""Optimizer, loss and metrics by Keras' names."""

from __future__ import annotations

import inspect
from typing import Any

import keras

from mnist_exp.config.names import did_you_mean
from mnist_exp.config.schema import OptimizerConfig, TrainingConfig
from mnist_exp.model.layers import LayerError, check_arguments, first_sentence


def make_optimizer(config: OptimizerConfig) -> keras.Optimizer:
    """The optimizer at its base learning rate. Raises `LayerError`."""
    optimizers = _classes(keras.optimizers, keras.Optimizer)
    optimizer_class = optimizers.get(config.type)
    if optimizer_class is None:
        raise LayerError(f"there is no optimizer '{config.type}'{did_you_mean(config.type, optimizers)}", "type")
    check_arguments(optimizer_class, config.arguments)
    try:
        return optimizer_class(**config.arguments)
    except (ValueError, TypeError) as error:
        raise LayerError(f"{config.type} cannot be made: {first_sentence(error)}") from error


def make_loss(config: TrainingConfig) -> keras.Loss:
    """The loss, on probabilities, with label smoothing where the config asks for it. Raises `LayerError`."""
    loss_class = _by_name(config.loss, keras.losses, keras.Loss, "loss", "loss")
    arguments: dict[str, Any] = {}
    if config.label_smoothing:
        arguments["label_smoothing"] = config.label_smoothing
        check_arguments(loss_class, arguments)
    loss: keras.Loss = loss_class(**arguments)
    return loss


def make_metrics(config: TrainingConfig) -> list[keras.Metric]:
    """Accuracy, then the further metrics that the config names. Raises `LayerError`."""
    accuracy = keras.metrics.CategoricalAccuracy if config.one_hot else keras.metrics.SparseCategoricalAccuracy
    metrics = [accuracy(name="accuracy")]
    for index, name in enumerate(config.metrics):
        metric_class = _by_name(name, keras.metrics, keras.Metric, "metric", f"metrics.{index}")
        try:
            metrics.append(metric_class())
        except (ValueError, TypeError) as error:
            raise LayerError(f"{name} cannot be made: {first_sentence(error)}", f"metrics.{index}") from error
    return metrics


def _classes(module: Any, base: type) -> dict[str, type]:
    return {
        name: member
        for name, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, base) and member is not base
    }


def _by_name(name: str, module: Any, base: type, kind: str, key: str) -> type:
    """A class by its own name or in snake case."""
    classes = _classes(module, base)
    wanted = name.replace("_", "").lower()
    for class_name, member in classes.items():
        if class_name.lower() == wanted:
            return member
    snake = [_snake(class_name) for class_name in classes]
    raise LayerError(f"there is no {kind} '{name}'{did_you_mean(name, snake)}", key)


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
