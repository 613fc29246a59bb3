"""Access to single trials in Optuna's storage: the only module that relies on Optuna's private members.

`tests/sweeps/test_optuna_adapter.py` fails first if a new version of Optuna renames or changes them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.trial import FrozenTrial, TrialState

from mnist_exp.runs.system_calls import lock_descriptor


def read_trial(study: optuna.Study, trial: FrozenTrial) -> FrozenTrial:
    """Return the trial's current state in the storage."""
    return study._storage.get_trial(trial._trial_id)


def start_trial(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Mark a waiting trial as running. Returns False if another process was faster."""
    try:
        return study._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
    except UpdateFinishedTrialError:
        return False


def set_user_attributes(study: optuna.Study, trial: FrozenTrial, **attributes: str) -> None:
    """Store attributes of a trial."""
    for key, value in attributes.items():
        study._storage.set_trial_user_attr(trial._trial_id, key, value)


def resume_trial(study: optuna.Study, trial: FrozenTrial) -> optuna.trial.Trial:
    """Return a running trial as the object that suggests and reports values."""
    return optuna.trial.Trial(study, trial._trial_id)


@contextmanager
def heartbeat(study: optuna.Study, trial: FrozenTrial, seconds: float) -> Iterator[None]:
    """Record at regular intervals that this process works on a trial, in storages that support it."""
    record: Callable[[int], None] | None = getattr(study._storage, "record_heartbeat", None)
    if record is None:
        yield
        return
    trial_id, ended = trial._trial_id, threading.Event()

    def beat() -> None:
        while not ended.is_set():
            with suppress(Exception):  # the next heartbeat may succeed
                record(trial_id)
            ended.wait(seconds)

    thread = threading.Thread(target=beat, daemon=True)
    record(trial_id)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class FlockedFile(BaseJournalFileLock):
    """A lock on a study's journal that is released when the process that holds it exits.

    Optuna's own locks outlive a killed process by 30 s. Acquiring the lock also removes the last line
    if a full disk left it incomplete.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        lock_descriptor(self._descriptor, wait=True)
        size = os.fstat(self._descriptor).st_size
        os.lseek(self._descriptor, max(0, size - 1), os.SEEK_SET)
        if size and os.read(self._descriptor, 1) != b"\n":
            os.ftruncate(self._descriptor, self._path.read_bytes().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)
