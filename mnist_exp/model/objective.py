"""Optimizer, loss and metrics by Keras' names."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np

from mnist_exp.config.names import did_you_mean
from mnist_exp.config.schema import OptimizerConfig, TrainingConfig
from mnist_exp.model.layers import ArgumentError, check_arguments, first_sentence, snake_case

# Optimizers that are made of others.
_NOT_BY_NAME = {"LossScaleOptimizer", "MultiOptimizer"}


def optimizer_classes() -> dict[str, type]:
    """Keras' optimizers by name."""
    classes = _classes(keras.optimizers, keras.Optimizer)
    return {name: member for name, member in classes.items() if name not in _NOT_BY_NAME}


def make_optimizer(config: OptimizerConfig, ema: float | None = None) -> keras.Optimizer:
    """The optimizer at its base learning rate, with a running mean of the weights where `ema` is its momentum.

    Raises `ArgumentError`.
    """
    optimizers = optimizer_classes()
    optimizer_class = optimizers.get(config.type)
    if optimizer_class is None:
        raise ArgumentError(
            f"there is no optimizer '{config.type}'{did_you_mean(config.type, optimizers)}", "type"
        )
    for key in ("use_ema", "ema_momentum", "ema_overwrite_frequency"):
        if key in config.arguments:
            raise ArgumentError("a running mean of the weights is asked for with training.ema=<momentum>", key)
    check_arguments(optimizer_class, config.arguments)
    more: dict[str, Any] = {} if ema is None else {"use_ema": True, "ema_momentum": ema}
    if config.weight_decay is None and inspect.signature(optimizer_class).parameters["weight_decay"].default:
        more["weight_decay"] = 0.0  # null is none, also for AdamW and its like, which decay by default
    try:
        return optimizer_class(**config.arguments, **more)
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"{config.type} cannot be made: {first_sentence(error)}") from error


def try_optimizer(config: OptimizerConfig) -> None:
    """Let the optimizer make a step. Raises `ArgumentError` for arguments that it only uses then."""
    variable = keras.Variable(np.ones((2, 2), np.float32))
    try:
        make_optimizer(config).apply([keras.ops.ones((2, 2))], [variable])
    except ArgumentError:
        raise
    except Exception as error:  # whatever Keras raises: it is about to be asked in earnest
        raise ArgumentError(f"{config.type} cannot make a step: {first_sentence(error)}") from error


def make_loss(config: TrainingConfig) -> keras.Loss:
    """The loss, on probabilities, with label smoothing where the config asks for it. Raises `ArgumentError`."""
    loss_class = _by_name(config.loss, keras.losses, keras.Loss, "loss", "loss")
    arguments: dict[str, Any] = {}
    if config.label_smoothing:
        arguments["label_smoothing"] = config.label_smoothing
        check_arguments(loss_class, arguments)
    loss: keras.Loss = loss_class(**arguments)
    return loss


def make_metrics(config: TrainingConfig) -> list[keras.Metric]:
    """Accuracy, then the further metrics that the config names. Raises `ArgumentError`."""
    accuracy = keras.metrics.CategoricalAccuracy if config.one_hot else keras.metrics.SparseCategoricalAccuracy
    metrics = [accuracy(name="accuracy")]
    for index, name in enumerate(config.metrics):
        metric_class = _by_name(name, keras.metrics, keras.Metric, "metric", f"metrics.{index}")
        key = f"metrics.{index}"
        sparse = metric_class.__name__.startswith("Sparse")
        if sparse and config.one_hot:
            raise ArgumentError(f"{name} takes class numbers, but {config.loss} trains on one-hot targets", key)
        if not config.one_hot and hasattr(keras.metrics, f"Sparse{metric_class.__name__}"):
            instead = f"sparse_{snake_case(metric_class.__name__)}"
            raise ArgumentError(f"{name} takes one-hot targets; with {config.loss} it is {instead}", key)
        try:
            # A name of its own, not one that Keras counts up within the process.
            metrics.append(metric_class(name=snake_case(metric_class.__name__)))
        except (ValueError, TypeError) as error:
            raise ArgumentError(f"{name} cannot be made: {first_sentence(error)}", key) from error
        if len({metric.name for metric in metrics}) < len(metrics):
            raise ArgumentError(f"{name} is there already", key)
    return metrics


def try_on_targets(config: TrainingConfig, classes: int) -> None:
    """Let the loss and each metric score two images. Raises `ArgumentError` where they do not give a number."""
    probabilities = np.full((2, classes), 1 / classes, np.float32)
    targets = np.eye(2, classes) if config.one_hot else np.arange(2)
    kind = "one-hot targets" if config.one_hot else "class numbers"
    loss = make_loss(config)
    try:
        value = np.asarray(loss(targets, probabilities))
    except Exception as error:  # whatever Keras raises: it is about to be asked in earnest
        raise ArgumentError(f"{config.loss} does not fit {kind}: {first_sentence(error)}", "loss") from error
    if value.shape != ():
        raise ArgumentError(f"{config.loss} gives {value.size} values, not one", "loss")
    for index, metric in enumerate(make_metrics(config)[1:]):
        key = f"metrics.{index}"
        try:
            metric.update_state(targets, probabilities)
            value = np.asarray(metric.result())
        except Exception as error:
            raise ArgumentError(f"{metric.name} does not fit {kind}: {first_sentence(error)}", key) from error
        if value.shape != ():
            raise ArgumentError(f"{metric.name} gives {value.size} values, not one", key)


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
    snake = [snake_case(class_name) for class_name in classes]
    raise ArgumentError(f"there is no {kind} '{name}'{did_you_mean(name, snake)}", key)
