"""The checks of optimizers, losses and metrics that do not need Keras."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mnist_exp.keras_spec.layer_types import ArgumentError, Report, argument_faults, is_list, tell
from mnist_exp.keras_spec.signatures import classes, find_class, snake_case
from mnist_exp.suggest import near_or_all, nearest

_OF_THE_MEAN = ("use_ema", "ema_momentum", "ema_overwrite_frequency")


def check_objective(optimizer: Any, training: Any, report: Report) -> None:
    """Report optimizers, losses, metrics and arguments that Keras does not accept.

    Args:
        optimizer: The `optimizer` group, not yet validated; the schema reports values of the wrong type.
        training: The `training` group, likewise.
        report: Called with each problem.
    """
    if isinstance(optimizer, Mapping) and isinstance(kind := optimizer.get("type"), str):
        arguments = {key: value for key, value in optimizer.items() if key != "type" and value is not None}
        tell(optimizer_faults(kind, arguments), "optimizer", report)
    if not isinstance(training, Mapping):
        return
    if isinstance(loss := training.get("loss"), str):
        tell(_loss_faults(loss, training.get("label_smoothing")), "training", report)
    metrics = training.get("metrics")
    for index, name in enumerate(metrics if is_list(metrics) else ()):
        if isinstance(name, str):
            tell(_name_faults(name, "metrics", "metric", f"metrics.{index}"), "training", report)


def check_optimizer(kind: str, arguments: Mapping[str, Any]) -> None:
    """Check the name and arguments of an optimizer.

    Raises:
        ArgumentError: The first fault found.
    """
    for fault in optimizer_faults(kind, arguments):
        raise fault


def optimizer_faults(kind: str, arguments: Mapping[str, Any]) -> Iterator[ArgumentError]:
    """Yield the faults of an optimizer's name and arguments.

    If the name is misspelled, the arguments are checked as those of the optimizer that was probably meant.
    """
    known = classes("optimizers")
    meant = kind if kind in known else nearest(kind, known)
    if kind not in known:
        yield ArgumentError(f"there is no optimizer '{kind}'{near_or_all(kind, known)}", "type")
    for key in _OF_THE_MEAN:
        if key in arguments:
            yield ArgumentError("a running mean of the weights is asked for with training.ema=<momentum>", key)
    if meant is not None:
        # The schema checks the learning rate; the EMA arguments were reported above.
        others = {key: value for key, value in arguments.items() if key not in ("learning_rate", *_OF_THE_MEAN)}
        yield from argument_faults("optimizers", meant, others)


def class_named(name: str, kind: str, what: str, key: str) -> str:
    """Return the name of a class of `keras.<kind>`, given as it is or in snake case.

    Args:
        name: The name to look up.
        kind: The Keras module, such as `metrics`.
        what: The noun for the message, such as `metric`.
        key: The key to report it at.

    Raises:
        ArgumentError: If there is no such class.
    """
    for fault in _name_faults(name, kind, what, key):
        raise fault
    found = find_class(kind, name)
    assert found is not None
    return found


def _name_faults(name: str, kind: str, what: str, key: str) -> Iterator[ArgumentError]:
    if find_class(kind, name) is None:
        known = [snake_case(known) for known in classes(kind)]
        yield ArgumentError(f"there is no {what} '{name}'{near_or_all(name, known)}", key)


def _loss_faults(name: str, label_smoothing: Any) -> Iterator[ArgumentError]:
    yield from _name_faults(name, "losses", "loss", "loss")
    loss = find_class("losses", name)
    # The schema rejects label smoothing for sparse losses.
    if loss is not None and label_smoothing and not loss.startswith("Sparse"):
        yield from argument_faults("losses", loss, {"label_smoothing": label_smoothing})
