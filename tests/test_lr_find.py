"""`mnist-exp lr_find`: the proposal, its files, and refused requests."""

from __future__ import annotations

import csv
import json
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.cli import PATIENCE, Cli, start
from support.golden import Golden

import mnist_exp
from mnist_exp.errors import WorkError

WORDS = ("data=digits", "model=mlp", "find.low=1e-5", "find.steps=60")


def document(cli: Cli, *words: str, status: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cli("lr_find", *words, "format=json", status=status).out)
    return found


def table(folder: Path) -> list[dict[str, float]]:
    with (folder / "lr_find.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.parametrize("words", [("model=mlp",), ("model=linear", "optimizer=sgd", "aug=shift")])
def test_the_proposal_trains_well(cli: Cli, words: tuple[str, ...]):
    """It needs no change of the command: a hundredth of it learns almost nothing, and it does not diverge."""
    proposal = document(cli, "data=digits", *words)
    assert proposal["override"] == f"optimizer.learning_rate={proposal['learning_rate']:g}"
    losses = []
    for override in (proposal["override"], f"optimizer.learning_rate={proposal['learning_rate'] / 100}"):
        done = cli("data=digits", *words, override, "training.epochs=3", "tracking=none", "plots=false")
        losses.append(done.result["best"]["val/loss"])
    assert losses[0] < 1.3 < 1.9 < losses[1]


@pytest.mark.slow
def test_the_same_command_gives_the_same_proposal(cli: Cli):
    """The curve is the same, too. Another seed gives another curve, and a rate of the same magnitude."""
    first, second, other = (document(cli, "data=digits", "model=linear", f"seed={seed}") for seed in (0, 0, 1))
    assert first["learning_rate"] == second["learning_rate"]
    assert 0.3 < first["learning_rate"] / other["learning_rate"] < 3
    assert first["curve"] == second["curve"] != other["curve"]
    assert first["folder"] != second["folder"]


def test_the_proposal_is_printed_and_the_curve_is_written(cli: Cli):
    """One line has the override. The folder has a picture and a table, and nothing else was created."""
    out = cli("lr_find", *WORDS, "schedule=one_cycle").out
    assert re.search(r"^rate +\S+, at which the smoothed loss falls most steeply \(.*minimum: \S+\)$", out, re.M)
    assert "peak of the one_cycle schedule" in out
    [rate] = re.findall(r"^use +optimizer\.learning_rate=(\S+)$", out, re.M)
    [folder] = Path("outputs/lr_find").iterdir()
    assert folder.name.startswith("mlp-none-")
    assert f"files   {folder}" in out
    assert [path.name for path in Path("outputs").iterdir()] == ["lr_find"]
    assert sorted(path.name for path in folder.iterdir()) == ["lr_find.csv", "lr_find.png"]
    assert [path.name for path in Path().iterdir()] == ["outputs"]
    rows = table(folder)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[0]["learning_rate"] == 1e-5
    assert 30 < len(rows) < 60  # it diverged
    smoothed = [row["smoothed_loss"] for row in rows]
    lowest = int(np.argmin(smoothed))
    slopes = np.gradient(smoothed, np.log([row["learning_rate"] for row in rows]))
    assert rows[slopes[:lowest].argmin()]["learning_rate"] == pytest.approx(float(rate), rel=0.05)
    with Image.open(folder / "lr_find.png") as picture:
        assert picture.format == "PNG"
        assert picture.size == (704, 440)
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    for colour in ((0, 114, 178), (0, 158, 115)):  # the smoothed curve, and the proposal; their edges are blended
        assert (np.abs(pixels - colour).max(axis=-1) < 60).sum() > 200


def test_the_folder_can_be_chosen(cli: Cli):
    """An existing folder with files is refused, like any other mistake, before anything is trained."""
    cli("lr_find", *WORDS, "output=here/curve", "plots.dpi=55")
    with Image.open("here/curve/lr_find.png") as picture:
        assert picture.size == (352, 220)
    assert not Path("outputs").exists()
    before = Path("here/curve/lr_find.csv").read_bytes()
    assert "already exists" in cli("lr_find", *WORDS, "output=here/curve", status=2).err
    assert Path("here/curve/lr_find.csv").read_bytes() == before
    Path("file").touch()
    assert "cannot be written" in cli("lr_find", *WORDS, "output=file/x", status=2).err


def test_without_a_proposal_the_status_is_1(cli: Cli, golden: Golden):
    """The reason says what to change, and the curve is written nevertheless."""
    words = ("lr_find", "data=digits", "model=mlp", "find.steps=30")
    golden(cli(*words, "find.high=1e-4", "output=low", status=1).err)
    golden(cli(*words, "find.low=0.3", "find.high=10", "output=high", status=1).err)
    assert len(table(Path("low"))) == 30
    assert len(table(Path("high"))) < 10
    assert Path("high/lr_find.png").stat().st_size > 5000
    found = document(cli, *words[1:], "find.high=1e-4", status=1)
    assert (found["document"], found["learning_rate"], found["override"]) == ("lr_find", None, None)
    assert "find.high" in found["message"]
    assert (found["ending"], found["planned_steps"], len(found["curve"])) == ("completed", 30, 30)


def test_a_loss_that_is_never_a_number_is_reported(cli: Cli, golden: Golden):
    """No learning rate would help, so nothing is written."""
    penalty = "{class_name: L2, config: {l2: 1e38}}"
    layers = f"model.layers=[Flatten, {{type: Dense, units: 10, kernel_regularizer: {penalty}}}, Softmax]"
    golden(cli("lr_find", "data=digits", "model=linear", layers, status=1).err)
    assert not Path("outputs").exists()


def test_all_mistakes_are_reported_at_once(cli: Cli, golden: Golden):
    """Those of the range, and those that `check` finds, also with Keras. Nothing is created."""
    Path("there").mkdir()
    Path("there/x").touch()
    for words in (
        ("find.low=-1", "find.high=fast", "find.steps=5", "output=", "seed=-1", "optimizer.learning_rate=0"),
        ("find.low=0.1", "find.high=0.01", "seed=-1"),
        ("find.lo=1e-3", "output=there", "model=mpl"),
        ("output=there", "find.steps=1e9"),
        ("output=there", "seed=-1"),
        ("find.low=2", "+optimizer.clipvalue=1", "optimizer.clipnorm=1"),
    ):
        golden(cli("lr_find", "data=digits", *words, status=2).err)
    found = document(cli, "data=digits", "find.low=2", "seed=-1", status=2)
    assert [(p["path"], p["place"]) for p in found["problems"]] == [
        ("find.low", "command line"), ("seed", "command line"),
    ]  # fmt: skip
    assert "-m works with" in cli("lr_find", "-m", "data=digits", "seed=1,2", status=2).err
    assert not Path("outputs").exists()


def test_the_range_of_a_users_own_file_has_its_place(cli: Cli, golden: Golden, tmp_path: Path):
    """A preset of training cannot set the range, and the message names the line."""
    mine = tmp_path / "conf" / "experiment" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("# @package _global_\n# Mine.\ntraining: {batch_size: 64}\nfind: {low: 1e-3}\n")
    golden(cli("lr_find", f"--config-dir={mine.parents[1]}", "experiment=mine", "data=digits", status=2).err)


def test_the_config_of_a_run_is_a_starting_point(cli: Cli):
    """`from` and `init_from` work as in training: the first loss is that of the trained weights."""
    run = cli("data=digits", "model=mlp", "tracking=none", "plots=false", "name=first", "training.epochs=3").run
    found = document(cli, f"from={run}", "find.steps=30", "init_from=first", "find.high=0.01", status=1)
    assert found["model"] == "mlp"
    assert found["curve"][0]["loss"] < 1
    assert [path.name for path in Path("outputs/runs").iterdir()] == [run.name if run else ""]


@pytest.mark.slow
def test_python_offers_it():
    """The function returns the proposal and the curve, and raises an error without a proposal."""
    found = mnist_exp.lr_find("data=digits", model="linear", find__steps=50)
    assert 1e-4 < found.learning_rate < 0.1
    assert list(found.curve) == ["learning_rate", "loss", "smoothed_loss"]
    assert found.picture.is_file()
    assert f"linear: optimizer.learning_rate={found.learning_rate:g}" in repr(found)
    assert "<img" in found._repr_html_()
    with pytest.raises(WorkError, match="raise find.steps or find.high"):
        mnist_exp.lr_find("data=digits", "model=linear", find__steps=30, find__high=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_nothing_is_left(number: signal.Signals):
    """The exit status is the signal's."""
    process = start("lr_find", "data=digits", "model=vgg_bn", "find.steps=1000", "find.high=1e-4")
    assert process.stdout is not None
    while "training at rising rates" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    _, err = process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    assert not Path("outputs").exists()
