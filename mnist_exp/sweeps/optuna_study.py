"""A search's study: its trials, shared by all processes that work on it, and what Optuna proposes for them.

A study has trials of fixed numbers, made in advance and waiting: 0 to N - 1. Whoever has time takes one, so that
N trials are N, whatever dies. The storage decides who has a waiting trial. A running one belongs to the directory
that its run is in: a process that holds the trial's lock there has it; when that process is dead, the next one
goes on. Where directories are not shared, a storage with a clock of its own (a database) tells when a machine is
gone: its trial is given up then, and another one with the same values takes its place.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, CmaEsSampler, PartialFixedSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, fail_stale_trials
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.trial import FrozenTrial, TrialState, create_trial

from mnist_exp.errors import RequestError, WorkError, first_line
from mnist_exp.runs.locks import exclusive
from mnist_exp.runs.log import warn
from mnist_exp.sweeps.search_space import Choices, Dimension, Space

JOURNAL = "study.journal"
"""Optuna's own journal, in the study's directory."""
_CLAIMS = ".claims"
# Seconds between a trial's signs of life, and without any until its machine is taken for gone.
_HEARTBEAT, _SILENCE = 30, 150
_STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
_TOLD = 8  # differences of two studies
_ATTEMPTS = 3  # to make the tables of a database that others make at the same time

optuna.logging.set_verbosity(optuna.logging.ERROR)


@contextmanager
def _experimental() -> Iterator[None]:
    """Without Optuna's remarks that heartbeats and fixed values may change: its version is bounded for that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


@dataclass(frozen=True)
class Trial:
    """A trial that has ended, or is under way."""

    number: int
    state: str
    """`finished`, `pruned`, `failed`, or `running`."""
    values: Mapping[str, str]
    """Of the dimensions, as they are written in overrides."""
    value: float | None
    """Of what is searched for: the best until the trial ended."""
    seconds: float | None
    reason: str
    place: str
    """The machine and directory that its run is in."""


class Claim:
    """A trial that this process works on. A context manager: other processes leave it alone until the end."""

    def __init__(self, trial: optuna.Trial, values: Sequence[str], held: ExitStack) -> None:
        self.number = trial.number
        self.values = tuple(values)
        """Of the dimensions, as they are written in overrides."""
        self._trial, self._held = trial, held
        self._reported = set(trial.storage.get_trial(trial._trial_id).intermediate_values)

    def report(self, epoch: int, value: float) -> None:
        """Tell how good it was up to an epoch, once. The training goes on, whether or not somebody hears it."""
        if epoch not in self._reported:
            with _going_on_without("could not be told of an epoch"):
                self._trial.report(value, epoch)
            self._reported.add(epoch)

    def is_behind(self) -> bool:
        """Whether the pruner has no hope for it."""
        with _going_on_without("could not be asked about pruning"):
            return bool(self._trial.should_prune())
        return False

    def end(self, state: str, value: float | None, seconds: float, reason: str = "") -> None:
        """Tell how it ended: `finished` with a value, `pruned`, or `failed`. Raises `WorkError`."""
        known = {state: optuna_state for optuna_state, state in _STATES.items()}[state]
        try:
            self._trial.set_user_attr("seconds", round(seconds, 3))
            self._trial.set_user_attr("reason", reason)
            self._trial.study.tell(self._trial, value if state == "finished" else None, known)
        except (UpdateFinishedTrialError, ValueError):
            warn(f"trial {self.number} was given up in the meantime: nothing was heard of it for {_SILENCE} s")
        except StorageInternalError as error:
            raise WorkError(f"the study cannot be told of trial {self.number}: {_first_line(error)}") from error

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()


class Study:
    """A study in a storage, and this process's share in it."""

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
        """`key` tells the directory from those that other machines have for the same study."""
        self._study, self._space, self._sampler, self._seed = study, space, sampler, seed
        self._wanted, self._directory = trials, directory
        self._place, self._key = f"{socket.gethostname()}:{directory}", key

    @property
    def optuna(self) -> optuna.Study:
        """Optuna's own object."""
        return self._study

    @_experimental()
    def claim(self) -> Claim | None:
        """The next trial to work on; None where there is none left for this process. Raises `WorkError`."""
        try:
            for attempt in range(2):
                for trial in self._make_all():
                    if trial.state in (TrialState.WAITING, TrialState.RUNNING) and (found := self._take(trial)):
                        return found
                if not attempt:
                    fail_stale_trials(self._study)
        except StorageInternalError as error:
            raise WorkError(f"the study's storage does not answer: {_first_line(error)}") from error
        return None

    def trials(self) -> list[Trial]:
        """The trials that have ended or are under way, but for those that were given up."""
        states = (*_STATES, TrialState.RUNNING)
        found = self._study.get_trials(deepcopy=False, states=states)
        return [self._told(trial) for trial in found if not _is_given_up(trial)]

    def is_complete(self) -> bool:
        """Whether as many trials as wanted have ended."""
        return sum(trial.state != "running" for trial in self.trials()) >= self._wanted

    def _make_all(self) -> list[FrozenTrial]:
        """The trials with the numbers that count; those that are not there yet are made.

        Two machines that do not share the directory may make more than there should be, in the instant in which a
        study begins: these wait, and count when more are asked for.
        """
        with exclusive(self._directory / _CLAIMS / "trials"):
            trials = self._study.get_trials(deepcopy=False)
            given_up = [trial for trial in trials if _is_given_up(trial)]
            instead_of = {trial.user_attrs.get("instead_of") for trial in trials}
            lost_ones = [trial for trial in given_up if trial.number not in instead_of]
            for _ in range(len(trials) + len(lost_ones), self._wanted + len(given_up)):
                self._study.add_trial(create_trial(state=TrialState.WAITING))
            for lost in lost_ones:
                self._study.add_trial(
                    create_trial(
                        state=TrialState.WAITING,
                        user_attrs={"instead_of": lost.number},
                        system_attrs={"fixed_params": lost.params},
                    )
                )
        return self._study.get_trials(deepcopy=False)[: self._wanted + len(given_up)]

    def _take(self, trial: FrozenTrial) -> Claim | None:
        """Work on a trial, unless others do."""
        storage = self._study._storage
        with ExitStack() as held:
            try:
                held.enter_context(exclusive(self._directory / _CLAIMS / str(trial.number), patience=0))
            except TimeoutError:
                return None
            trial = storage.get_trial(trial._trial_id)  # others may have ended it before they let it go
            if trial.state == TrialState.WAITING:
                with suppress(UpdateFinishedTrialError):
                    if storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                        held.enter_context(_alive(storage, trial._trial_id))
                        storage.set_trial_user_attr(trial._trial_id, "key", self._key)
                        storage.set_trial_user_attr(trial._trial_id, "place", self._place)
                        return self._proposed(trial, held.pop_all())
            elif trial.state == TrialState.RUNNING and trial.user_attrs.get("key") == self._key:
                held.enter_context(_alive(storage, trial._trial_id))
                return self._proposed(trial, held.pop_all())
        return None

    def _proposed(self, frozen: FrozenTrial, held: ExitStack) -> Claim:
        """A trial with its values: those that it has, or those that the sampler proposes.

        The sampler's draws follow from the seed, the trial's number and the dimension's place, so that they are
        the same in whatever process, and whether or not it was interrupted between two of them.
        """
        dimensions = self._space.dimensions
        self._study.sampler = self._make_sampler(frozen.number, 0)
        trial = optuna.trial.Trial(self._study, frozen._trial_id)
        _ = trial.relative_params  # of all dimensions together, before any of them is set
        values = []
        for place, dimension in enumerate(dimensions, 1):
            self._study.sampler = self._make_sampler(frozen.number, place)
            values.append(_suggest(trial, dimension, self._sampler))
        return Claim(trial, values, held)

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

    def _told(self, trial: FrozenTrial) -> Trial:
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
    """Begin a study, or go on with it. `epochs` is the most that a trial may have.

    Raises `RequestError` for a storage that does not answer, and for a study that is about something else.
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
            except Exception as error:  # SQLAlchemy and the drivers raise anything
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
    """Raises `RequestError` where a study was begun with something else."""
    others = [
        line for part in now if was.get(part) != now[part] for line in _differences(part, was.get(part), now[part])
    ]
    if others:
        more = f"\n  and {len(others) - _TOLD} more" if len(others) > _TOLD else ""
        lines = "".join(f"\n  {line}" for line in others[:_TOLD]) + more
        raise RequestError(
            f"tune.name={name}: this study was begun with something else{lines}\n"
            "another tune.name begins a new one"
        )


def _differences(part: str, was: Any, now: Any) -> list[str]:
    if not isinstance(now, Mapping):
        return [f"{part}: was {was}, is {now}"]
    return [
        f"{key}: was {was.get(key, 'not there')}, is {now.get(key, 'not there')}"
        for key in {**was, **now}
        if was.get(key) != now.get(key)
    ]


def without_password(url: str | None) -> str:
    """A storage's URL as it can be shown."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url or JOURNAL)


class _FlockedFile(BaseJournalFileLock):
    """A lock that goes with the process that holds it; Optuna's own are waited for, for 30 s, when it was killed.

    Whoever gets it cuts off what a full disk has left half written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            os.truncate(self._descriptor, self._path.read_bytes().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Let others write."""
        os.close(self._descriptor)


def _open(storage: str) -> BaseStorage:
    """Raises `RequestError`, and whatever SQLAlchemy and its drivers do."""
    if "://" not in storage:
        path = Path(storage).expanduser()
        try:
            return JournalStorage(JournalFileBackend(str(path), _FlockedFile(path)))
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
    """The value of a dimension, as it is written in an override."""
    value = trial._suggest(dimension.key, _distribution(dimension, sampler))
    return value if isinstance(value, str) else repr(value)


def _distribution(dimension: Dimension, sampler: str) -> BaseDistribution:
    if isinstance(dimension, Choices) or sampler == "grid":
        return CategoricalDistribution(dimension.points or ())
    low, high, step = dimension.low, dimension.high, dimension.step
    if dimension.whole:
        return IntDistribution(int(low), int(high), dimension.log, int(step or 1))
    return FloatDistribution(low, high, dimension.log, step)


def _is_given_up(trial: FrozenTrial) -> bool:
    """Whether a trial failed without anybody saying so: its machine is gone."""
    return trial.state == TrialState.FAIL and "reason" not in trial.user_attrs


@contextmanager
def _alive(storage: BaseStorage, trial_id: int) -> Iterator[None]:
    """Give signs of life of a trial, where the storage takes them."""
    record: Callable[[int], None] | None = getattr(storage, "record_heartbeat", None)
    if record is None:
        yield
        return
    ended = threading.Event()

    def beat() -> None:
        while not ended.is_set():
            with suppress(Exception):  # the next one may come through
                record(trial_id)
            ended.wait(_HEARTBEAT)

    thread = threading.Thread(target=beat, daemon=True)
    record(trial_id)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _going_on_without(what: str) -> Iterator[None]:
    """A storage that does not answer for a moment is no reason to end a training."""
    try:
        yield
    except (StorageInternalError, UpdateFinishedTrialError) as error:
        warn(f"the study {what}: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return first_line(error.__cause__ or error)
