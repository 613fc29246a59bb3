"""Training callbacks."""

from __future__ import annotations

from collections.abc import Mapping


class Callback:
    """The base class of callbacks; subclasses override the methods that they need.

    Whenever a callback is called, the model and the `Progress` are consistent: training can resume exactly from a
    checkpoint of both. Callbacks are called in the order in which they are given, and may raise to end training.
    """

    def on_steps(self, epoch: int, done: int, steps: int, metrics: Mapping[str, float]) -> None:
        """Called after `done` of the epoch's `steps`, with the metrics so far. Epochs count from 1."""

    def on_epoch(self, row: Mapping[str, float], is_best: bool) -> None:
        """Called at the end of an epoch, with its row of the history."""
