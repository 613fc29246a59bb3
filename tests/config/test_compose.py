"""Composition: options and overrides become one config, and all problems are reported together."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from support.golden import Golden

from mnist_exp.config.hydra_adapter import conf_folder
from mnist_exp.config.overrides import Request, parse, request_from
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import check_request, compose_checked
from mnist_exp.errors import Problem, RequestError
from mnist_exp.sweeps.grid import expand


def config(*overrides: str, **request: object) -> TrainConfig:
    return compose_checked(Request("train", overrides, **request), TrainConfig)[0]  # type: ignore[arg-type]


def problems(*overrides: str, **request: object) -> list[tuple[str, str]]:
    with pytest.raises(RequestError) as caught:
        config(*overrides, **request)
    return [(problem.place, problem.message) for problem in caught.value.problems]


def test_groups_and_values_compose():
    """Groups and values are set by name, and parameters reach the layers that refer to them."""
    found = config("model=pyramid", "aug=rotate45", "model.width=24", "optimizer.learning_rate=0.01")
    assert found.model.name == "pyramid"
    assert found.model.layers.entries[0]["filters"] == 24
    assert found.aug.rotation_range == 45
    assert found.optimizer.learning_rate == 0.01


@pytest.mark.parametrize(("name", "shift", "zoom"), [("rotate45", 0.2, 0.5), ("rotate45_mild", 0.1, 0.2)])
def test_strong_rotation_has_two_strengths(name: str, shift: float, zoom: float):
    """`rotate45` is the augmentation that the pyramid was designed with; `rotate45_mild` shifts and zooms less."""
    found = config(f"aug={name}").aug
    assert (found.name, found.rotation_range) == (name, 45)
    assert (found.width_shift_range, found.height_shift_range) == (shift, shift)
    assert found.zoom == (1 - zoom, 1 + zoom)


def test_the_pyramids_figures_name_their_augmentation():
    """The experiment has the augmentation that the pyramid was designed with."""
    assert config("experiment=pyramid", "data=digits").aug.name == "rotate45"


def test_a_layer_can_be_changed_and_left_out():
    """Overrides can change or remove an entry of the list of layers."""
    found = config("model=pyramid", "model.layers.0.filters=8", "model.layers.3=null")
    assert found.model.layers.entries[0]["filters"] == 8
    assert found.model.layers.entries[3] is None


@pytest.mark.parametrize(
    "override",
    [
        "modl=pyramid",
        "model=pyramidd",
        "optimizer.lerning_rate=1",
        "learning_rate=1",
        "model.layers.0.fliters=1",
        "model.layers[0].filters=1",
        "model.layers.99=null",
        "~model.layers.1",
        "optimizer.weight_decay=-1",
        "optimizer.clipnorm=abc",
        "tracking.experiment=Default",
        "name=''",
        "aug.zoom_range=[0.9]",
        "model.layers=null",
        "model=null",
        "seed=1,2",
        "runs",
        "seed=-1",
        "seed=one",
        "seed=true",
        "training.epochs=1.5",
        "training.epochs=0",
        "optimizer.learning_rate=0",
        "optimizer.learning_rate=.nan",
        "device.kind=gpuu",
        "+training.epoch=3",
        "+model.depth=3",
        "aug.zoom_range=1.5",
        "aug.zoom_range=[1.2,0.8]",
        "training.label_smoothing=0.1",
        "schedule.warmup_epochs=99",
        "schedule.final_fraction=0.5",
        "data.class_names=[a,b]",
        "data.class_names=[a,b,c,d,e,f,g,h,i,a]",
        "optimizer.learning_rate=${optimizer.nope}",
        "tracking.uri=mlruns",
        "tracking.uri=file:///tmp/x",
        "training.select.metric=train/loss",
        "training.select.metric=val/loss",
    ],
)
def test_a_wrong_override_is_reported_with_its_place_and_key(override: str, golden: Golden):
    """Each wrong override gets one problem that names the command line and the key."""
    [(place, text)] = problems(override)
    assert place == "command line"
    assert override.lstrip("+~").split("=")[0].split("[")[0].split(".")[0] in text
    golden(text)


def test_all_problems_are_reported_together():
    """Overrides that Hydra would stop at do not hide the others."""
    wrong = ["modl=a", "aug=rotat45", "optimizer.lerning_rate=1", "seed=-1", "runs", "training.epochs=x"]
    assert len(problems("model=pyramid", *wrong)) == len(wrong)


def test_a_problem_in_a_file_is_reported_with_its_line(tmp_path: Path):
    """The place is the user's file and the line in it."""
    options = tmp_path / "mine"
    (options / "optimizer").mkdir(parents=True)
    (options / "optimizer" / "fast.yaml").write_text("# mine\ntype: Adam\nlearning_rate: -3\n")
    [(place, text)] = problems("optimizer=fast", config_dir=str(options))
    assert place.endswith("mine/optimizer/fast.yaml:3")
    assert text == "optimizer.learning_rate: must be greater than 0, found -3"


def test_invalid_yaml_is_reported_with_its_line(tmp_path: Path):
    """A syntax error names the file and the line."""
    options = tmp_path / "mine"
    (options / "model").mkdir(parents=True)
    (options / "model" / "broken.yaml").write_text("name: broken\nlayers: [Flatten\nother: 1\n")
    [(place, text)] = problems("model=broken", config_dir=str(options))
    assert place.endswith("mine/model/broken.yaml:3")
    assert text.startswith("not valid YAML while parsing a flow sequence that begins on line 2")


def test_an_empty_file_is_reported(tmp_path: Path):
    """Its keys are reported as missing in that file."""
    options = tmp_path / "mine"
    (options / "model").mkdir(parents=True)
    (options / "model" / "empty.yaml").write_text("")
    found = problems("model=empty", config_dir=str(options))
    assert [text for _, text in found] == ["model: missing: name, layers"]
    assert all(place.endswith("mine/model/empty.yaml:1") for place, _ in found)


def test_problems_are_in_the_order_of_their_lines():
    """Line 3 comes before line 10, and layer 2 before layer 10."""
    found = sorted(
        Problem("invalid-entry", f"x.yaml:{line}", f"model.layers.{layer}: wrong")
        for line, layer in ((10, 1), (3, 10), (3, 2))
    )
    assert [(p.place, p.message) for p in found] == [
        ("x.yaml:3", "model.layers.2: wrong"), ("x.yaml:3", "model.layers.10: wrong"), ("x.yaml:10", "model.layers.1: wrong"),
    ]  # fmt: skip


def test_an_option_that_names_a_missing_option_is_reported(tmp_path: Path):
    """The message suggests the nearest option and lists all of them."""
    options = tmp_path / "mine"
    (options / "experiment").mkdir(parents=True)
    (options / "experiment" / "bad.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: pyramd\n"
    )
    [(place, text)] = problems("experiment=bad", config_dir=str(options))
    assert place.endswith("mine/experiment/bad.yaml:3")
    assert text.startswith("model=pyramd: no such option (did you mean 'pyramid'?); model has")


def test_all_problems_of_a_preset_are_reported(tmp_path: Path, golden: Golden):
    """Its options and keys are checked against the model that it chooses."""
    options = tmp_path / "mine"
    (options / "experiment").mkdir(parents=True)
    body = "model:\n  filters: 8\n  width: 8\ntraining:\n  epoch: 3\n"
    defaults = (
        "defaults:\n  - override /model: pyramid\n  - override /augg: shift\n  - override /schedule: cosin\n"
    )
    (options / "experiment" / "bad.yaml").write_text(f"# @package _global_\n{defaults}{body}")
    found = [
        (place.rpartition(":")[2], text.partition(";")[0])
        for place, text in problems("experiment=bad", config_dir=str(options))
    ]
    assert found == [
        ("4", "augg=shift: no such key or group (did you mean 'aug'?)"),
        ("5", "schedule=cosin: no such option (did you mean 'cosine'?)"),
        ("7", "model.filters: no such key (did you mean 'model.layers.0.filters'?)"),
        ("10", "training.epoch: no such key (did you mean 'training.epochs'?)"),
    ]
    (options / "experiment" / "bad.yaml").write_text("defaults:\n  - override /model: pyramid\n")
    [(place, text)] = problems("experiment=bad", config_dir=str(options))
    assert place.endswith("bad.yaml:1")
    assert "'# @package _global_'" in text
    golden(text)


def test_interpolations_are_explained(tmp_path: Path):
    """An unclosed one is reported at its line.

    A misspelled reference with the nearest key, which then counts as used.
    """
    options = tmp_path / "mine"
    (options / "model").mkdir(parents=True)
    layers = "[Flatten, {type: Dense, units: '${model.widht}'}, {type: Dense, units: '${data.clases}'}, Softmax]"
    (options / "model" / "mine.yaml").write_text(f"name: mine\nwidth: 3\nlayers: {layers}\n")
    found = [text for _, text in problems("model=mine", config_dir=str(options))]
    assert found == [
        "model.layers.1.units: ${model.widht}: there is no key 'model.widht' (did you mean 'model.width'?)",
        "model.layers.2.units: ${data.clases}: there is no key 'data.clases' (did you mean 'data.classes'?)",
    ]
    (options / "model" / "mine.yaml").write_text("name: mine\nlayers:\n  - Flatten\n  - '${data.classes'\n")
    [(place, text)] = problems("model=mine", config_dir=str(options))
    assert place.endswith("mine.yaml:4")
    assert text == "${data.classes: '${' is never closed"


def test_a_value_set_by_a_parameter_has_the_parameters_place():
    """The message names the parameter, also if it is one of several causes."""
    [(place, text)] = problems("model=bottleneck", "model.dropout=x")
    assert place == "command line"
    assert text == "model.layers.7.rate (model.dropout): must be a number, found 'x'"


def test_contradictions_are_reported_with_other_problems():
    """Invalid values do not hide contradictions between valid ones."""
    found = [
        text
        for _, text in problems(
            "schedule=one_cycle",
            "schedule.warmup_epochs=1",
            "schedule.final_fraction=2",
            "training.loss=sparse_x",
            "training.label_smoothing=0.1",
        )
    ]
    assert len(found) == 4
    assert any("warmup_epochs=1 and warmup_fraction=0.3" in text for text in found)
    assert any("label_smoothing needs one-hot targets" in text for text in found)


def test_missing_keys_are_one_problem(tmp_path: Path):
    """The message says how to inherit them; misspelled keys are not reported as missing."""
    options = tmp_path / "mine"
    (options / "aug").mkdir(parents=True)
    (options / "aug" / "mine.yaml").write_text("name: mine\nrotation_rage: 3\n")
    found = [text for _, text in problems("aug=mine", config_dir=str(options))]
    assert found[0].startswith("aug: missing: width_shift_range, height_shift_range, shear_range, zoom_range, ")
    assert found[0].endswith("; to take them from none.yaml, begin the file with 'defaults: [none]'")
    assert found[1] == "aug.rotation_rage: unknown key (did you mean 'rotation_range'?)"
    (options / "aug" / "mine.yaml").write_text("defaults: [none]\nname: mine\nrotation_range: 3\n")
    assert config("aug=mine", config_dir=str(options)).aug.rotation_range == 3


def test_a_users_folder_adds_options(tmp_path: Path):
    """--config-dir adds models to the built-in ones."""
    options = tmp_path / "mine"
    (options / "model").mkdir(parents=True)
    (options / "model" / "tiny.yaml").write_text(
        "name: tiny\nlayers:\n  - Flatten\n  - {type: Dense, units: '${data.classes}'}\n  - Softmax\n"
    )
    assert config("model=tiny", config_dir=str(options)).model.name == "tiny"
    with pytest.raises(RequestError, match="there is no such folder"):
        config(config_dir=str(tmp_path / "nope"))


def test_removing_a_layer_does_not_make_its_parameter_an_error():
    """A parameter is only an error if the model's file never used it, or an override sets it without effect."""
    assert config("model.layers.8=null").model.layers.entries[8] is None
    [(_, text)] = problems("model.layers.8=null", "model.dense=64")
    assert text == "model.dense: no layer in model.layers uses this parameter"


@pytest.mark.parametrize("value", ["a folder", "a=b", "[x]", "it's, here", "{a: b}", "123", "~/x", "back\\"])
def test_paths_are_taken_literally(value: str):
    """File names with spaces, brackets, equals signs or commas work as they are."""
    request = request_from("train", parse([f"outputs={value}"]))
    assert compose_checked(request, TrainConfig)[0].outputs == os.path.expanduser(value)


def test_a_grid_is_every_combination():
    """Swept keys vary in their order, the last one fastest."""
    grid = expand(Request("train", ("model=linear,pyramid", "data.limit=9", "seed=range(0,2)"), multirun=True))
    assert grid.swept == ("model", "seed")
    assert grid.jobs == tuple(
        (f"model={model}", "data.limit=9", f"seed={seed}") for model in ("linear", "pyramid") for seed in (0, 1)
    )


def test_a_grid_takes_all_options_of_a_group():
    """Hydra's glob expands to all options."""
    grid = expand(Request("train", ("model=glob(l*)",), multirun=True))
    assert grid.jobs == (("model=lenet5x5",), ("model=lenet_bn",), ("model=linear",))


def test_an_interval_is_not_a_grid():
    """A grid over an interval is refused, with the reason."""
    grid = expand(Request("train", ("optimizer.learning_rate=interval(0,1)",), multirun=True))
    assert "a grid needs a list or range" in grid.problems[0].message


def test_a_saved_config_is_a_starting_point():
    """Chosen groups replace those of the saved config, and values are applied on top."""
    from mnist_exp.runs.fingerprint import as_values

    base = as_values(config("model=pyramid", "model.width=24", "training.epochs=7"))
    again = config(base=base)
    assert again == config("model=pyramid", "model.width=24", "training.epochs=7")
    other = config("model=linear", "training.batch_size=64", base=base)
    assert other.model.name == "linear"
    assert (other.training.epochs, other.training.batch_size) == (7, 64)
    assert config("model.layers.0.filters=3", base=base).model.layers.entries[0]["filters"] == 3


def test_parameters_and_presets_cannot_be_set_over_a_saved_config(golden: Golden):
    """They would have no effect on its resolved values, so they are refused rather than ignored."""
    from mnist_exp.runs.fingerprint import as_values

    base = as_values(config("model=pyramid"))
    for override, key in (("model.width=3", "model.width"), ("debug=overfit", "debug")):
        [(place, text)] = problems(override, base=base)
        assert place == "command line"
        assert text.startswith(key)
        golden(text)


def test_a_problem_in_a_saved_config_is_reported_with_its_line(tmp_path: Path):
    """The place is the saved file, not the file of the default option."""
    from mnist_exp.runs.fingerprint import as_values

    file = tmp_path / "config.yaml"
    file.write_text("seed: 0\ntraining:\n  epochs: 0\n")
    base = as_values(config())
    base["training"]["epochs"] = 0
    [(place, text)] = problems(base=base, base_file=file)
    assert place.endswith("config.yaml:3")
    assert text.startswith("training.epochs: must be greater than")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["+hydra.callbacks.x._target_=builtins.print"], "a config must not name code to run"),
        (["+model.x._target_=os.system"], "a config must not name code to run"),
        (["-cn", "other"], "--config-name: not supported; the command selects the config"),
        (["-cp", "/tmp"], "--config-path: not supported; add a folder of your own options with --config-dir"),
    ],
)
def test_unsupported_flags_and_code_are_refused(words: list[str], told: str):
    """They are neither ignored nor run."""
    with pytest.raises(RequestError, match=re.escape(told)):
        request_from("train", parse(words))


def test_presets_can_be_overridden():
    """The command line takes precedence over a preset."""
    found = config("experiment=lenet5x5", "training.epochs=3")
    assert (found.training.epochs, found.schedule.type, found.data.fallback) == (3, "cosine", None)


def test_the_place_of_a_presets_value_is_the_preset(tmp_path: Path):
    """A wrong value in an experiment's file is reported with that file's line."""
    options = tmp_path / "mine"
    (options / "experiment").mkdir(parents=True)
    (options / "experiment" / "mine.yaml").write_text("# @package _global_\ntraining:\n  epochs: 0\n")
    [(place, _)] = problems("experiment=mine", config_dir=str(options))
    assert place.endswith("experiment/mine.yaml:3")


# Keys of `data` that only some sources have.
OF_SOME_SOURCES = {"label_column", "label_offset", "resize", "scale", "skip_bad", "transpose"}


def test_every_option_of_a_group_has_the_same_keys():
    """An override that fits one option fits all others of the group, except for models' parameters."""
    import yaml

    for group in ("data", "preprocess", "aug", "schedule", "training", "device", "tracking"):
        keys = {
            file.name: frozenset(yaml.safe_load(file.read_text())) - OF_SOME_SOURCES
            for file in (conf_folder() / group).glob("*.yaml")
        }
        assert len(set(keys.values())) == 1, keys


def test_every_file_begins_with_a_comment():
    """The first comment of each option's file says what the file is."""

    for file in conf_folder().rglob("*.yaml"):
        lines = [line for line in file.read_text().splitlines() if not line.startswith("# @package")]
        assert lines[0].startswith("# "), file


@pytest.mark.parametrize(
    ("file", "content", "place", "message"),
    [
        ("experiment", b"# @package _global_\n# caf\xe9\n", "x.yaml", "not UTF-8: byte 25 is 0xe9"),
        ("model", b"name: x\n# caf\xe9\n", "x.yaml", "not UTF-8: byte 13 is 0xe9"),
        ("model", b"name: x\x01\n", "x.yaml", "not valid YAML: character 7 is U+0001"),
        (
            "experiment",
            b"# @package _global_\ntraining: [1\n",
            "x.yaml:3",
            "not valid YAML while parsing a flow sequence",
        ),
    ],
)
def test_an_unreadable_file_is_reported(tmp_path: Path, file: str, content: bytes, place: str, message: str):
    """This holds for every kind of damage."""
    (tmp_path / "mine" / file).mkdir(parents=True)
    (tmp_path / "mine" / file / "x.yaml").write_bytes(content)
    [(found, text)] = problems(f"{file}=x", config_dir=str(tmp_path / "mine"))
    assert found.endswith(place)
    assert text.startswith(message)


def test_inherited_values_have_the_place_of_their_file(tmp_path: Path):
    """The place is the file named in the option's defaults, even if an override changes another entry."""
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "base.yaml").write_text(
        "name: base\nlayers:\n  - Flatten\n  - {type: Dense, units: x}\n"
    )
    (tmp_path / "mine" / "model" / "mine.yaml").write_text("defaults: [base]\nname: mine\n")
    [(place, _)] = problems("model=mine", "model.layers.0=Identity", config_dir=str(tmp_path / "mine"))
    assert place.endswith("base.yaml:4")


def test_all_contradictions_between_groups_are_reported():
    """Problems that Keras finds can still be added."""
    checked = check_request(
        Request("train", (
            "data.val_fraction=0",
            "training.early_stopping.patience=2",
            "schedule.warmup_epochs=50",
            "model.layers.0.filters=nan",
        )), TrainConfig,
    )  # fmt: skip
    assert len(checked.problems) == 3
    assert checked.config is not None
    assert checked.needs_keras


def test_arguments_that_could_not_be_saved_are_refused():
    """Arguments of quantized layers, whose value could also name a module, are refused."""
    value = "{class_name:Int8QuantizationConfig,config:{},module:this}"
    [(_, text)] = problems(f"+model.layers.9.quantization_config={value}")
    assert "Dense has no argument 'quantization_config'" in text
