"""What is wrong with an optimizer, a loss or a metric: all that needs no Keras."""

from __future__ import annotations

from mnist_exp.config.keras_names import classes, find_class, snake_case
from mnist_exp.config.layers import ArgumentError, Report, check_arguments, told_at
from mnist_exp.config.names import near_or_all
from mnist_exp.config.schema import OptimizerConfig, TrainingConfig

_OF_THE_MEAN = ("use_ema", "ema_momentum", "ema_overwrite_frequency")


def check_objective(optimizer: OptimizerConfig, training: TrainingConfig, report: Report) -> None:
    """Report names that Keras does not know, and arguments that it does not take."""
    with told_at("optimizer", report):
        check_optimizer(optimizer)
    with told_at("training", report):
        loss = class_named(training.loss, "losses", "loss", "loss")
        if training.label_smoothing:
            check_arguments("losses", loss, {"label_smoothing": training.label_smoothing})
    for index, name in enumerate(training.metrics):
        with told_at("training", report):
            class_named(name, "metrics", "metric", f"metrics.{index}")


def check_optimizer(config: OptimizerConfig) -> None:
    """Raises `ArgumentError`."""
    known = classes("optimizers")
    if config.type not in known:
        raise ArgumentError(f"there is no optimizer '{config.type}'{near_or_all(config.type, known)}", "type")
    for key in _OF_THE_MEAN:
        if key in config.arguments:
            raise ArgumentError("a running mean of the weights is asked for with training.ema=<momentum>", key)
    check_arguments("optimizers", config.type, config.arguments)


def class_named(name: str, kind: str, what: str, key: str) -> str:
    """The class of `keras.<kind>`, by its own name or in snake case. Raises `ArgumentError`."""
    found = find_class(kind, name)
    if found is None:
        raise ArgumentError(f"there is no {what} '{name}'{near_or_all(name, map(snake_case, classes(kind)))}", key)
    return found
