"""Plug-ins: what they register is checked, named in configs, and part of the fingerprint; nothing else is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Cli

from mnist_exp import registrations
from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import check_request, compose_checked
from mnist_exp.engine import plugins
from mnist_exp.errors import Problem, RequestError
from mnist_exp.runs.fingerprint import as_values, fingerprint
from mnist_exp.runs.result import DataRecord, PluginRecord, RunResult

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "plugin.py"


@pytest.fixture(autouse=True)
def _no_plugins() -> Iterator[None]:
    registrations.clear()
    yield
    registrations.clear()


def write(content: str, name: str = "mine.py") -> str:
    Path(name).write_text(f"import keras\nfrom mnist_exp import plugin\n\n{content}\n", encoding="utf-8")
    return name


def problems_of(*references: str) -> list[Problem]:
    with pytest.raises(RequestError) as caught:
        plugins.load(references)
    assert not registrations.loaded()
    assert caught.value.exit_status == 2
    return list(caught.value.problems)


def check(*overrides: str) -> dict[str, str]:
    """Return the code of each problem of a config, by path."""
    checked = check_request(Request("train", ("data=digits", "model=linear", *overrides)), TrainConfig)
    return {problem.path: problem.code for problem in checked.problems}


@pytest.mark.parametrize(
    ("content", "place", "code"),
    [
        ("import no_such_module", "mine.py:4", "unusable"),
        ("def f(:", "mine.py:4", "unusable"),
        ("raise SystemExit(0)", "mine.py:4", "unusable"),
        ("x = 1", "mine.py", "missing-value"),
        ("@plugin.layer()\nclass Dense(keras.Layer): pass", "mine.py", "given-twice"),
        ("@plugin.layer()\nclass Repeat(keras.Layer): pass", "mine.py", "given-twice"),
        ("@plugin.loss()\ndef poisson(t, p): pass", "mine.py", "given-twice"),
        ("@plugin.loss()\ndef mse(t, p): pass", "mine.py", "given-twice"),
        ("@plugin.schedule()\ndef cosine(progress): pass", "mine.py", "given-twice"),
        ("@plugin.optimizer()\nclass Adam(keras.optimizers.SGD): pass", "mine.py", "given-twice"),
        ("for _ in 1, 2:\n    @plugin.metric()\n    def doubt(t, p): pass", "mine.py", "given-twice"),
        ("@plugin.layer()\nclass Mine: pass", "mine.py", "wrong-type"),
        ("@plugin.layer()\ndef mine(x): pass", "mine.py", "wrong-type"),
        ("@plugin.optimizer()\nclass Mine(keras.Layer): pass", "mine.py", "wrong-type"),
        ("@plugin.callback()\nclass Mine: pass", "mine.py", "wrong-type"),
        ("@plugin.schedule()\nclass Mine: pass", "mine.py", "wrong-type"),
        ("plugin.loss()(lambda t, p: p)", "mine.py", "wrong-type"),
    ],
)  # fmt: skip
def test_an_unusable_plugin_is_refused(content: str, place: str, code: str):
    """One problem says which file, and for errors in its code which line; nothing of it stays registered."""
    [problem] = problems_of(write(content))
    assert (problem.place, problem.code) == (place, code)


def test_all_problems_of_plugins_are_reported_together(cli: Cli):
    """A missing file, a missing package and a wrong file are one answer with exit status 2."""
    wrong = write("@plugin.layer()\nclass Mine: pass")
    places = [problem.place for problem in problems_of("missing.py", "no-such-package", wrong)]
    assert places == ["missing.py", "plug-in no-such-package", "mine.py"]
    said = cli("check", "--plugin", "missing.py", f"--plugin={wrong}", status=2).err
    assert "2 problems in the plug-ins" in said
    assert not Path("outputs").exists()


def test_two_plugins_must_not_share_a_name():
    """The names of files and those of what they register are unique."""
    first = write("@plugin.layer()\nclass Mine(keras.Layer): pass")
    Path("more").mkdir()
    again = write("@plugin.layer()\nclass Other(keras.Layer): pass", "more/mine.py")
    assert [problem.code for problem in problems_of(first, again)] == ["given-twice"]
    second = write("@plugin.augmentation()\nclass Mine(keras.Layer): pass", "second.py")
    [problem] = problems_of(first, second)
    assert (problem.place, problem.code) == ("second.py", "given-twice")


@pytest.mark.parametrize(
    "words", [("runs", "--plugin", "mine.py"), ("train", "--plugin"), ("compare", "--plugin=mine.py")]
)
def test_a_flag_without_effect_is_refused(cli: Cli, words: tuple[str, ...]):
    """Commands that need no plug-in load none."""
    Path("mine.py").write_text("raise AssertionError('loaded')")
    assert "--plugin" in cli(*words, status=2).err


def test_nothing_is_loaded_unless_named(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """Neither a config nor a folder that names a file loads it; a command's plug-ins do not outlive it."""
    Path("mine.py").write_text("raise AssertionError('loaded')")
    Path("plugins").mkdir()
    Path("plugins/mine.py").write_text("raise AssertionError('loaded')")
    said = cli("check", "data=digits", "model=linear", "model.layers=[mine.py]", status=2).err
    assert "there is no layer 'mine.py'" in said
    said = cli("check", "data=digits", "+plugin=mine.py", "+training.plugins=[mine.py]", status=2).err
    assert "AssertionError" not in said
    monkeypatch.setenv("MNIST_EXP_PLUGINS", "mine.py")
    assert "mine.py:1" in cli("check", "data=digits", status=2).err
    assert "AssertionError" not in cli("runs").err


ALL = (
    "model.layers=[{type: ChannelScale, initial: 0.9, noise: 0.1}, Flatten, {type: Dense, units: 10}, Softmax]",
    "aug.layers=[{type: RandomDimming, lowest: 0.4}]", "training.loss=sparse_focal",
    "training.metrics=[mean_doubt]", "training.callbacks=[{type: WeightNorms, digits: 3}]",
    "schedule.type=restarts", "+schedule.arguments={periods: 2}",
    "optimizer.type=SignDescent", "+optimizer.momentum=0.8", "optimizer.learning_rate=0.005",
)  # fmt: skip


def test_configs_use_the_names():
    """One of each kind passes the checks, which without the plug-in report each name."""
    plugins.load([str(EXAMPLE)])
    assert check(*ALL, "training.select={metric: val/mean_doubt, mode: min}") == {}
    registrations.clear()
    assert check(*ALL).keys() >= {
        "model.layers.0.type", "aug.layers.0.type", "training.loss", "training.metrics.0", "training.callbacks.0.type",
        "schedule.type", "optimizer.type",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("override", "path", "code"),
    [
        ("model.layers=[{type: ChannelScale, nois: 1}]", "model.layers.0.nois", "unknown-argument"),
        ("model.layers=[{type: ChannelScale, noise: much}]", "model.layers.0.noise", "wrong-type"),
        ("model.layers=[ChanelScale]", "model.layers.0.type", "unknown-layer"),
        ("model.layers=[RandomDimming]", "model.layers.0.type", "unknown-layer"),
        ("aug.layers=[ChannelScale]", "aug.layers.0.type", "unknown-layer"),
        ("aug.layers=[{type: RandomDimming, seed: 1}]", "aug.layers.0.seed", "unknown-argument"),
        ("training.loss=sparse_focl", "training.loss", "unknown-option"),
        ("training.metrics=[mean_dout]", "training.metrics.0", "unknown-option"),
        ("training.callbacks=[WeightNorm]", "training.callbacks.0", "unknown-option"),
        ("training.callbacks=[{type: WeightNorms, digit: 1}]", "training.callbacks.0.digit", "unknown-argument"),
        ("training.callbacks=[{type: WeightNorms, digits: many}]", "training.callbacks.0.digits", "wrong-type"),
        ("training.callbacks=[3]", "training.callbacks.0", "invalid-entry"),
        ("schedule.type=restart", "schedule.type", "unknown-option"),
        ("+schedule.arguments={period: 2}", "schedule.arguments", "unknown-argument"),
        ("optimizer.type=SignDescend", "optimizer.type", "unknown-option"),
    ],
)  # fmt: skip
def test_arguments_are_checked_by_signature(override: str, path: str, code: str):
    """Misspelled names and arguments, and values of other types than the defaults, have a place and a code."""
    plugins.load([str(EXAMPLE)])
    assert check(override)[path] == code


def test_a_misspelled_schedule_argument_is_reported():
    """It is compared with the parameters of the function, except for the first."""
    plugins.load([str(EXAMPLE)])
    found = check("schedule.type=restarts", "+schedule.arguments={period: 2, progress: 1}")
    assert found == {
        "schedule.arguments.period": "unknown-argument",
        "schedule.arguments.progress": "unknown-argument",
    }


def of(*overrides: str) -> str:
    config, _ = compose_checked(Request("train", ("data=digits", "model=linear", *overrides)), TrainConfig)
    return fingerprint(as_values(config), data_sha256="d", kind="cpu", precision="float32", threads=2)


def test_the_source_is_part_of_the_fingerprint():
    """It counts if the config uses a name of the plug-in, and only then."""
    without = of()
    file = write("@plugin.metric()\nclass MyDoubt(keras.metrics.Mean): pass")
    plugins.load([file])
    assert of() == without
    before = of("training.metrics=[my_doubt]")
    assert of("training.metrics=[MyDoubt]") != of()
    write("@plugin.metric()\nclass MyDoubt(keras.metrics.Mean): pass  # changed")
    plugins.load([file])
    assert of() == without
    assert of("training.metrics=[my_doubt]") != before


def test_without_plugins_the_new_keys_do_not_count():
    """The fingerprint of a config that lacks them is the same."""
    config, _ = compose_checked(Request("train", ("data=digits", "model=linear")), TrainConfig)
    values = as_values(config)
    del values["training"]["callbacks"], values["schedule"]["arguments"]
    assert fingerprint(values, data_sha256="d", kind="cpu", precision="float32", threads=2) == of()


def test_a_run_asks_for_its_plugins_and_compares_them():
    """It names what is missing, and what has changed."""
    file = write("@plugin.schedule()\ndef half(progress): return 0.5 + 0 * progress")
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    record = PluginRecord(name="mine", source="mine.py", sha256=digest)
    result = RunResult(started=0, status="killed", data=DataRecord(), plugins=[record])
    with pytest.raises(RequestError) as caught:
        plugins.require(result, "outputs/runs/x")
    assert "--plugin mine.py" in str(caught.value)
    plugins.load([file])
    plugins.require(result, "outputs/runs/x")
    assert plugins.changed_since(result) == []
    Path(file).write_text(Path(file).read_text() + "# changed\n")
    plugins.load([file])
    assert len(plugins.changed_since(result)) == 1


def test_workers_refuse_a_plugin_that_has_changed():
    """A job of a sweep never trains with other code than the one that was planned."""
    file = write("@plugin.schedule()\ndef half(progress): return 0.5 + 0 * progress")
    plugins.load([file])
    planned = registrations.loaded()
    registrations.clear()
    plugins.load_same(planned)
    assert registrations.loaded() == planned
    registrations.clear()
    Path(file).write_text(Path(file).read_text() + "# changed\n")
    with pytest.raises(RequestError):
        plugins.load_same(planned)


def test_an_installed_package_is_loaded_by_name(monkeypatch: pytest.MonkeyPatch):
    """The name is that of its entry point; its digest covers all its Python files."""
    Path("installed/my_layers").mkdir(parents=True)
    write("from my_layers.more import Mine", "installed/my_layers/__init__.py")
    more = write("@plugin.layer()\nclass Mine(keras.Layer): pass", "installed/my_layers/more.py")
    Path("installed/my_layers-1.dist-info").mkdir()
    Path("installed/my_layers-1.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: my-layers\nVersion: 1\n"
    )
    Path("installed/my_layers-1.dist-info/entry_points.txt").write_text(
        "[mnist_exp.plugins]\nlayers = my_layers\n"
    )
    monkeypatch.syspath_prepend(str(Path("installed").resolve()))
    plugins.load(["layers"])
    [plugin] = registrations.loaded()
    assert (plugin.name, sorted(plugin.sources)) == ("layers", ["__init__.py", "more.py"])
    assert check("model.layers=[Mine, Flatten, {type: Dense, units: 10}, Softmax]") == {}
    Path(more).write_text(Path(more).read_text() + "# changed\n")
    plugins.load(["layers"])
    assert registrations.loaded()[0].sha256 != plugin.sha256
    [problem] = problems_of("layer")
    assert problem.code == "not-found"


@pytest.mark.parametrize(
    ("content", "override", "path"),
    [
        ("@plugin.schedule()\ndef few(progress): return progress[:1]", "schedule.type=few", "schedule.type"),
        ("@plugin.schedule()\ndef low(progress): return -progress", "schedule.type=low", "schedule.type"),
        ("@plugin.schedule()\ndef bad(progress): return 1 / 0", "schedule.type=bad", "schedule.type"),
        ("@plugin.callback()\nclass Bad(plugin.Callback):\n    def __init__(self): 1 / 0",
         "training.callbacks=[Bad]", "training.callbacks.0"),
        ("@plugin.loss()\ndef sparse_bad(t, p): return 1 / 0", "training.loss=sparse_bad", "training.loss"),
        ("@plugin.augmentation()\nclass Cut(keras.Layer):\n    def call(self, x): return x[:, 1:]",
         "aug.layers=[Cut]", "aug.layers.0"),
    ],
)  # fmt: skip
def test_what_keras_rejects_is_reported_at_its_key(cli: Cli, content: str, override: str, path: str):
    """Errors in a plug-in's code are problems of the config, before anything is created."""
    file = write(content)
    done = cli("check", "--plugin", file, "data=digits", "model=linear", override, "format=json", status=2)
    [problem] = json.loads(done.out)["problems"]
    assert (problem["path"], problem["code"]) == (path, "rejected-by-keras")
