"""`check` tells everything that `train` would refuse; `show` what a model is."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import Cli


def mine(*entries: str) -> str:
    """A folder of own options with a model of these layers."""
    folder = Path("mine") / "model"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# mine\nname: mine\nlayers:\n" + "".join(f"  - {e}\n" for e in entries))
    return "--config-dir=mine"


END = ("Flatten", "{type: Dense, units: 10}", "Softmax")


def test_check_says_that_nothing_is_wrong(cli: Cli):
    """Without reading data or making anything."""
    done = cli("check", "model=pyramid", "data.dir=/nowhere")
    assert "nothing is wrong: model pyramid, 8,858 parameters, for 28×28×1" in done.out
    assert not Path("outputs").exists()


@pytest.mark.parametrize("verb", ["check", "train"])
def test_what_keras_finds_follows_in_the_same_answer(cli: Cli, verb: str):
    """Names and values first, at once; then shapes and whatever only Keras can judge; each once, with its place."""
    folder = mine("{type: Conv2D, fliters: 3, filters: 3, kernel_size: 3}", *END)
    file = Path("mine/model/mine.yaml")
    done = cli(verb, folder, "model=mine", "optimizer.learning_rate=-1", "+optimizer.beta_1=abc", status=2)
    assert done.err.splitlines() == [
        "mnist-exp: 2 problems in this configuration",
        "  command line            optimizer.learning_rate=-1: must be greater than 0, found -1",
        f"  {file}:4  model.layers.0.fliters: Conv2D has no argument 'fliters' (did you mean 'filters'?)",
        "and 1 problem more that Keras finds",
        done.err.splitlines()[-1],
    ]
    assert done.err.splitlines()[-1].startswith("  command line  optimizer: Adam cannot make a step")
    assert not Path("outputs").exists()


def test_check_of_a_sweep_names_the_jobs(cli: Cli):
    """Every job, before any would start."""
    done = cli("check", "-m", "model=linear,pyramid", "data=digits")
    assert (
        "model=linear  model linear, 7,850 parameters" in done.out.replace("linear ", "linear ", 1)
        or "7,850" in done.out
    )
    assert "nothing is wrong with any of these 2 jobs" in done.out
    wrong = cli("check", "-m", "model=linear,pyramid", "model.layers.6.kernel_size=9", "data=digits", status=2)
    assert "in this sweep of 2 jobs" in wrong.err


# What Keras builds, but TensorFlow does not compute, or what no loss takes.
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (("ReLU", "{type: LayerNormalization, epsilon: abc}", *END), "mine.yaml:5  model.layers.1: can be built, but not computed: "),
        (("ReLU", "{type: Dropout, rate: 0.5, noise_shape: [3, 3]}", *END), "mine.yaml:5  model.layers.1: can be built, but not computed: "),
        (("{type: Conv2D, filters: 3, kernel_size: 29}", *END), "model.layers.0: Conv2D does not fit its input of 28×28×1 (after the input)"),
        (("Flatten", "{type: Dense, units: 9}", "Softmax"), "model.layers: must end in 10 values, one per class, but ends in 9"),
        (("Flatten", "{type: Dense, units: 10}"), "model.layers: must end in probabilities"),
    ],
)  # fmt: skip
def test_what_would_not_train_is_refused(cli: Cli, entries: tuple[str, ...], message: str):
    """With the entry at fault."""
    done = cli("check", mine(*entries), "model=mine", "data=digits", status=2)
    assert message in done.err


def test_a_model_over_budget_is_refused(cli: Cli):
    """With what it costs and by how much it is over."""
    done = cli("check", "model=pyramid", "budget.max_parameters=8000", "budget.max_macs=1000000", status=2)
    assert "budget.max_parameters: the model has 8,858 parameters, 858 more than 8,000" in done.err
    assert (
        "budget.max_macs: the model has 3,693,136 multiply-adds per image, 2,693,136 more than 1,000,000"
        in done.err
    )
    cli("check", "model=pyramid", "budget.max_parameters=8858")


def test_show_prints_the_card_and_what_augmentation_does(cli: Cli):
    """A row per layer, the totals, the remarks, and digits beside what becomes of them."""
    done = cli("show", "model=pyramid", "aug=rotate45", "data=digits")
    lines = done.out.splitlines()
    assert lines[0] == "model   pyramid on 28×28×1, 10 classes"
    assert any(line.split()[:4] == ["conv2d_1", "Conv2D", "22×22×32", "7,200"] for line in lines)
    assert any(line.split()[:1] == ["total"] and "8,858" in line for line in lines)
    assert any(line.startswith("remark  conv2d is unpadded") for line in lines)
    assert sum("█" in line for line in lines) > 10
    assert not Path("outputs").exists()


def test_show_tells_of_a_run(cli: Cli):
    """`run=` names one; the card is in its directory too."""
    run = cli("model=pyramid", small=True).run
    assert run is not None
    done = cli("show", "run=latest")
    assert "model   pyramid on 28×28×1, 10 classes" in done.out
    card = (run / "architecture.md").read_text(encoding="utf-8")
    assert "| conv2d_1 | Conv2D | 22×22×32 | 7,200 |" in card
    assert "- conv2d is unpadded" in card
