"""The study of a search: its trials, shared by all processes that work on it, and the values that Optuna suggests.

The N trials of a study are created in advance, waiting and numbered from 0 to N - 1, so that none is missing if a
process dies. The storage decides which process gets a waiting trial. A running trial belongs to the directory of
its run, and to the process that holds the trial's lock there; if that process dies, the next one resumes it.

If directories are not shared, a storage with a clock of its own (a database) detects that a machine is gone: its
trial is marked as lost, and another trial with the same values replaces it.
"""

from __future__ import annotations

import json
import socket
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, CmaEsSampler, PartialFixedSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, fail_stale_trials
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from mnist_exp.errors import RequestError, WorkError, first_line
from mnist_exp.runs.locks import exclusive
from mnist_exp.runs.log import warn
from mnist_exp.sweeps.optuna_adapter import (
    FlockedFile,
    heartbeat,
    read_trial,
    resume_trial,
    set_user_attributes,
    start_trial,
)
from mnist_exp.sweeps.search_space import Choices, Dimension, Space
from mnist_exp.text import mask_credentials

JOURNAL = "study.journal"
"""Optuna's own journal, in the study's directory."""
_CLAIMS = ".claims"
# Seconds between the heartbeats of a trial, and seconds without one after which its machine is considered gone.
_HEARTBEAT, _SILENCE = 30, 150
_STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
_MOST_SHOWN = 8  # maximum number of differences between two studies in a message
_ATTEMPTS = 3  # attempts to create a database's tables while other processes do the same

optuna.logging.set_verbosity(optuna.logging.ERROR)


@contextmanager
def _experimental() -> Iterator[None]:
    """Ignore warnings that heartbeats and fixed values are experimental; Optuna's version is bounded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


@dataclass(frozen=True)
class Trial:
    """A trial that has ended or is running."""

    number: int
    state: str
    """`finished`, `pruned`, `failed`, or `running`."""
    values: Mapping[str, str]
    """The values of the dimensions, as written in overrides."""
    value: float | None
    """The best value of the objective that the trial reached."""
    seconds: float | None
    reason: str
    place: str
    """The machine and the directory of the trial's run."""


class Claim:
    """A trial that this process works on. As a context manager, it releases the trial at the end of the block."""

    def __init__(
        self, trial: optuna.Trial, values: Sequence[str], reported: Iterable[int], held: ExitStack
    ) -> None:
        self.number = trial.number
        self.values = tuple(values)
        """The values of the dimensions, as written in overrides."""
        self._trial, self._held = trial, held
        self._reported = set(reported)

    def report(self, epoch: int, value: float) -> None:
        """Report the best value up to an epoch, once. Training continues even if the storage does not answer."""
        if epoch not in self._reported:
            with _tolerate_silence("could not record an epoch"):
                self._trial.report(value, epoch)
            self._reported.add(epoch)

    def is_behind(self) -> bool:
        """Return whether the pruner would end the trial."""
        with _tolerate_silence("could not decide on pruning"):
            return bool(self._trial.should_prune())
        return False

    def end(self, state: str, value: float | None, seconds: float, reason: str = "") -> None:
        """Record the end of the trial: `finished` with a value, `pruned`, or `failed`. Raises `WorkError`."""
        known = {state: optuna_state for optuna_state, state in _STATES.items()}[state]
        try:
            self._trial.set_user_attr("seconds", round(seconds, 3))
            self._trial.set_user_attr("reason", reason)
            self._trial.study.tell(self._trial, value if state == "finished" else None, known)
        except (UpdateFinishedTrialError, ValueError):
            warn(f"trial {self.number} was marked as lost: no heartbeat for {_SILENCE} s")
        except StorageInternalError as error:
            raise WorkError(f"the study could not record trial {self.number}: {_first_line(error)}") from error

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()


class Study:
    """A study that this process works on."""

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        sampler: str,
        seed: int,
        trials: int,
        directory: Path,
        key: str,
    ) -> None:
        """`key` distinguishes the directory from those of other machines that work on the same study."""
        self._study, self._space, self._sampler, self._seed = study, space, sampler, seed
        self._wanted, self._directory = trials, directory
        self._place, self._key = f"{socket.gethostname()}:{directory}", key

    @property
    def optuna(self) -> optuna.Study:
        """The study as Optuna's object."""
        return self._study

    @_experimental()
    def claim(self) -> Claim | None:
        """Claim the next trial; None if none is left for this process. Raises `WorkError`."""
        try:
            for attempt in range(2):
                for trial in self._make_all():
                    if trial.state in (TrialState.WAITING, TrialState.RUNNING) and (claimed := self._take(trial)):
                        return claimed
                if not attempt:
                    fail_stale_trials(self._study)
        except StorageInternalError as error:
            raise WorkError(f"the study's storage does not answer: {_first_line(error)}") from error
        return None

    def trials(self) -> list[Trial]:
        """Return the trials that have ended or are running, except those marked as lost."""
        states = (*_STATES, TrialState.RUNNING)
        trials = self._study.get_trials(deepcopy=False, states=states)
        return [self._describe(trial) for trial in trials if not _is_lost(trial)]

    def is_complete(self) -> bool:
        """Return whether the requested number of trials has ended."""
        return sum(trial.state != "running" for trial in self.trials()) >= self._wanted

    def _make_all(self) -> list[FrozenTrial]:
        """Create the trials that are missing, and return all that belong to the study.

        Two machines that do not share the directory may create too many when a study begins: the surplus trials
        wait until more are requested.
        """
        with exclusive(self._directory / _CLAIMS / "trials"):
            trials = self._study.get_trials(deepcopy=False)
            lost = [trial for trial in trials if _is_lost(trial)]
            replaced = {trial.user_attrs.get("instead_of") for trial in trials}
            to_replace = [trial for trial in lost if trial.number not in replaced]
            for _ in range(len(trials) + len(to_replace), self._wanted + len(lost)):
                self._study.add_trial(create_trial(state=TrialState.WAITING))
            for trial in to_replace:
                self._study.add_trial(
                    create_trial(
                        state=TrialState.WAITING,
                        user_attrs={"instead_of": trial.number},
                        system_attrs={"fixed_params": trial.params},
                    )
                )
        return self._study.get_trials(deepcopy=False)[: self._wanted + len(lost)]

    def _take(self, trial: FrozenTrial) -> Claim | None:
        """Claim a trial, unless another process works on it."""
        with ExitStack() as held:
            try:
                held.enter_context(exclusive(self._directory / _CLAIMS / str(trial.number), patience=0))
            except TimeoutError:
                return None
            trial = read_trial(self._study, trial)  # another process may have ended it before releasing the lock
            is_ours = trial.state == TrialState.RUNNING and trial.user_attrs.get("key") == self._key
            is_new = trial.state == TrialState.WAITING and start_trial(self._study, trial)
            if not (is_ours or is_new):
                return None
            held.enter_context(heartbeat(self._study, trial, _HEARTBEAT))
            if is_new:
                set_user_attributes(self._study, trial, key=self._key, place=self._place)
            return self._suggest_values(trial, held.pop_all())

    def _suggest_values(self, frozen: FrozenTrial, held: ExitStack) -> Claim:
        """Let the sampler suggest the values that a trial lacks, and return the trial as claimed.

        Each draw of the sampler is a function of the seed, the trial's number and the dimension's position. It is
        the same in every process, and after an interruption between two draws.
        """
        dimensions = self._space.dimensions
        self._study.sampler = self._make_sampler(frozen.number, 0)
        trial = resume_trial(self._study, frozen)
        _ = trial.relative_params  # for all dimensions together, before any of them is set
        values = []
        for place, dimension in enumerate(dimensions, 1):
            self._study.sampler = self._make_sampler(frozen.number, place)
            values.append(_suggest(trial, dimension, self._sampler))
        return Claim(trial, values, frozen.intermediate_values, held)

    def _make_sampler(self, number: int, place: int) -> BaseSampler:
        seed = int(np.random.SeedSequence([self._seed, number, place]).generate_state(1)[0])
        if self._sampler == "tpe":
            return TPESampler(seed=seed)
        if self._sampler == "cmaes":
            return CmaEsSampler(seed=seed, warn_independent_sampling=False)
        random = RandomSampler(seed=seed)
        if self._sampler == "random":
            return random
        points = self._space.grid()
        point = dict(zip(self._space.keys, points[number % len(points)], strict=True))
        return PartialFixedSampler(point, random)

    def _describe(self, trial: FrozenTrial) -> Trial:
        written = {key: value if isinstance(value, str) else repr(value) for key, value in trial.params.items()}
        last = trial.last_step
        value = trial.value if trial.state == TrialState.COMPLETE else None
        return Trial(
            number=trial.number,
            state=_STATES.get(trial.state, "running"),
            values={key: written.get(key, "–") for key in self._space.keys},
            value=trial.intermediate_values[last] if value is None and last is not None else value,
            seconds=trial.user_attrs.get("seconds"),
            reason=trial.user_attrs.get("reason", ""),
            place=trial.user_attrs.get("place", ""),
        )


@_experimental()
def open_study(
    storage: str | None,
    name: str,
    directory: Path,
    definition: Mapping[str, Any],
    *,
    maximize: bool,
    pruner: str,
    epochs: int,
) -> optuna.Study:
    """Create a study, or load an existing one. `epochs` is the maximum number of epochs of a trial.

    Raises `RequestError` if the storage does not answer, or if the study has a different definition.
    """
    (directory / _CLAIMS).mkdir(exist_ok=True)
    with exclusive(directory / _CLAIMS / "study"):
        for attempt in range(_ATTEMPTS):
            try:
                study = optuna.create_study(
                    storage=_open(storage or str(directory / JOURNAL)),
                    study_name=name,
                    direction="maximize" if maximize else "minimize",
                    pruner=_make_pruner(pruner, epochs),
                    load_if_exists=True,
                )
                break
            except RequestError:
                raise
            except Exception as error:  # SQLAlchemy and its drivers raise errors of many types
                if attempt == _ATTEMPTS - 1:
                    raise RequestError(
                        f"tune.storage={without_password(storage)}: {_first_line(error)}"
                    ) from error
                time.sleep(1)
        if "definition" not in study.user_attrs:
            study.set_user_attr("definition", json.dumps(definition))
    check_definition(name, json.loads(study.user_attrs["definition"]), definition)
    return study


def check_definition(name: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `RequestError` if a study was created with a different definition."""
    others = [
        line for part in now if was.get(part) != now[part] for line in _differences(part, was.get(part), now[part])
    ]
    if others:
        more = f"\n  and {len(others) - _MOST_SHOWN} more" if len(others) > _MOST_SHOWN else ""
        lines = "".join(f"\n  {line}" for line in others[:_MOST_SHOWN]) + more
        raise RequestError(
            f"tune.name={name}: this study was started with other settings{lines}\n"
            "use another tune.name to start a new one"
        )


def _differences(part: str, was: Any, now: Any) -> list[str]:
    if not isinstance(now, Mapping):
        return [f"{part}: was {was}, is {now}"]
    return [
        f"{key}: was {was.get(key, 'not set')}, is {now.get(key, 'not set')}"
        for key in {**was, **now}
        if was.get(key) != now.get(key)
    ]


def without_password(url: str | None) -> str:
    """Return a storage's URL with its credentials masked."""
    return mask_credentials(url or JOURNAL)


def _open(storage: str) -> BaseStorage:
    """Open a storage. Raises `RequestError`, and any exception of SQLAlchemy and its drivers."""
    if "://" not in storage:
        path = Path(storage).expanduser()
        if path.is_symlink():
            raise RequestError(f"tune.storage={storage}: is a symbolic link; name the file that it points to")
        try:
            return JournalStorage(JournalFileBackend(str(path), FlockedFile(path)))
        except OSError as error:
            raise RequestError(f"tune.storage={storage}: cannot be written: {error.strerror}") from error
    try:
        return RDBStorage(
            storage,
            engine_kwargs={"pool_pre_ping": True},
            heartbeat_interval=_HEARTBEAT,
            grace_period=_SILENCE,
        )
    except ImportError as error:
        message = f"tune.storage={without_password(storage)}: its driver is not installed: {_first_line(error)}"
        raise RequestError(message) from error


def _make_pruner(kind: str, epochs: int) -> optuna.pruners.BasePruner:
    if kind == "median":
        return optuna.pruners.MedianPruner()
    if kind == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs)
    return optuna.pruners.NopPruner()


def _suggest(trial: optuna.Trial, dimension: Dimension, sampler: str) -> str:
    """Return the value of a dimension, as written in an override."""
    value: Any
    key = dimension.key
    if isinstance(dimension, Choices) or sampler == "grid":
        value = trial.suggest_categorical(key, dimension.points or ())
    elif dimension.whole:
        low, high, step = int(dimension.low), int(dimension.high), int(dimension.step or 1)
        value = trial.suggest_int(key, low, high, step=step, log=dimension.log)
    else:
        value = trial.suggest_float(key, dimension.low, dimension.high, step=dimension.step, log=dimension.log)
    return value if isinstance(value, str) else repr(value)


def _is_lost(trial: FrozenTrial) -> bool:
    """Return whether a trial failed without a reason: no process recorded its end, so its machine is gone."""
    return trial.state == TrialState.FAIL and "reason" not in trial.user_attrs


@contextmanager
def _tolerate_silence(what: str) -> Iterator[None]:
    """Warn if the storage does not answer, instead of ending the training run."""
    try:
        yield
    except (StorageInternalError, UpdateFinishedTrialError) as error:
        warn(f"the study {what}: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return first_line(error.__cause__ or error)
