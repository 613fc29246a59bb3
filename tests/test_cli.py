"""The command line: verbs, help, exit statuses, and its imports."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import PATIENCE, Cli
from support.documents import PAGES
from support.golden import Golden

from mnist_exp import help_pages
from mnist_exp.cli import VERBS, _verb_first, main
from mnist_exp.config.hydra_adapter import conf_folder, describe_options
from mnist_exp.config.key_lines import key_lines
from mnist_exp.config.overrides import Request, parse, request_from
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import check_request
from mnist_exp.report.markdown import print_page
from mnist_exp.sweeps.grid import expand


def test_help_lists_the_verbs(cli: Cli):
    """Each is listed with its description."""
    out = cli("--help").out
    for verb, does in VERBS.items():
        assert f"{verb} " in out
        assert does in out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_help(cli: Cli, verb: str):
    """It shows the verb's keys; those of a command without groups with their meanings."""
    out = cli(verb, "--help").out
    assert f"mnist-exp {verb}" in out
    assert "outputs: outputs" in out or "  outputs=outputs " in out or verb == "schema"
    if verb not in {"train", "resume", "show", "check", "dataset", "lr_find", "tune"}:
        keys = [line for line in key_lines(conf_folder() / f"{verb}.yaml") if line.comment]
        assert keys
        assert all(f"  {key.path}={key.value.replace(', ', ',')}" in out for key in keys)
        assert all(key.comment in " ".join(out.split()) for key in keys)
    [topic] = re.findall("^Documentation: mnist-exp help (.+)$", out, re.MULTILINE)
    assert topic in help_pages.list_topics(VERBS)


def test_help_prints_the_pages_of_the_documentation(capsys: pytest.CaptureFixture[str]):
    """`help TOPIC` prints a page of docs/, and `help` lists the topics."""
    pages = {page.stem.lower(): page.read_text(encoding="utf-8") for page in PAGES}

    def print_help(*words: str) -> str:
        assert main(["help", *words]) == 0
        return capsys.readouterr().out

    assert {topic: print_help(f"{topic}.md") for topic in pages} == pages
    assert print_help("Data") == pages["data"]
    listed = " ".join(print_help().partition("Topics: ")[2].split()).split(", ")
    assert listed == [f"{topic}.md" if topic in VERBS else topic for topic in sorted(pages)]


def test_an_unknown_topic_is_refused(cli: Cli):
    """The message has the nearest topic or command, and all topics."""
    assert "did you mean 'sweeps'?" in cli("help", "sweps", status=2).err
    err = cli("help", "trian", status=2).err
    assert "did you mean 'train'?" in err
    assert "glossary" in err


def test_help_on_a_terminal_is_rendered(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Headings and code are shown without Markdown's marks."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_page("# Title\n\nSee [the data](data.md).\n\n```console\n$ mnist-exp\n```\n")
    out = capsys.readouterr().out
    assert "data.md" in out
    assert "#" not in out
    assert "```" not in out


def test_versions_are_printed(cli: Cli):
    """They are those of this package, Keras, TensorFlow, Hydra and MLflow."""
    out = cli("--version").out
    for name in ("mnist-exp", "keras", "tensorflow", "hydra-core", "mlflow"):
        assert f"{name} {importlib.metadata.version(name)}\n" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["trian"],
            "no such command (did you mean 'train'?); the commands are train, resume, show, check, runs, dataset, ui",
        ),
        (["frobnicate"], "frobnicate: no such command; the commands are"),
        (["model=linear", "runs"], "runs: expected key=value (only the first word can be a command)"),
        (["data.limit", "=", "500"], "data.limit = 500: there must be no spaces around '='"),
        (["data.limit", "=500"], "data.limit =500: there must be no spaces around '='"),
        (["data.limit=", "500"], "data.limit= 500: there must be no spaces around '='"),
        (["model=linear", "runs", "==", "x"], "runs == x: there must be no spaces around '='"),
        (["seed", "=", "1", "model", "=", "mlp"], "model = mlp: there must be no spaces around '='"),
        (["model==mlp"], "model==mlp: there must be one '=', not several: model=mlp"),
        (["--confg-dir", "x"], "--confg-dir x: no such flag (did you mean '--config-dir'?)"),
        (
            ["--epochs=3", "modl=linear"],
            "--epochs=3: no such flag (--hydra-help lists the flags); write keys without dashes, as in training.epochs=5",
        ),
        (["--epochs", "3", "model=linear"], "--epochs 3: no such flag"),
        (["optimizer.learning_rate=0,01"], "needs -m; for a decimal number, write 0.01"),
        (["seed=0-4"], "seed=0-4: must be an integer (for several seeds: -m 'seed=range(0,5)'), found \"0-4\""),
        (["seed=4-0"], 'seed=4-0: must be an integer, found "4-0"'),
        (["seed=0,1"], "seed=0,1: several values make a sweep, which needs -m\n"),
        (
            ["save=keras,h5"],
            "save=keras,h5: several values make a sweep, which needs -m; for a list, write 'save=[keras,h5]'\n",
        ),
        (["export", "format=onnx,h5"], "format=onnx,h5: must be one value, or a list: 'format=[onnx,h5]'\n"),
        (["compare", "plots.dpi=90,180"], "plots.dpi=90,180: must be one value\n"),
        (["-m", "seed=0,1,", "model=linear"], "seed=0,1,: a value is missing next to a comma; separate"),
        (["-m", "seed=0,,1", "model=linear"], "seed=0,,1: a value is missing next to a comma; separate"),
        (["compare", "nokey=1,2"], "nokey=1,2: no such key"),
        (["model.layers.x=0,1"], "model.layers.x=0,1: several values make a sweep"),
        (["--epochs", "-1"], "--epochs -1: no such flag"),
        (["optimizer.lr=0.1"], "optimizer.lr=0.1: no such key (did you mean 'optimizer.learning_rate'?)"),
        (["--config-dir", "nope"], "--config-dir nope: there is no such folder"),
        (["from=nope"], "nope: there is no such run in /"),
        (["data.dir=/nope"], "data.dir=/nope: there is no such folder"),
        (["device=gpu"], "no GPU is visible"),
        (["ui", "tracking=none"], "nothing is logged to MLflow"),
        (["ui"], "there is no MLflow store here yet"),
        (["runs", "limit=0"], "limit=0: must be greater than or equal to 1"),
        (
            ["-m", "--cfg", "job"],
            "Only one of --run, --multirun, --cfg, --info and --shell_completion can be specified",
        ),
        (["model=linear", "--cfg", "job", "seeed=1"], "seeed=1: no such key or group (did you mean 'seed'?)"),
    ],
)
def test_a_wrong_request_ends_with_2_and_creates_nothing(cli: Cli, words: list[str], told: str):
    """There is one clear message and no traceback."""
    done = cli(*words, status=2)
    assert told in done.err
    assert done.err.startswith("mnist-exp: ")
    assert list(Path().iterdir()) == []


def test_a_hidden_option_is_reported(cli: Cli, home_data: list[str]):
    """A user's option with a built-in name causes a warning; the folder's other options work."""
    Path("mine/model").mkdir(parents=True)
    for name in ("pyramid", "other"):
        Path(f"mine/model/{name}.yaml").write_text(f"name: {name}\nlayers: [Flatten]\n")
    done = cli("--config-dir", "mine", "model=pyramid", *home_data, "seed=-1", status=2)
    assert (
        done.out
        == "warning: mine/model/pyramid.yaml: hidden by the built-in option of the same name; rename the file\n"
    )


def test_an_unwritable_output_folder_is_reported(cli: Cli, home_data: list[str]):
    """Nothing is trained."""
    Path("file").write_text("")
    done = cli("model=linear", *home_data, "outputs=file", status=2)
    assert "outputs: file/runs cannot be written: Not a directory" in done.err


def test_an_unexpected_error_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """HYDRA_FULL_ERROR=1 adds its traceback."""
    from mnist_exp.commands import runs

    def broken(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(runs, "list_runs", broken)
    done = cli("runs", status=1)
    assert (
        done.err == "mnist-exp: unexpected ZeroDivisionError: by zero\nHYDRA_FULL_ERROR=1 shows the traceback.\n"
    )
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ZeroDivisionError):
        cli("runs")


def test_a_damaged_result_does_not_hide_the_runs(cli: Cli):
    """This holds for any content; the run cannot be a starting point."""
    for number, text in enumerate(['{"status": 3, "started": "x"}', "null", "[]", '{"status"']):
        Path(f"outputs/runs/bad{number}").mkdir(parents=True)
        Path(f"outputs/runs/bad{number}/result.json").write_text(text)
    assert cli("runs").out.count("damaged") == 8  # as a status, and with the file
    assert "result.json: damaged" in cli("from=outputs/runs/bad1", status=2).err


@pytest.mark.skipif(
    not __file__.isascii(), reason="Python in an ASCII locale cannot read an editable installation's .pth"
)
def test_an_ascii_terminal_is_no_reason_to_fail():
    """Characters that it cannot show are replaced."""
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    done = subprocess.run(
        [sys.executable, "-m", "mnist_exp", "--help"],
        capture_output=True,
        env=environment,
        timeout=30 * PATIENCE,
        check=True,
    )
    assert b"group=option ?" in done.stdout


def test_runs_are_listed(cli: Cli):
    """The table has name, status, data, epochs and accuracies; an empty folder is reported."""
    assert "There are no runs in outputs" in cli("runs").out
    done = cli(small=True)
    out = cli("runs").out
    assert done.run is not None
    assert done.run.name in out
    for words in ("finished", "2/2", f"{done.result['test']['accuracy']:.2%}".replace("%", " %")):
        assert words in out
    cli("name=second", small=True)
    assert "1 older run" in cli("runs", "limit=1").out


def test_the_composed_config_is_shown(cli: Cli):
    """Hydra's --cfg and --info work for each verb."""
    out = cli("train", "model=pyramid", "--cfg", "job", "--package", "model").out
    assert "name: pyramid" in out
    assert "Defaults List" in cli("--info", "defaults").out


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("model=py", "model=pyramid"),
        ("train model=py", "model=pyramid"),
        ("runs lim", "limit="),
        ("lr_find find.st", "find.steps="),
        ("lr_find optimizer=ada", "optimizer=adamw"),
        ("dataset convert data=fash", "data=fashion_mnist"),
        ("dataset verify data.lim", "data.limit="),
    ],
)
def test_completion_knows_verbs(line: str, completed: str):
    """The shell passes the whole line; the verb determines the completed keys."""
    line = f"mnist-exp {line}"
    words = ["-m", "mnist_exp", *line.split()[1:-1], "-sc", "query=bash"]
    environment = {
        **os.environ,
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        env=environment,
        timeout=30 * PATIENCE,
        check=True,
    )
    assert completed in done.stdout.split()


def test_help_for_a_sweep_shows_the_config_without_the_swept_keys(cli: Cli):
    """Hydra itself would refuse the values, as if `-m` were missing."""
    assert cli("-m", "seed=0,1", "model=linear,mlp", "--help").out == cli("train", "--help").out


def test_help_and_simple_errors_import_nothing_heavy():
    """--help, --version and problems found without Keras need neither TensorFlow nor MLflow.

    Keras is not asked if there are other mistakes.
    """
    for words in (
        ["--help"],
        ["help", "data"],
        ["--version"],
        ["train", "--help"],
        ["runs"],
        ["seeed=1"],
        ["model=pyramid", "--cfg", "job"],
    ):
        code = (
            "import sys; from mnist_exp.cli import main; from mnist_exp.engine import preparation;"
            "preparation._problems_with_keras = lambda *_, **__: (); main(sys.argv[1:]);"
            "heavy = {'tensorflow', 'keras', 'mlflow', 'matplotlib', 'sklearn', 'scipy'} & set(sys.modules);"
            "sys.exit(f'imported {heavy}' if heavy else 0)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            capture_output=True,
            text=True,
            timeout=30 * PATIENCE,
            check=False,
        )
        assert done.returncode == 0, (words, done.stderr)


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (["help"], ["--help"]),
        (["help", "runs"], ["runs", "--help"]),
        (["help", "model=mlp"], ["model=mlp", "--help"]),
        (["help", "data"], ["--help", "data"]),
        (["--config-dir", "mine", "check", "seed=1"], ["check", "--config-dir", "mine", "seed=1"]),
        (["-m", "train", "seed=0,1"], ["train", "-m", "seed=0,1"]),
        (["--config-dir", "runs", "seed=1"], ["--config-dir", "runs", "seed=1"]),
        (["-m", "seed=0,1"], ["-m", "seed=0,1"]),
    ],
)
def test_help_is_a_word_and_flags_may_precede_the_verb(words: list[str], same: list[str]):
    """As Hydra's users type it; the value of a flag is not taken for a verb."""
    assert _verb_first(words) == same


@pytest.mark.parametrize(
    "key", ["hydra.run.dir", "hydra.sweep.dir", "hydra.job.name", "hydra.verbose", "hydra/job_logging"]
)
def test_keys_of_hydra_without_effect_are_refused(cli: Cli, key: str):
    """The message says what to use instead, along with all other problems."""
    err = cli(f"{key}=x", "seeed=1", status=2).err
    assert f"{key}=x: has no effect; " in err
    assert "seeed=1" in err


def test_a_preset_may_have_a_plus_sign():
    """As in configs of Hydra's users, in which no experiment is chosen by default."""
    assert request_from("train", parse(["+experiment=fast"])).overrides == ("experiment=fast",)


@pytest.mark.parametrize(
    ("word", "override"),
    [
        ("~training.ema", "training.ema=null"),
        ("~model.layers.1", "model.layers.1=null"),
        ("~aug", "aug=none"),
        ("~debug", "debug=none"),
        ("~model", "~model"),
        ("~seed=0", "~seed=0"),
        ("++experiment=fast", "experiment=fast"),
    ],
)
def test_removing_a_key_sets_it_to_null(word: str, override: str):
    """`~key` is null, and `~group` the option `none` if there is one."""
    assert request_from("train", parse([word])).overrides == (override,)


def test_what_cannot_be_removed_is_refused(golden: Golden):
    """Keys that need a value, and groups that need an option."""
    words = ["data=digits", "~model", "~seed", "~training.epochs=5", "~training.metrics", "~nokey"]
    found = check_request(request_from("train", parse(words)), TrainConfig).problems
    assert {problem.path for problem in found} == {"model", "seed", "training.epochs", "training.metrics", "nokey"}
    assert {problem.place for problem in found} == {"command line"}
    golden("\n".join(problem.message for problem in found))


def test_abbreviations_are_spelled_out():
    """Keras' abbreviations of losses and metrics give the config, and so the fingerprint, of the full names."""
    short, full = (
        check_request(Request("train", ("data=digits", *overrides)), TrainConfig).unwrap()[0]
        for overrides in (
            ("training.loss=mse", "training.metrics=[MAE,kld]"),
            ("training.loss=mean_squared_error", "training.metrics=[mean_absolute_error,kl_divergence]"),
        )
    )
    assert short == full


def test_a_dict_with_another_key_can_be_swept_over_a_list_entry():
    """The values replace the whole entry."""
    values = "{type: Dense, units: 5},{type: Dense, units: 6, activation: relu}"
    grid = expand(Request("train", ("data=digits", "model=linear", f"model.layers.1={values}"), multirun=True))
    layers = [
        check_request(Request("train", job), TrainConfig).unwrap()[0].model.layers.entries[1] for job in grid.jobs
    ]
    assert layers == [
        {"type": "Dense", "units": 5},
        {"type": "Dense", "units": 6, "activation": "relu"},
    ]


def test_help_describes_options(tmp_path: Path):
    """Each with the first sentence of its file, the user's own too."""
    (tmp_path / "aug").mkdir()
    (tmp_path / "aug" / "mine.yaml").write_text(
        "# @package _global_\n# Tilts\n# by 0.5 degrees. No more.\nname: mine\n"
    )
    help_text = "aug: mine, none\nmodel: linear\n\nThe composed config (key=value):\n\nseed: 0, 1\n"
    assert describe_options(help_text, str(tmp_path)).splitlines() == [
        "aug",
        "  mine  Tilts by 0.5 degrees.",
        "  none  No augmentation.",
        "model",
        "  linear  Softmax regression, the simplest baseline: 7,850 parameters on 28×28 images.",
        "",
        "The composed config (key=value):",
        "",
        "seed: 0, 1",
    ]


def test_keys_without_a_value_or_with_blanks_are_explained(cli: Cli):
    """Only keys are: the name of a file is no key."""
    assert "data.limit: no such command (to set a key, write data.limit=…)" in cli("data.limit", "3", status=2).err
    assert "to set a key" not in cli("mine.py", status=2).err
    assert "a key must not contain blanks" in cli("training.batch size=8", status=2).err
    assert "'name=\"my run!\"'" in cli("name=my run!", status=2).err


@pytest.mark.parametrize(("limit", "kept"), [(100, True), (100_000, False)])
def test_check_states_that_the_data_is_limited(cli: Cli, limit: int, kept: bool):
    """The sizes are those of the whole data set."""
    assert ("data.limit=100 keeps a part" in cli("check", "data=digits", f"data.limit={limit}").out) == kept
