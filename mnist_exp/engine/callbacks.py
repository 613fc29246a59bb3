"""The callbacks of a training run: checkpoints, the record, signals, and pruning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mnist_exp.errors import MnistExpError, WorkError, first_line
from mnist_exp.runs.signals import Pending
from mnist_exp.runs.stopwatch import Timer
from mnist_exp.training.callback import Callback, Training

if TYPE_CHECKING:
    import keras

    from mnist_exp.tracking.recorder import RunRecord
    from mnist_exp.training.checkpoint import Checkpoints
    from mnist_exp.training.loop import Progress


_KEEP_SECONDS = 30


class Checkpointing(Callback):
    """Saves a checkpoint after each epoch, and whenever `seconds` have passed since the last checkpoint."""

    def __init__(
        self, checkpoints: Checkpoints, model: keras.Model, progress: Progress, seconds: float | None
    ) -> None:
        self._checkpoints, self._model, self._progress = checkpoints, model, progress
        self._timer = Timer(seconds)

    def save(self) -> None:
        """Save a checkpoint now."""
        self._checkpoints.save(self._model, self._progress)
        self._timer.restart()

    def on_steps(self, epoch: int, done: int, steps: int, metrics: Mapping[str, float]) -> None:
        """Save a checkpoint if one is due."""
        if self._timer.is_up():
            self.save()

    def on_epoch(self, row: Mapping[str, float], is_best: bool) -> None:
        """Save a checkpoint of the finished epoch."""
        self.save()


class Recording(Callback):
    """Adds each epoch to the history file and the journal, and saves the elapsed time during long epochs."""

    def __init__(self, record: RunRecord, progress: Progress) -> None:
        self._record, self._progress = record, progress
        self._timer = Timer(_KEEP_SECONDS)

    def on_steps(self, epoch: int, done: int, steps: int, metrics: Mapping[str, float]) -> None:
        """Save the elapsed time if that is due, in case the process is killed."""
        if self._timer.is_up():
            self._record.keep_seconds()
            self._timer.restart()

    def on_epoch(self, row: Mapping[str, float], is_best: bool) -> None:
        """Record the finished epoch."""
        self._record.epoch(self._progress.history, self._progress.best_epoch)


class StopOnSignal(Callback):
    """Ends training after a signal, once a checkpoint of the current step is saved."""

    def __init__(self, signal: Pending, checkpointing: Checkpointing) -> None:
        self._signal, self._checkpointing = signal, checkpointing

    def on_steps(self, epoch: int, done: int, steps: int, metrics: Mapping[str, float]) -> None:
        """Save a checkpoint and raise `KeyboardInterrupt` or `Killed` if a signal was received."""
        if self._signal.came:
            self._checkpointing.save()
            self._signal.raise_it()


class PluginCallbacks(Callback):
    """Calls the callbacks of plug-ins. An error of theirs ends the run, which can be resumed."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = callbacks

    def on_start(self, training: Training) -> None:
        """Pass the training on."""
        for callback in self._callbacks:
            with _explaining(callback, "at the start"):
                callback.on_start(training)

    def on_steps(self, epoch: int, done: int, steps: int, metrics: Mapping[str, float]) -> None:
        """Pass the steps on."""
        for callback in self._callbacks:
            with _explaining(callback, f"in epoch {epoch}, after {done} steps"):
                callback.on_steps(epoch, done, steps, metrics)

    def on_epoch(self, row: Mapping[str, float], is_best: bool) -> None:
        """Pass the epoch on."""
        for callback in self._callbacks:
            with _explaining(callback, f"after epoch {row['epoch']:.0f}"):
                callback.on_epoch(row, is_best)


@contextmanager
def _explaining(callback: Callback, when: str) -> Iterator[None]:
    """Raise `WorkError` instead of any error of a plug-in's callback."""
    try:
        yield
    except MnistExpError:
        raise
    except Exception as error:
        name = type(callback).__name__
        message = f"callback {name} failed {when}: {type(error).__name__}: {first_line(error)}"
        raise WorkError(message) from error


class Observation(Callback):
    """Reports the history to a search, which may prune the run."""

    def __init__(self, observe: Callable[[Sequence[Mapping[str, float]]], None], progress: Progress) -> None:
        self._observe, self._progress = observe, progress

    def on_epoch(self, row: Mapping[str, float], is_best: bool) -> None:
        """Report the history. Raises `Pruned` if the search ends the run."""
        self._observe(self._progress.history)
