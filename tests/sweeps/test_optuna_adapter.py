"""Check what the program relies on inside Optuna: these tests fail first when a new version changes it."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from mnist_exp.sweeps.optuna_adapter import (
    FlockedFile,
    heartbeat,
    read_trial,
    resume_trial,
    set_user_attributes,
    start_trial,
)


def open_study(path: Path, kind: str) -> optuna.Study:
    if kind == "journal":
        storage = JournalStorage(JournalFileBackend(str(path / "study"), FlockedFile(path / "study")))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = RDBStorage(f"sqlite:///{path / 'study.db'}", heartbeat_interval=1, grace_period=2)
    return optuna.create_study(storage=storage, study_name="study", load_if_exists=True)


@pytest.fixture(params=["journal", "database"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> optuna.Study:
    study = open_study(tmp_path, request.param)
    study.add_trial(create_trial(state=TrialState.WAITING))
    return study


def test_a_waiting_trial_starts_once(study: optuna.Study):
    """One of two processes gets it; all can read its attributes."""
    [trial] = study.trials
    assert start_trial(study, trial)
    assert not start_trial(study, trial)
    set_user_attributes(study, trial, key="a", place="b")
    found = read_trial(study, trial)
    assert (found.state, found.user_attrs) == (TrialState.RUNNING, {"key": "a", "place": "b"})


def test_a_finished_trial_does_not_start(study: optuna.Study):
    """This holds even if this process last saw it waiting."""
    [trial] = study.trials
    start_trial(study, trial)
    study.tell(trial.number, 1.0)
    assert not start_trial(study, trial)


def test_a_resumed_trial_keeps_its_values(study: optuna.Study):
    """The next process has the values and reports of the first."""
    [trial] = study.trials
    start_trial(study, trial)
    first = resume_trial(study, trial)
    value = first.suggest_float("rate", 0, 1)
    first.report(0.5, 1)
    again = resume_trial(study, trial)
    assert again.number == trial.number
    assert again.suggest_float("rate", 0, 1) == value
    assert read_trial(study, trial).intermediate_values == {1: 0.5}


def test_fixed_params_are_suggested(study: optuna.Study):
    """The system attribute `fixed_params` gives a trial the values of another one."""
    study.add_trial(create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": {"rate": 0.25}}))
    trial = study.trials[-1]
    start_trial(study, trial)
    assert resume_trial(study, trial).suggest_float("rate", 0, 1) == 0.25


def test_heartbeats_keep_a_trial_from_being_lost(tmp_path: Path):
    """With heartbeats, a running trial outlives the grace period; otherwise it is marked as failed."""
    study = open_study(tmp_path, "database")
    for _ in range(2):
        study.add_trial(create_trial(state=TrialState.WAITING))
    alive, dead = study.trials
    start_trial(study, alive), start_trial(study, dead)
    with heartbeat(study, dead, 1):
        pass
    with heartbeat(study, alive, 0.2), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        time.sleep(3.5)
        optuna.storages.fail_stale_trials(study)
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING, TrialState.FAIL]


def test_a_half_written_line_is_cut_off(tmp_path: Path):
    """Optuna locks before it writes, so a full disk costs one line rather than the study."""
    study = open_study(tmp_path, "journal")
    study.add_trial(create_trial(state=TrialState.WAITING))
    with (tmp_path / "study").open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    open_study(tmp_path, "journal").add_trial(create_trial(state=TrialState.WAITING))
    assert len(open_study(tmp_path, "journal").trials) == 2
