"""Register your own layers, losses, metrics, optimizers, schedules, augmentation layers and callbacks.

A plug-in is a Python file, or an installed package with an entry point in the group `mnist_exp.plugins`. If it is
named on the command line (`--plugin mine.py`) or in the environment variable `MNIST_EXP_PLUGINS`, configs can name
its classes and functions that are decorated with the functions below:

    import keras
    from mnist_exp import plugin

    @plugin.layer(reads="position", keeps_shape=True, mixes_batch=False)
    class Scale(keras.Layer):
        ...

The name is that of the class or function. docs/plugins.md describes each kind, and the contract that a plug-in
keeps; `mnist_exp.plugin_testing.verify` checks it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

from mnist_exp.engine import plugins
from mnist_exp.keras_spec.layer_types import Reads
from mnist_exp.registrations import Kind, Registration, noted
from mnist_exp.training.callback import Callback as Callback
from mnist_exp.training.callback import Training as Training

__all__ = [
    "Callback", "Training", "augmentation", "callback", "layer", "load", "loss", "metric", "optimizer", "schedule",
]  # fmt: skip

Target = TypeVar("Target", bound=Callable[..., Any])
"""A class, or a function."""


def layer(
    *, reads: Reads = "everything", keeps_shape: bool = False, mixes_batch: bool = True
) -> Callable[[Target], Target]:
    """Register a `keras.Layer` for `model.layers`.

    Args:
        reads: The part of the input that a unit of the output depends on; receptive fields are computed from it.
        keeps_shape: Whether the output has the shape of the input, for any arguments.
        mixes_batch: Whether the output for an image depends on other images of the batch in training. If not, the
            two halves of a batch can be computed at the same time.
    """
    return _register("layer", reads=reads, keeps_shape=keeps_shape, mixes_batch=mixes_batch)


def augmentation() -> Callable[[Target], Target]:
    """Register a `keras.Layer` for `aug.layers`. It gets batches of images with float32 values from 0 to 255.

    Its random draws must come from a `keras.random.SeedGenerator` that is an attribute of the layer.
    """
    return _register("augmentation")


def loss() -> Callable[[Target], Target]:
    """Register a `keras.Loss`, or a function of targets and probabilities that returns a loss per image.

    It gets one-hot targets or, if its name begins with `sparse` or `Sparse`, class indices.
    """
    return _register("loss")


def metric(better: Literal["max", "min"] | None = None) -> Callable[[Target], Target]:
    """Register a `keras.Metric`, or a function of targets and probabilities that returns a value per image.

    Args:
        better: Whether higher (`max`) or lower values are better, if the metric can select the best epoch.
    """
    return _register("metric", better=better)


def callback() -> Callable[[Target], Target]:
    """Register a subclass of `Callback` for `training.callbacks`."""
    return _register("callback")


def schedule() -> Callable[[Target], Target]:
    """Register a function for `schedule.type`.

    It gets the progress of training after the warm-up, an array of numbers from 0 (inclusive) to 1 (exclusive),
    one per step, and the values of `schedule.arguments`. It returns the learning rates, as fractions of
    `optimizer.learning_rate`.
    """
    return _register("schedule")


def optimizer() -> Callable[[Target], Target]:
    """Register a `keras.Optimizer` for `optimizer.type`."""
    return _register("optimizer")


def load(*references: str) -> None:
    """Load plug-ins into this process, as `--plugin` does, in place of any that were loaded before.

    Needed to use the models of runs in Python (`mnist_exp.load(…).model`). Importing the file does not suffice.

    Args:
        *references: Paths of Python files, and names of entry points.

    Raises:
        RequestError: A plug-in cannot be loaded.
    """
    plugins.load(references)


def _register(kind: Kind, **options: Any) -> Callable[[Target], Target]:
    def register(target: Target) -> Target:
        noted.append(Registration(kind, getattr(target, "__name__", repr(target)), target, options))
        return target

    return register
