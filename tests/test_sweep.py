"""Sweeps (`-m`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.cli import SMALL, Cli
from support.golden import Golden

from mnist_exp.runs.events import EndEvent
from mnist_exp.runs.journal import read


def test_every_job_is_checked_before_the_first(cli: Cli, home_data: list[str]):
    """If a job is invalid, none starts, and the report names it."""
    done = cli("-m", *SMALL, *home_data, "seed=0,x", "optimizer.learning_rate=0.1,-1", status=2)
    assert "2 problems in this sweep of 4 jobs" in done.err
    assert 'seed=x: must be an integer, found "x"  [learning_rate-0.1_seed-x, learning_rate--1_seed-x]' in done.err
    assert "optimizer.learning_rate=-1: must be greater than 0" in done.err
    assert not Path("outputs").exists()


def test_jobs_are_checked_with_keras(cli: Cli, home_data: list[str]):
    """A layer that does not fit stops the sweep before it starts."""
    done = cli("-m", *SMALL, *home_data, "model.layers.1.units=10,7", status=2)
    assert "must end in 10 values, one per class, but ends in 7  [units-7]" in done.err
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_a_job_has_the_weights_that_it_has_alone(cli: Cli, home_data: list[str]):
    """They do not depend on what ran before in the same process."""
    cli("-m", *SMALL, *home_data, "seed=3,4", "aug=shift")
    alone = cli(*SMALL, *home_data, "seed=4", "aug=shift")
    [job] = Path("outputs/sweeps").glob("*/seed-4/result.json")
    result = json.loads(job.read_text())
    assert result["weights_sha256"] == alone.result["weights_sha256"]
    assert result["fingerprint"] == alone.result["fingerprint"]


@pytest.mark.slow
def test_a_job_that_fails_does_not_stop_the_others(cli: Cli, home_data: list[str]):
    """The exit status is 1, and the output has the reason and the log."""
    done = cli(
        "-m", *SMALL, *home_data, "model=lenet5x5", "optimizer.learning_rate=1e38,0.001", "seed=0", status=1
    )
    assert "1 of 2 jobs failed" in done.err
    assert "the loss is no longer a number" in done.err
    assert "run.log" in done.err
    found = {
        path.parent.name: json.loads(path.read_text())["status"]
        for path in Path("outputs/sweeps").glob("*/*/result.json")
    }
    assert found == {"learning_rate-1e+38": "failed", "learning_rate-0.001": "finished"}
    last = read(next(Path("outputs/sweeps").iterdir()))[-1]
    assert isinstance(last, EndEvent)
    assert last.status == "FAILED"


@pytest.mark.slow
def test_the_fallback_is_decided_once(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """The starting process decides it for all jobs."""
    monkeypatch.delenv("MNIST_EXP_DATA", raising=False)
    done = cli("-m", "model=linear", "training.epochs=1", "tracking=none", "data.mirrors=[]", "seed=0,1")
    assert done.out.count("data.fallback=error") == 1
    results = [json.loads(path.read_text()) for path in Path("outputs/sweeps").glob("*/*/result.json")]
    assert [result["data"]["stands_in_for"] for result in results] == ["mnist", "mnist"]
    assert {result["data"]["name"] for result in results} == {"digits"}


def test_only_training_is_swept(cli: Cli, golden: Golden):
    """-m with another verb is refused."""
    golden(cli("runs", "-m", "limit=1,2", status=2).err)


@pytest.mark.slow
def test_a_sweep_can_start_from_a_run(cli: Cli, home_data: list[str]):
    """`-m from=` takes the run's config for every job."""
    first = cli(*SMALL, *home_data, "aug=shift", "training.batch_size=32")
    cli("-m", f"from={first.run}", "seed=0,1", "tracking=none")
    same, other = sorted(Path("outputs/sweeps").glob("*/*/result.json"))
    assert json.loads(same.read_text())["weights_sha256"] == first.result["weights_sha256"]
    assert json.loads(other.read_text())["weights_sha256"] != first.result["weights_sha256"]


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["seed=range(0,0)"], "seed=range(0,0): "),
        (["seed=0,1", "seed=2"], "seed: "),
        (["outputs=a,b"], "outputs: "),
        (["device.threads=1,2"], "device.threads: "),
        (["seed=0,x", "runs", "modl=linear"], "modl=linear: "),
    ],
)
def test_wrong_sweeps_are_refused(cli: Cli, home_data: list[str], words: list[str], place: str, golden: Golden):
    """All problems are reported together; no job starts."""
    done = cli("-m", *SMALL, *home_data, *words, status=2)
    assert place in done.err
    golden(done.err)
    assert not Path("outputs").exists()


def test_a_fallback_is_never_compared_with_other_data(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """It is not used for a preset that refuses it either."""
    monkeypatch.delenv("MNIST_EXP_DATA", raising=False)
    done = cli("-m", "data=mnist,digits", "data.mirrors=[]", "model=linear", "tracking=none", status=2)
    assert "results on fallback data are not comparable" in done.err
    for words in (["experiment=none,lenet5x5"], ["data.fallback=digits,null"]):
        done = cli("-m", *words, "data.mirrors=[]", "tracking=none", status=2)
        assert "mnist was not found" in done.err
    assert not Path("outputs").exists()


def test_jobs_have_names_of_their_own():
    """Names are unique even if values look the same in a file name or are long."""
    from mnist_exp.sweeps.grid import Grid
    from mnist_exp.sweeps.job_names import job_names

    long = "x" * 300
    grid = Grid(("name",), (("name=a b",), ("name=a-b",), (f"name={long}1",), (f"name={long}2",)), ())
    names = job_names(grid)
    assert len(set(names)) == 4
    assert max(map(len, names)) < 130
    again = Grid(("rate",), (("rate=1.2",), ("rate=1",), ("rate=1",)), ())
    assert len(set(job_names(again))) == 3


def results(sweep: Path) -> dict[str, dict]:
    return {file.parent.name: json.loads(file.read_text()) for file in sweep.glob("*/result.json")}


@pytest.mark.slow
def test_a_sweep_started_again_trains_only_what_is_missing(cli: Cli, home_data: list[str]):
    """Its overrides may be written differently; `sweep.rerun=true` starts over in a new folder."""
    first = cli("-m", *SMALL, *home_data, "seed=0,1", "sweep.name='my sweep'")
    assert "2 of 2 jobs done" in first.out
    sweep = Path("outputs/sweeps/my-sweep")
    before = results(sweep)
    words = [word for word in reversed((*SMALL, *home_data)) if not word.startswith("training")]
    again = cli("-m", "++seed=range(3)", "sweep.name='my sweep'", *words, "++training.epochs=2")
    assert "2 finished, 0 to resume, 1 to start" in again.out
    after = results(sweep)
    assert set(after) == {"seed-0", "seed-1", "seed-2"}
    assert {name: after[name] for name in before} == before
    cli("-m", *SMALL, *home_data, "seed=0,1", "sweep.name='my sweep'", "sweep.rerun=true")
    rerun = results(Path("outputs/sweeps/my-sweep-2"))
    assert {name: result["weights_sha256"] for name, result in rerun.items()} == {
        name: result["weights_sha256"] for name, result in before.items()
    }


@pytest.mark.slow
def test_duplicate_jobs_are_trained_once(cli: Cli, home_data: list[str]):
    """They are reported before the sweep starts, and counted as done."""
    done = cli("-m", *SMALL, *home_data, "optimizer.learning_rate=1e-2,0.01,0.02", "sweep.name=same")
    assert "1 duplicate job skipped" in done.out
    assert "[2/2]" in done.out
    assert "3 of 3 jobs done" in done.out
    assert len(results(Path("outputs/sweeps/same"))) == 2


@pytest.mark.slow
def test_a_sweep_is_recognized_by_a_common_job(cli: Cli, home_data: list[str]):
    """It needs no name, and its fixed overrides may be written differently."""
    cli("-m", *SMALL, *home_data, "seed=0,1")
    again = cli("-m", *SMALL, *home_data, "seed=1,2", "optimizer.learning_rate=0.001")
    assert "1 finished, 0 to resume, 1 to start" in again.out
    assert len(list(Path("outputs/sweeps").iterdir())) == 1


@pytest.mark.slow
def test_failed_jobs_are_retried(cli: Cli, home_data: list[str]):
    """A job that appears under two names is trained once."""
    words = ("-m", *SMALL, *home_data, "optimizer.learning_rate=1e38,0.1,1e-1")
    for done in (0, 2):
        found = cli(*words, status=1)
        assert "1 of 3 jobs failed" in found.err
        assert (f"{done} finished, 1 to resume" in found.out) == bool(done)
    [sweep] = Path("outputs/sweeps").iterdir()
    assert sorted(result["status"] for result in results(sweep).values()) == ["failed", "finished"]


@pytest.mark.slow
def test_two_processes_cannot_run_the_same_sweep(cli: Cli, home_data: list[str], golden: Golden):
    """The second one is refused, and nothing is lost."""
    from mnist_exp.runs.directory import RunDirectory

    cli("-m", *SMALL, *home_data, "seed=0", "sweep.name=one")
    with RunDirectory.open(Path("outputs/sweeps/one")):
        refused = cli("-m", *SMALL, *home_data, "seed=0,1", "sweep.name=one", status=2)
    golden(refused.err)
    cli("-m", *SMALL, *home_data, "seed=0,1", "sweep.name=one")


def test_a_launcher_that_is_not_installed_is_refused(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """The message has the command that installs it; no job starts."""
    from mnist_exp.sweeps import grid

    monkeypatch.setattr(grid, "find_spec", lambda name: None)
    refused = cli("-m", "hydra/launcher=submitit_slurm", "seed=0,1", status=2)
    assert "install the extra submitit: pip install '.[submitit]'" in refused.err
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (("hydra/launcher=joblib", "hydra.launcher.n_jobs=0"), "hydra.launcher.n_jobs: "),
        (("hydra/launcher=submitit_slurm",), "hydra/launcher=submitit_slurm: "),
    ],
)
def test_a_launcher_that_cannot_start_is_refused(
    cli: Cli,
    home_data: list[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    place: str,
    golden: Golden,
):
    """Nothing is created."""
    monkeypatch.setenv("PATH", "")
    # This process has its threads already.
    refused = cli("-m", *words, *SMALL, *home_data, "seed=0,1", "device.threads=auto", status=2)
    assert f"1 problem in this sweep\n  command line  {place}" in refused.err
    golden(refused.err)
    assert not Path("outputs").exists()


def test_a_launcher_cannot_name_code(cli: Cli, home_data: list[str], tmp_path: Path):
    """Not even by an interpolation of another part of the config."""
    folder = tmp_path / "theirs/hydra/launcher"
    folder.mkdir(parents=True)
    copied = tmp_path / "copied"
    (folder / "mine.yaml").write_text(
        "# @package hydra\n"
        f"job: {{env_set: {{_target_: shutil.copyfile, src: /etc/hostname, dst: {copied}}}}}\n"
        "launcher:\n  _target_: hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher\n"
        "  additional_parameters: {x: '${hydra.job.env_set}'}\n"
    )
    words = (
        "--config-dir",
        str(tmp_path / "theirs"),
        "-m",
        "hydra/launcher=mine",
        "seed=0,1",
        "device.threads=auto",
    )
    said = cli(*words, *SMALL, *home_data, status=2).err
    assert "hydra.launcher.additional_parameters.x: must not be set by an option file" in said
    assert not copied.exists()


def test_the_best_of_a_sweep_does_not_depend_on_the_test_part():
    """It is marked by validation accuracy alone."""
    from mnist_exp.sweeps.grid import Grid
    from mnist_exp.sweeps.leaderboard import Leaderboard, Outcome

    def outcome(seed: int, val: float, test: float) -> Outcome:
        return Outcome(f"seed-{seed}", (f"seed={seed}",), "finished", "", "", 1, val, test, 1.0)

    grid = Grid(("seed",), (("seed=0",), ("seed=1",)), ())
    for tests in ((0.1, 0.9), (0.9, 0.1)):
        board = Leaderboard([outcome(0, 0.8, tests[0]), outcome(1, 0.7, tests[1])], grid)
        assert board.best == 0.8
        assert "80.00 % *" in board.as_markdown()
