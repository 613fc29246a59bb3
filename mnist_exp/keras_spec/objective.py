"""Check optimizers, losses and metrics as far as possible without importing Keras."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mnist_exp.keras_spec.arguments import Fault, argument_faults, is_list
from mnist_exp.keras_spec.signatures import classes, find_class, snake_case
from mnist_exp.suggest import near_or_all, nearest

_EMA_ARGUMENTS = ("use_ema", "ema_momentum", "ema_overwrite_frequency")


def takes_one_hot(loss: str) -> bool:
    """Return whether a loss expects one-hot targets; Keras' `sparse_…` losses expect class indices."""
    return not loss.lower().replace("_", "").startswith("sparse")


def objective_faults(optimizer: Any, training: Any) -> Iterator[Fault]:
    """Yield the faults of the optimizer, the loss and the metrics of a config.

    Args:
        optimizer: The `optimizer` group, not yet validated; the schema reports values of the wrong type.
        training: The `training` group, likewise.
    """
    if isinstance(optimizer, Mapping) and isinstance(kind := optimizer.get("type"), str):
        arguments = {key: value for key, value in optimizer.items() if key != "type" and value is not None}
        yield from (fault.at("optimizer") for fault in _optimizer_faults(kind, arguments))
    if isinstance(training, Mapping) and isinstance(loss := training.get("loss"), str):
        yield from (fault.at("training") for fault in _loss_faults(loss, training.get("label_smoothing")))
        yield from (fault.at("training") for fault in _metrics_faults(training, loss))


def _optimizer_faults(kind: str, arguments: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield the faults of an optimizer's name and arguments.

    If the name is misspelled, the arguments are checked as those of the optimizer that was probably meant.
    """
    known = classes("optimizers")
    intended = kind if kind in known else nearest(kind, known)
    if kind not in known:
        yield Fault("unknown-option", "type", f"there is no optimizer '{kind}'{near_or_all(kind, known)}")
    for key in _EMA_ARGUMENTS:
        if key in arguments:
            yield Fault("unknown-argument", key, "use training.ema=<momentum> to average the weights")
    if intended is not None:
        # The schema checks the learning rate; the EMA arguments were reported above.
        others = {key: value for key, value in arguments.items() if key not in ("learning_rate", *_EMA_ARGUMENTS)}
        yield from argument_faults("optimizers", intended, others)


def _loss_faults(name: str, label_smoothing: Any) -> Iterator[Fault]:
    loss = find_class("losses", name)
    if loss is None:
        yield _unknown(name, "losses", "loss", "loss")
    # The schema rejects label smoothing for sparse losses.
    elif label_smoothing and not loss.startswith("Sparse"):
        yield from argument_faults("losses", loss, {"label_smoothing": label_smoothing})


def _metrics_faults(training: Mapping[str, Any], loss: str) -> Iterator[Fault]:
    """Yield the faults of the metrics, and of the metric that selects the best epoch."""
    metrics = training.get("metrics")
    available = ["accuracy"]
    for index, name in enumerate(metrics if is_list(metrics) else ()):
        if isinstance(name, str):
            if fault := _metric_fault(name, f"metrics.{index}", loss, available):
                yield fault
            available.append(snake_case(find_class("metrics", name) or name))
    select = training.get("select")
    selected = select.get("metric") if isinstance(select, Mapping) else None
    if isinstance(selected, str) and selected.startswith("val/"):
        available.append("loss")
        if selected.removeprefix("val/") not in available:
            names = ", ".join(f"val/{name}" for name in sorted(available))
            yield Fault("unknown-option", "select.metric", f"no such metric; choose from {names}")


def _metric_fault(name: str, path: str, loss: str, earlier: list[str]) -> Fault | None:
    metric = find_class("metrics", name)
    if metric is None:
        return _unknown(name, "metrics", "metric", path)
    if find_class("losses", loss) is None:
        return None  # without a known loss, the kind of targets is unknown
    if metric.startswith("Sparse") and takes_one_hot(loss):
        message = f"{name} takes class indices, but {loss} trains on one-hot targets"
        return Fault("contradiction", path, message)
    if not takes_one_hot(loss) and f"Sparse{metric}" in classes("metrics"):
        message = f"{name} takes one-hot targets; with {loss}, use sparse_{snake_case(metric)}"
        return Fault("contradiction", path, message)
    if snake_case(metric) in earlier:
        return Fault("given-twice", path, f"{name} is already computed")
    return None


def _unknown(name: str, kind: str, what: str, path: str) -> Fault:
    known = [snake_case(known) for known in classes(kind)]
    return Fault("unknown-option", path, f"there is no {what} '{name}'{near_or_all(name, known)}")
