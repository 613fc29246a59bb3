"""`check` reports everything that `train` would refuse; `show` describes models."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cli import Cli
from support.golden import Golden


def mine(*entries: str) -> str:
    """Write a folder of options with a model of these layers."""
    folder = Path("mine") / "model"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# mine\nname: mine\nlayers:\n" + "".join(f"  - {e}\n" for e in entries))
    return "--config-dir=mine"


# Combinations that only Keras knows to be invalid.
BOTH = ("+optimizer.clipvalue=1", "optimizer.clipnorm=1")
END = ("Flatten", "{type: Dense, units: 10}", "Softmax")


def test_check_accepts_a_valid_config(cli: Cli):
    """The data is counted and nothing is created."""
    done = cli("check", "model=pyramid", "data=digits")
    assert "1,497 train, 300 test" in done.out
    assert "no problems: model pyramid, 8,858 parameters, for 28×28×1" in done.out
    assert not Path("outputs").exists()


@pytest.mark.parametrize("verb", ["check", "train"])
def test_problems_that_keras_finds_follow_the_others(cli: Cli, verb: str):
    """Names and values are reported at once, then shapes and other problems, each once with its place."""
    folder = mine("{type: Conv2D, fliters: 3, filters: 3, kernel_size: 3}", *END)
    file = Path("mine/model/mine.yaml")
    done = cli(verb, folder, "model=mine", "optimizer.learning_rate=-1", *BOTH, status=2)
    assert done.err.splitlines() == [
        "mnist-exp: 2 problems in this configuration",
        "  command line            optimizer.learning_rate=-1: must be greater than 0, found -1",
        f"  {file}:4  model.layers.0.fliters: Conv2D has no argument 'fliters' (did you mean 'filters'?)",
        "Keras found 1 more problem:",
        done.err.splitlines()[-1],
    ]
    assert done.err.splitlines()[-1].startswith("  command line  optimizer: Adam ")
    assert not Path("outputs").exists()


def test_check_of_a_sweep_names_the_jobs(cli: Cli):
    """`check -m` lists every job of a sweep with its model and the number of its parameters."""
    done = cli("check", "-m", "model=linear,pyramid", "data=digits")
    jobs = [line.split() for line in done.out.splitlines() if "parameters" in line]
    assert [words[0] for words in jobs] == ["model-linear", "model-pyramid"]
    assert ["7,850" in jobs[0], "8,858" in jobs[1]] == [True, True]
    assert "no problems in any of 2 jobs" in done.out
    wrong = cli("check", "-m", "model=linear,pyramid", "model.layers.6.kernel_size=9", "data=digits", status=2)
    assert "in this sweep of 2 jobs" in wrong.err


# Models that Keras builds, but that TensorFlow cannot compute or no loss accepts.
@pytest.mark.parametrize(
    ("entries", "place"),
    [
        (("ReLU", "{type: LayerNormalization, epsilon: abc}", *END), "mine.yaml:5  model.layers.1.epsilon: "),
        (("ReLU", "{type: Dropout, rate: 0.5, noise_shape: [3, 3]}", *END), "mine.yaml:5  model.layers.1: "),
        (("{type: Conv2D, filters: 3, kernel_size: 29}", *END), "model.layers.0:"),
        (("Flatten", "{type: Dense, units: 9}", "Softmax"), "model.layers:"),
        (("Flatten", "{type: Dense, units: 10}"), "model.layers:"),
    ],
)  # fmt: skip
def test_what_would_not_train_is_refused(cli: Cli, entries: tuple[str, ...], place: str, golden: Golden):
    """The message names the entry at fault."""
    done = cli("check", mine(*entries), "model=mine", "data=digits", status=2)
    assert place in done.err
    golden(done.err)


def test_a_model_over_budget_is_refused(cli: Cli, golden: Golden):
    """The message has its cost and the excess."""
    done = cli("check", "model=pyramid", "budget.max_parameters=8000", "budget.max_macs=1000000", status=2)
    for key, cost, excess in (("max_parameters", "8,858", "858"), ("max_macs", "3,693,136", "2,693,136")):
        [line] = (line for line in done.err.splitlines() if f"budget.{key}: " in line)
        assert cost in line
        assert f" {excess} more" in line
    golden(done.err)
    cli("check", "model=pyramid", "budget.max_parameters=8858")


def test_show_prints_the_card_and_what_augmentation_does(cli: Cli):
    """The output has a row per layer, totals, remarks, and images next to augmented ones."""
    done = cli("show", "model=pyramid", "aug=rotate45", "data=digits")
    lines = done.out.splitlines()
    assert lines[0] == "model   pyramid on 28×28×1, 10 classes"
    assert any(line.split()[:4] == ["conv2d_1", "Conv2D", "22×22×32", "7,200"] for line in lines)
    assert any(line.split()[:1] == ["total"] and "8,858" in line for line in lines)
    assert any(line.startswith("remark  conv2d has no padding") for line in lines)
    assert sum("█" in line for line in lines) > 10
    assert not Path("outputs").exists()


def test_show_describes_a_run(cli: Cli):
    """`run=` selects it; the card is also in its directory."""
    run = cli("model=pyramid", small=True).run
    assert run is not None
    done = cli("show", "run=latest")
    assert "model   pyramid on 28×28×1, 10 classes" in done.out
    card = (run / "architecture.md").read_text(encoding="utf-8")
    assert "| conv2d_1 | Conv2D | 22×22×32 | 7,200 |" in card
    assert "- conv2d has no padding" in card


def test_a_frozen_layer_is_shown_as_such(cli: Cli):
    """The card and a remark show it, since frozen weights are rarely intended."""
    done = cli("show", "model=pyramid", "+model.layers.0.trainable=false", "data=digits")
    assert any(line.split()[:3] == ["conv2d", "Conv2D,", "frozen"] for line in done.out.splitlines())
    assert "remark  conv2d: frozen" in done.out


def test_an_argument_that_is_not_set_is_added_with_a_plus(cli: Cli, golden: Golden):
    """The message says how to add an argument that the layer or the optimizer accepts."""
    done = cli(
        "check", "model.layers.0.trainable=false", "model.layers.1.pool_size=3", "optimizer.clipvalue=1", status=2
    )
    for advice in (
        "+model.layers.0.trainable=false",
        "'model.layers.1={type: MaxPooling2D, pool_size: 3}'",
        "+optimizer.clipvalue=1",
    ):
        assert advice in done.err
    golden(done.err)
    cli(
        "check",
        "+model.layers.0.trainable=false",
        "model.layers.1={type: MaxPooling2D, pool_size: 3}",
        "+optimizer.clipvalue=1",
    )


def test_problems_that_keras_finds_in_a_sweep_follow_the_others(cli: Cli, golden: Golden):
    """The schema rejects one job, and Keras another."""
    words = ("-m", "model=linear,pyramid", "seed=0,-1", "data=digits", *BOTH)
    done = cli("check", *words, status=2)
    first, second = done.err.split("Keras found 1 more problem:\n")
    assert "1 problem in this sweep of 4 jobs" in first
    assert (
        "seed=-1: must be greater than or equal to 0, found -1  [model-linear_seed--1, model-pyramid_seed--1]"
        in first
    )
    assert "optimizer: Adam " in second
    golden(done.err)
    assert "[all jobs]" in second


def test_a_sweep_skips_invalid_jobs_on_request(cli: Cli):
    """`sweep.skip_invalid=true` reports the skipped jobs; a sweep without valid jobs is refused."""
    words = ("check", "-m", "model=linear,pyramid", "+model.layers.6.padding=same", "data=digits")
    assert "in this sweep of 2 jobs" in cli(*words, status=2).err
    done = cli(*words, "sweep.skip_invalid=true")
    assert "warning: 1 of 2 jobs are skipped: 1 problem in this sweep of 2 jobs" in done.out
    assert "no problems in any of 1 jobs" in done.out
    assert "seed=-1" in cli("check", "-m", "seed=-1,-2", "sweep.skip_invalid=true", "data=digits", status=2).err


def test_a_preset_with_another_model_causes_a_warning(cli: Cli, golden: Golden):
    """It is no error, as it may be intended."""
    warning = cli("check", "experiment=lenet5x5", "model=pyramid").out.splitlines()[0]
    assert warning.startswith("warning: experiment=lenet5x5 ")
    golden(warning)
    assert "warning" not in cli("check", "experiment=lenet5x5").out


def test_a_sweep_in_which_keras_finds_nothing_more(cli: Cli):
    """The output ends after the problems found without Keras."""
    done = cli("check", "-m", "model=linear,pyramid", "optimizer.learning_rate=0.1,fast", "data=digits", status=2)
    assert len(done.err.splitlines()) == 2


def test_a_launcher_that_names_code_is_refused(cli: Cli, tmp_path: Path):
    """Nothing is created, and its code is not run."""
    folder = Path("mine/hydra/launcher")
    folder.mkdir(parents=True)
    basic = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
    inner = f"x: {{_target_: os.mkdir, path: {tmp_path / 'made'}}}"
    for text in (f"_target_: {basic}\n{inner}\n", "_target_: os.getcwd\n"):
        (folder / "evil.yaml").write_text(text)
        said = cli("--config-dir", "mine", "-m", "hydra/launcher=evil", "seed=0,1", small=True, status=2).err
        assert "hydra.launcher: a config must not name code to run" in said
    assert not Path("outputs").exists()
    assert not (tmp_path / "made").exists()


LOGGING = "{version: 1, root: {handlers: [f]}, handlers: {f: {class: logging.FileHandler, filename: made}}}"


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ("{job: {env_set: {MLFLOW_TRACKING_URI: 'http://127.0.0.1:9/'}}}", "job.env_set.MLFLOW_TRACKING_URI"),
        (f"{{job_logging: {LOGGING}}}", "job_logging.handlers.f.filename"),
        (f"{{hydra_logging: {LOGGING}}}", "hydra_logging.handlers.f.filename"),
        ("{launcher: {setup: [touch made]}}", "launcher.setup.0"),
        ('{launcher: {partition: "a\\ntouch made"}}', "launcher.partition"),
        ("{launcher: {partition: '${hydra.sweeper.params.x}'}}", "launcher.partition"),
        ("{launcher: {submitit_folder: made}}", "launcher.submitit_folder"),
        ("{launcher: {additional_parameters: {wrap: touch made}}}", "launcher.additional_parameters.wrap"),
    ],
)
def test_an_option_file_cannot_set_what_could_run_commands(cli: Cli, settings: str, path: str):
    """The same settings of a launcher are accepted from the command line."""
    Path("mine/experiment").mkdir(parents=True)
    slurm = "defaults:\n  - override /hydra/launcher: submitit_slurm\n"
    Path("mine/experiment/theirs.yaml").write_text(f"# @package _global_\n{slurm}hydra: {settings}\n")
    words = ("--config-dir=mine", "experiment=theirs", "data=digits")
    for flags in (["check", "-m", "seed=0,1"], ["train", "--help"]):
        assert f"hydra.{path}: must not be set by an option file" in cli(*flags, *words, status=2).err
    assert not Path("made").exists()
    if path == "launcher.setup.0":
        cli("check", "-m", *words, "seed=0,1", "hydra.launcher.setup=[touch made]")


def test_an_option_of_hydra_itself_is_not_attributed_to_an_option_file(cli: Cli):
    """An option with the same settings as Hydra's own is harmless, even if it was chosen in vain."""
    Path("mine").mkdir()
    words = ("check", "-m", "seed=0,1", "data=digits", "hydra/job_logging=default", "--config-dir=mine")
    assert "1 problem in this sweep" in cli(*words, status=2).err
    Path("mine/hydra/job_logging").mkdir(parents=True)
    Path("mine/hydra/job_logging/theirs.yaml").write_text(LOGGING)
    words = ("check", "-m", "seed=0,1", "data=digits", "hydra/job_logging=theirs", "--config-dir=mine")
    assert "hydra.job_logging.handlers.f.filename: must not be set" in cli(*words, status=2).err


def test_an_option_file_contains_plain_values_only(cli: Cli):
    """OmegaConf's loader would turn some tags into objects, such as the path of a file to write."""
    Path("mine/experiment").mkdir(parents=True)
    Path("mine/experiment/theirs.yaml").write_text(
        "# @package _global_\ndata:\n  limit: !!int 100\n  dir: !!python/object/apply:pathlib.PosixPath [made]\n"
    )
    said = cli("check", "--config-dir=mine", "experiment=theirs", "data=digits", status=2).err
    assert "theirs.yaml:4  the tag !!python/object/apply:pathlib.PosixPath is not that of a plain value" in said


def test_an_option_file_can_size_a_launcher(cli: Cli):
    """It can also name a partition, and select the values of a sweep."""
    Path("mine/hydra/launcher").mkdir(parents=True)
    Path("mine/hydra/launcher/mine.yaml").write_text(
        "defaults:\n  - submitit_slurm\n  - _self_\npartition: short\ncpus_per_task: 2\n"
    )
    cli("check", "-m", "--config-dir=mine", "hydra/launcher=mine", "seed=0,1", "data=digits")


def test_errors_of_keras_are_no_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """This includes Ctrl-C while Keras is checking."""
    from mnist_exp.engine import preparation

    for error in (KeyboardInterrupt(), RuntimeError("no")):

        def fail(*_: object, **__: object) -> None:
            raise error  # noqa: B023

        monkeypatch.setattr(preparation, "set_up", fail)
        assert "must be greater than 0" in cli("check", "optimizer.learning_rate=-1", status=2).err


CONV = "{type: Conv2D, filters: 4, kernel_size: 3"
COLUMNS = "{class_name: OrthogonalRegularizer, config: {mode: columns}}"


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        (["Flatten", "{type: Dense, units: 12, activity_regularizer: orthogonal_regularizer}", *END[1:]],
         ["model.layers.1.activity_regularizer: OrthogonalRegularizer cannot be computed for outputs of any×12"]),
        ([f"{CONV}, activity_regularizer: {COLUMNS}}}", *END],
         ["model.layers.0.activity_regularizer: OrthogonalRegularizer cannot be computed for outputs of any×26×26×4"]),
        ([f"{CONV}, kernel_regularizer: orthogonal_regularizer, bias_regularizer: orthogonal_regularizer}}", *END],
         ["model.layers.0.bias_regularizer: OrthogonalRegularizer cannot be computed for a bias of 4",
          "model.layers.0.kernel_regularizer: OrthogonalRegularizer cannot be computed for a kernel of 3×3×1×4"]),
        (["Flatten", "{type: Dense, units: 12, kernel_regularizer: orthogonal_regularizer, bias_regularizer: l2,"
          f" activity_regularizer: {COLUMNS}}}", *END[1:]], []),
        ([f"{CONV}, activity_regularizer: l2, kernel_regularizer: l1}}", *END], []),
    ],
)  # fmt: skip
def test_penalties_that_need_a_matrix_are_checked(cli: Cli, layers: list[str], found: list[str]):
    """On weights, and on outputs of a batch of any size, as training has them."""
    done = cli("check", mine(*layers), "model=mine", status=2 if found else 0)
    assert [line.split("  ")[-1] for line in done.err.splitlines() if "_regularizer" in line] == found
