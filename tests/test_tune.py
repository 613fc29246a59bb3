"""Searches: the suggested values, the output, and trials that are never lost, repeated or scored early."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import sqlite3
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.cli import PATIENCE, SMALL, Cli, start
from support.golden import Golden

RATE = "optimizer.learning_rate=tag(log,interval(1e-4,1e-1))"
STUDY = Path("outputs/sweeps/s")


def rows(study: Path = STUDY) -> list[dict[str, str]]:
    """Return the table of trials without columns that depend on time."""
    with (study / "trials.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def results(study: Path = STUDY) -> dict[str, dict[str, Any]]:
    """Return the `result.json` of each trial's run, by the name of its directory."""
    return {file.parent.name: json.loads(file.read_text()) for file in sorted(study.glob("*/result.json"))}


def optuna_states(study: Path = STUDY) -> list[str]:
    """Return the states of the trials in Optuna's storage, in order."""
    import optuna

    from mnist_exp.sweeps.optuna_study import _open

    found = optuna.load_study(study_name=study.name, storage=_open(str(study / "study.journal")))
    return [trial.state.name for trial in found.trials]


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ([], "1 problem in this search"),
        (["optimizer.learning_rate=interval(1,0.1)"], "interval(0.1,1)"),
        (["optimizer.learning_rate=tag(log,interval(0,1))"], "optimizer.learning_rate="),
        (["optimizer.learning_rate=tag(lgo,interval(0.1,1))"], "optimizer.learning_rate="),
        (["optimizer.learning_rate=interval(0.1,inf)"], "optimizer.learning_rate="),
        (["training.batch_size=range(8,8)"], "training.batch_size="),
        (["training.batch_size=shuffle(8,16)"], "training.batch_size="),
        (["optimizer.lerning_rate=interval(1e-4,1e-1)"], "optimizer.lerning_rate="),
        (["model=linear,nosuch", "seed=0,1"], "model="),
        (["training.batch_size=int(interval(0,8))"], "training.batch_size=0: "),
        ([RATE, "optimizer.learning_rate=0.1"], "optimizer.learning_rate: "),
        ([RATE, "tune.sampler=grid"], "tune.sampler=grid: "),
        (["aug=none,shift", "tune.sampler=grid", "tune.trials=3"], "tune.trials=3: "),
        (["aug=none,shift", "tune.sampler=cmaes"], "tune.sampler=cmaes: "),
        (["aug=none,shift", "tune.sampler=tp"], "tune.sampler=tp: "),
        (["aug=none,shift", "tune.trails=3"], "tune.trails=3: "),
        (["aug=none,shift", "name=x"], "name: "),
        (["outputs=a,b"], "outputs: "),
        (["device.threads=1,2"], "device.threads: "),
        (["data.split_seed=0,1"], "data: "),
        ([RATE, "data.val_fraction=0"], "data.val_fraction=0: "),
        ([RATE, "tune.storage=sqlite:////nowhere/x.db"], "tune.storage=sqlite:////nowhere/x.db: "),
        ([RATE, "tune.storage=nosuch://x"], "tune.storage=nosuch://x: "),
    ],
)  # fmt: skip
def test_wrong_searches_are_refused(cli: Cli, home_data: list[str], words: list[str], place: str, golden: Golden):
    """The message names the key at fault; nothing is created."""
    done = cli("tune", *SMALL, *home_data, *words, status=2)
    assert place in done.err
    golden(done.err)
    assert list(Path().iterdir()) == []


def test_all_problems_of_a_search_are_reported_once(cli: Cli, home_data: list[str]):
    """They may be in the space, in the settings, or in the configs of its points."""
    words = ["seed=-1", "tune.pruner=no", RATE, "aug=none,rotat15", "training.batch_size=interval(2,1)"]
    done = cli("tune", *SMALL, *home_data, *words, status=2)
    assert "4 problems in this search" in done.err
    for told in ("seed=-1", "tune.pruner=no", "did you mean 'rotate15'", "interval(1,2)"):
        assert done.err.count(told) == 1
    assert list(Path().iterdir()) == []


@pytest.mark.slow
def test_the_best_is_scored_once_and_can_be_trained_again(cli: Cli, home_data: list[str]):
    """Only the best trial is scored; the printed command reproduces its weights."""
    words = ("tune", *SMALL, *home_data, RATE, "aug=none,shift", "tune.name=s", "tune.trials=4", "plots=all")
    done = cli(*words)
    assert optuna_states().count("COMPLETE") + optuna_states().count("PRUNED") == 4
    found = results()
    assert sorted(found) == [f"trial-00{number}" for number in range(4)]
    best = max(
        rows(), key=lambda row: (row["state"] == "finished", float(row["val/accuracy"]), -int(row["trial"]))
    )
    tested = [name for name, result in found.items() if result["test"]]
    assert tested == [f"trial-00{best['trial']}"]
    assert (STUDY / tested[0] / "plots/confusion_matrix.png").exists()
    pictures = sorted(file.name for file in (STUDY / "plots").iterdir())
    assert pictures == ["history.png", "importances.png", "parallel_coordinates.png", "slices.png"]
    [command] = [line for line in done.out.splitlines() if line.startswith("again")]
    again = cli(*command.replace("again   mnist-exp ", "").replace("'", "").split())
    assert again.result["weights_sha256"] == found[tested[0]]["weights_sha256"]
    assert again.result["test"] == found[tested[0]]["test"]
    journals = {file: file.read_bytes() for file in STUDY.glob("**/*.jsonl")}
    assert "4 trials requested, 4 already ended" in cli(*words).out
    assert results() == found
    assert {file: file.read_bytes() for file in STUDY.glob("**/*.jsonl")} == journals


@pytest.mark.slow
def test_the_trials_follow_from_the_seed(cli: Cli, home_data: list[str]):
    """They are the same in one search or in two starts of it."""
    words = ("tune", *SMALL, *home_data, RATE, "aug=none,shift", "tune.name=s")
    cli(*words, "tune.trials=3")
    cli(*words, "tune.trials=1", "outputs=b")
    cli(*words, "tune.trials=3", "outputs=b")
    assert rows(Path("b/sweeps/s")) == rows()


@pytest.mark.slow
def test_another_search_does_not_mix_with_a_study(cli: Cli, home_data: list[str]):
    """It is refused, with the differing settings."""
    words = ("tune", *SMALL, *home_data, "tune.name=s", "tune.trials=1")
    cli(*words, RATE)
    told = {
        "optimizer.learning_rate=interval(1e-3,1e-1)": "optimizer.learning_rate: was tag(log,interval(1e-4,1e-1)), is",
        "tune.sampler=random": "tune.sampler: was tpe, is random",
        "training.epochs=3": "training.epochs: was 2, is 3",
        "seed=1": "tune.seed: was 0, is 1",
        "data.limit=200": "data.limit: was 300, is 200",
    }
    for word, what in told.items():
        space = () if word.startswith("optimizer") else (RATE,)
        assert what in cli(*words, *space, word, status=2).err
    Path("outputs/sweeps/mine/notes").mkdir(parents=True)
    assert (
        "already exists and is not a study"
        in cli("tune", *SMALL, *home_data, RATE, "tune.name=mine", status=2).err
    )


@pytest.mark.slow
def test_nothing_reads_the_test_part_before_the_end(cli: Cli, use: Any):
    """Its content, or its absence, changes neither the trials nor the best one."""
    from sklearn.datasets import load_digits

    use("digits")
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) * 15).astype(np.uint8)
    train = {"x_train": images[:400], "y_train": labels[:400]}
    tests = {
        "true": {"x_test": images[400:500], "y_test": labels[400:500]},
        "other": {"x_test": 255 - images[500:540], "y_test": (labels[500:540] + 1) % 10},
        "none": {},
    }
    told, best = [], []
    for name, test in tests.items():
        Path(name).mkdir()
        np.savez(Path(name) / "digits.npz", **train, **test)
        cli(
            "tune", "model=linear", "data=npz", f"data.dir={Path(name).resolve()}", "data.files.archive=digits.npz",
            "data.shape=[8,8,1]", "data.classes=10", "training.epochs=2", "tracking=none", RATE, "tune.name=s",
            "tune.trials=3", f"outputs=out-{name}",
        )  # fmt: skip
        study = Path(f"out-{name}/sweeps/s")
        told.append(rows(study))
        best.append([trial for trial, result in results(study).items() if result["test"]])
    assert told[0] == told[1] == told[2]
    assert best[0] == best[1] != []
    assert best[2] == []


@pytest.mark.slow
def test_hopeless_trials_end_early(cli: Cli, home_data: list[str]):
    """A pruned run is not finished for `runs` and `compare`, and has a tag in MLflow."""
    words = ("model=linear", "data.limit=300", "training.epochs=3", *home_data)
    space = "optimizer.learning_rate=0.01,0.02,0.03,0.04,0.05,1e-7"
    done = cli("tune", *words, space, "tune.sampler=grid", "tune.name=s")
    assert [row["state"] for row in rows()] == ["finished"] * 5 + ["pruned"]
    pruned = results()["trial-005"]
    assert (pruned["status"], pruned["epochs"], pruned["test"]) == ("pruned", 1, None)
    assert "5 finished, 1 pruned" in done.out
    assert " pruned " in cli("runs").out
    assert "without outputs/sweeps/s/trial-005: pruned" in cli("compare", "run=s").out
    assert "checkpoint" in cli("resume", "run=s/trial-005", status=2).err
    runs = dict(sqlite3.connect("outputs/mlflow.db").execute("select name, status from runs"))
    assert runs == {"s": "FINISHED", **{f"trial-00{n}": "FINISHED" for n in range(5)}, "trial-005": "KILLED"}
    [tags] = sqlite3.connect("outputs/mlflow.db").execute(
        "select count(*) from tags join runs using (run_uuid) where name = 'trial-005' and key = 'pruned'"
    )
    assert tags == (1,)


@pytest.mark.slow
def test_a_trial_that_fails_does_not_stop_the_others(cli: Cli, home_data: list[str]):
    """It counts as ended, its reason is reported, and it is not retried; the tracker shows a failed search."""
    words = (
        "tune", *SMALL, *home_data, "model=mlp", "optimizer.learning_rate=1e38,0.001", "tune.sampler=grid",
        "tune.name=s",
    )  # fmt: skip
    done = cli(*words)
    assert [row["state"] for row in rows()] == ["failed", "finished"]
    assert re.search(r"the loss is no longer a number.* \(.*trial-000/run.log\)", done.out)
    assert "1 finished, 1 failed" in done.out
    assert json.loads((STUDY / "journal.jsonl").read_text().splitlines()[-1])["status"] == "FAILED"
    assert "2 already ended" in cli(*words).out
    done = cli(
        "tune", *SMALL, *home_data, "model=mlp", "optimizer.learning_rate=1e38,1e37", "tune.sampler=grid", status=1
    )
    assert "none of 2 trials finished" in done.err


@pytest.mark.parametrize("sampler", ["cmaes", "random", "tpe"])
def test_every_sampler_proposes_what_the_space_has(sampler: str, tmp_path: Path):
    """Another process that continues the study gets the same values."""
    from mnist_exp.config.overrides import Request
    from mnist_exp.sweeps.search_space import read_space

    space = read_space(
        Request("train", (RATE, "training.batch_size=range(8,65,8)", "model.width=tag(log,int(interval(4,64)))", "a=x,y")), {}
    )  # fmt: skip
    assert space.problems == ()

    def values(folder: str, begun_anew: int, seed: int = 0) -> list[tuple[str, ...]]:
        found = []
        for number in range(12):
            if number % begun_anew == 0:
                study = a_study(tmp_path / folder, space, sampler, 12, seed=seed)
            claim = study.claim()
            assert claim is not None
            with claim:
                rate, size, width, choice = claim.values
                assert 1e-4 <= float(rate) <= 0.1
                assert int(size) in range(8, 65, 8)
                assert 4 <= int(width) <= 64
                assert choice in ("x", "y")
                found.append(claim.values)
                claim.end("finished", float(rate) * int(size), 1.0)
        assert study.claim() is None
        return found

    assert values("a", 100) == values("b", 1) != values("c", 100, seed=1)


def a_study(
    directory: Path,
    space: Any,
    sampler: str,
    trials: int,
    storage: str | None = None,
    key: str = "k",
    seed: int = 0,
) -> Any:
    """Open a process's share in a study, as `tune` does."""
    from mnist_exp.sweeps.optuna_study import Study, open_study

    directory.mkdir(exist_ok=True)
    found = open_study(storage, "s", directory, {}, maximize=True, pruner="none", epochs=1)
    return Study(found, space, sampler, seed, trials, directory, key)


def test_a_trial_of_a_dead_process_is_taken_over(tmp_path: Path):
    """A trial belongs to the process that holds its lock; its values are kept."""
    from mnist_exp.config.overrides import Request
    from mnist_exp.sweeps.search_space import read_space

    space = read_space(Request("train", (RATE,)), {})
    one, two = (a_study(tmp_path / "s", space, "tpe", 3) for _ in range(2))
    first, second = one.claim(), two.claim()
    assert (first.number, second.number) == (0, 1)
    first._held.close()  # as its process' death does
    again = two.claim()
    assert (again.number, again.values) == (0, first.values)
    third = one.claim()
    assert third.number == 2
    assert one.claim() is two.claim() is None
    for claim in (again, second, third):
        assert not one.is_complete()
        claim.end("finished", 1.0, 1.0)
    assert one.is_complete()


def test_a_machine_that_is_gone_leaves_its_trial_to_others(tmp_path: Path):
    """If directories are not shared, a database reveals missing heartbeats, and the values are tried again."""
    from optuna.trial import TrialState

    from mnist_exp.config.overrides import Request
    from mnist_exp.sweeps.search_space import read_space

    space = read_space(Request("train", (RATE,)), {})
    url = f"sqlite:///{tmp_path / 's.db'}"
    here = a_study(tmp_path / "here", space, "tpe", 2, url, "here")
    there = a_study(tmp_path / "there", space, "tpe", 2, url, "there")
    with ExitStack() as held:
        lost = there.claim()
        held.enter_context(lost)
        kept = here.claim()
        assert (lost.number, kept.number) == (0, 1)
        assert here.claim() is None  # it is not known to be gone
        here.optuna._storage.set_trial_state_values(lost._trial._trial_id, TrialState.FAIL)  # as a heartbeat does
        instead = here.claim()
        assert (instead.number, instead.values) == (2, lost.values)
        assert here.claim() is None
        for claim in (kept, instead):
            assert not here.is_complete()
            claim.end("finished", 1.0, 1.0)
            claim._held.close()
        lost.end("finished", 1.0, 1.0)  # it was alive: what it found is late
    assert here.is_complete()
    assert [trial.number for trial in here.trials()] == [1, 2]


@pytest.mark.slow
def test_a_space_can_be_a_preset(cli: Cli, home_data: list[str]):
    """It is YAML with values in command-line syntax or lists; the command line takes precedence."""
    Path("mine/tune/space").mkdir(parents=True)
    Path("mine/tune/space/mine.yaml").write_text(
        "# Mine.\noptimizer.learning_rate: tag(log, interval(1e-4, 1e-1))\naug: [none, shift]\nseed: 0,1\n"
    )
    words = ("--config-dir", "mine", *SMALL, *home_data, "tune/space=mine", "tune.trials=1", "seed=3")
    done = cli("tune", *words)
    assert "space   optimizer.learning_rate, aug\n" in done.out
    [result] = results(Path("outputs/sweeps/tune-linear-learning_rate-aug")).values()
    assert "seed=3" in result["overrides"]
    Path("mine/tune/space/mine.yaml").write_text(
        "# Mine.\naug: none\nseed: interval(\npreprocess: [unit, nosuch]\n"
    )
    done = cli("tune", *words[:-1], status=2)
    for place in ("tune.space.aug   none: ", "tune.space.seed  interval(: ", "nosuch"):
        assert place in done.err


def test_the_config_that_all_trials_have_is_shown(cli: Cli):
    """Searched keys have their default values."""
    out = cli("tune", RATE, "model=linear,mlp", "seed=3", "--cfg", "job").out
    assert "\nseed: 3\n" in out
    assert "learning_rate: 0.001\n" in out


def test_a_password_is_never_shown(cli: Cli, home_data: list[str]):
    """It is in no message and no file."""
    url = "postgresql://me:secret@127.0.0.1:1/db"
    done = cli("tune", *SMALL, *home_data, RATE, f"tune.storage={url}", status=2)
    assert "secret" not in done.err
    assert "tune.storage=postgresql://***@127.0.0.1:1/db: " in done.err
    assert list(Path().iterdir()) == []


@pytest.mark.slow
def test_two_processes_one_of_them_killed_end_with_exactly_the_trials_asked_for(home_data: list[str], use: Any):
    """20 trials are finished or pruned, none lost or repeated, and the best is scored once."""
    use("digits" if home_data else "mnist")
    words = (
        "tune", "model=linear", "data.limit=400", "training.epochs=3", "device.threads=1", *home_data, RATE,
        "aug=none,shift", "tune.trials=20", "tune.name=s",
    )  # fmt: skip
    survivor, victim = start(*words), start(*words)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        mine = [name for name, result in results().items() if result["pid"] == victim.pid and result["epochs"]]
        if len(mine) >= 3 and results()[mine[-1]]["status"] == "running":
            break
        time.sleep(0.01)
    else:
        pytest.fail("the victim began no third trial")
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    assert 3 <= len(results()) < 20
    again = start(*words)
    for process in (survivor, again):
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
        assert "Traceback" not in out + err
    states = optuna_states()
    assert len(states) == 20
    assert set(states) <= {"COMPLETE", "PRUNED"}
    found = results()
    assert sorted(found) == [f"trial-{number:03d}" for number in range(20)]
    of_optuna = {"COMPLETE": "finished", "PRUNED": "pruned"}
    assert [of_optuna[state] for state in states] == [found[name]["status"] for name in sorted(found)]
    assert len([result for result in found.values() if result["test"]]) == 1
    for name in found:  # each epoch was trained, and noted, once
        with (STUDY / name / "history.csv").open(newline="") as file:
            assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"][: found[name]["epochs"]]
    runs = list(sqlite3.connect("outputs/mlflow.db").execute("select name, status from runs"))
    assert sorted(name for name, _ in runs) == ["s", *sorted(found)]
    assert {status for _, status in runs} <= {"FINISHED", "KILLED"}
    assert dict(runs)["s"] == "FINISHED"


@pytest.mark.slow
def test_an_interrupted_search_is_resumed_exactly(home_data: list[str], use: Any):
    """The exit status is 130; the next start ends with the same trials as an uninterrupted search."""
    use("digits" if home_data else "mnist")
    words = (
        "tune", "model=linear", "data.limit=2000", "training.epochs=4", "tracking=none", *home_data, RATE,
        "tune.trials=4", "tune.name=s",
    )  # fmt: skip
    process = start(*words)
    while not (result := results().get("trial-001")) or not result["epochs"]:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 130, out + err
    assert "interrupted; run the same command again to resume it" in out
    assert results()["trial-001"]["status"] == "interrupted"
    for more in ((), ("outputs=b",)):
        process = start(*words, *more)
        out, err = process.communicate(timeout=120 * PATIENCE)
        assert process.returncode == 0, out + err
    assert results()["trial-001"]["resumed"]
    assert rows(Path("b/sweeps/s")) == rows()
    weights = [[r["weights_sha256"] for r in results(study).values()] for study in (STUDY, Path("b/sweeps/s"))]
    assert weights[0] == weights[1]


def test_seconds_of_an_interrupted_trial_are_those_of_its_processes(tmp_path: Path):
    """Not the time between them, nor what a clock that was set back makes of it."""
    from mnist_exp.sweeps.trials import read_figures

    result = {
        "started": 2000, "ended": 1000.0, "status": "finished", "data": {}, "best": {"epoch": 1, "val/loss": 0.5},
        "resumed": [{"epochs": 1}], "seconds": {"data": 1.0, "total": 7.5}, "earlier_seconds": 10.0,
    }  # fmt: skip
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert read_figures(tmp_path, "val/loss") == (0.5, 16.5)
    assert read_figures(tmp_path / "none", "val/loss") == (None, 0.0)
