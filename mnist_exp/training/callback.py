"""The protocol by which others take part in a training."""

from __future__ import annotations

from collections.abc import Mapping


class Callback:
    """Takes part in a training; subclasses override what they need.

    At both calls the model and the `Progress` of the training are consistent: a checkpoint of them resumes exactly
    there. Callbacks are called in the order in which they are given, and may raise to end the training.
    """

    def on_steps(self, epoch: int, done: int, steps: int, metrics: Mapping[str, float]) -> None:
        """React to `done` of the `steps` of an epoch (from 1). `metrics` are the epoch's so far."""

    def on_epoch(self, row: Mapping[str, float], is_best: bool) -> None:
        """React to the end of an epoch. `row` is its row of the history."""
