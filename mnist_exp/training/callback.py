"""Training callbacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_exp import registrations
from mnist_exp.keras_spec.arguments import split_entry


@dataclass(frozen=True)
class Training:
    """The training that a plug-in's callback belongs to."""

    folder: Path
    """The run's directory, for files of the callback's own."""
    model: Any
    """The `keras.Model` in training."""
    history: Sequence[Mapping[str, float]]
    """A row per finished epoch. It grows during training, and is not empty at the start of a resumed run."""
    seed: int
    """The run's seed."""


class Callback:
    """The base class of callbacks; subclasses override the methods that they need.

    Whenever a callback is called, the model and the `Progress` are consistent: training can resume exactly from a
    checkpoint of both. Callbacks are called in the order in which they are given, and may raise to end training.
    """

    def on_start(self, training: Training) -> None:
        """Called before the first step of a new or resumed run, if the callback comes from a plug-in."""

    def on_steps(self, epoch: int, done: int, steps: int, metrics: Mapping[str, float]) -> None:
        """Called after `done` of the epoch's `steps`, with the metrics so far. Epochs count from 1."""

    def on_epoch(self, row: Mapping[str, float], is_best: bool) -> None:
        """Called at the end of an epoch, with its row of the history."""


def make_callbacks(entries: Sequence[Any]) -> list[Callback]:
    """Create the callbacks of `training.callbacks`, which was checked. Raises what their constructors raise."""
    callbacks: list[Callback] = []
    for entry in entries:
        name, arguments = split_entry(entry)
        own = registrations.find("callback", name)
        assert own is not None
        callbacks.append(own.target(**arguments))
    return callbacks
