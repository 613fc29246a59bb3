"""Check what the adapter relies on in Hydra, OmegaConf and PyYAML: these tests fail first when one of them changes."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import mnist_exp
from mnist_exp.config import hydra_adapter
from mnist_exp.config.hydra_adapter import (
    COMPOSITION_ERRORS,
    LAUNCHER_PACKAGES,
    InvalidYaml,
    MissingKey,
    MissingOption,
    MissingVariable,
    _listing_groups_directly,
    apply_override,
    argument_parser,
    config_loader,
    first_reason,
    has_broken_interpolation,
    invalid_yaml,
    missing_option,
    missing_reference,
    parse_override,
    unreadable,
)

PACKAGE = Path(mnist_exp.__file__).parent
ADAPTER = PACKAGE / "config" / "hydra_adapter.py"


def error_of(function: Callable[[], object]) -> Exception:
    """Return the error that a call raises, which must be one of `COMPOSITION_ERRORS`."""
    with pytest.raises(COMPOSITION_ERRORS) as caught:
        function()
    return caught.value


def test_an_unknown_option_is_a_value():
    """The value has the group, the wanted name, and the existing options."""
    with config_loader(None) as loader:
        missing = missing_option(error_of(lambda: loader.load("train", ["schedule=nope"])))
    assert missing is not None
    assert (missing.group, missing.wanted) == ("schedule", "nope")
    assert "cosine" in missing.options
    assert missing_option(ValueError("no")) is None
    assert isinstance(missing, MissingOption)


def test_a_missing_reference_is_a_value(monkeypatch: pytest.MonkeyPatch):
    """The value is the missing key or environment variable."""
    monkeypatch.delenv("NOT_SET", raising=False)
    config = OmegaConf.create({"a": "${b.c}", "d": "${oc.env:NOT_SET}"})
    assert missing_reference(error_of(lambda: config.a)) == MissingKey("b.c")
    assert missing_reference(error_of(lambda: config.d)) == MissingVariable("NOT_SET")
    assert missing_reference(ValueError("no")) is None


def test_invalid_yaml_is_a_value(tmp_path: Path):
    """The value has the file and line, also for an option in the user's folder."""
    file = tmp_path / "model" / "mine.yaml"
    file.parent.mkdir()
    file.write_text("name: mine\nlayers: [a\n")
    with config_loader(str(tmp_path)) as loader:
        assert loader.user_folders() == [tmp_path]
        assert loader.option_file("model", "mine") == file
        assert loader.option_file("model", "nope") is None
        fault = invalid_yaml(error_of(lambda: loader.load("train", ["model=mine"])))
    assert fault is not None
    assert (fault.file, fault.line) == (file, 3)
    assert (fault.context, fault.context_line) == ("while parsing a flow sequence", 2)
    assert isinstance(fault, InvalidYaml)
    assert invalid_yaml(ValueError("no")) is None


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"a: \xff", "not UTF-8: byte 3 is 0xff"), (b"a: \x07", "not valid YAML: character 3 is U+0007")],
)
def test_an_unreadable_file_is_explained(tmp_path: Path, content: bytes, why: str):
    """The message names the byte or character at fault."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_bytes(content)
    with config_loader(str(tmp_path)) as loader:
        assert unreadable(error_of(lambda: loader.load("train", ["model=mine"]))) == why
    assert unreadable(ValueError("no")) == ""


def test_overrides_are_applied_to_a_copy():
    """A value override changes a composed config without reading files."""
    with config_loader(None) as loader:
        config = loader.load("train", [])
        changed = apply_override(config, parse_override("training.epochs=3"))
        assert changed.training.epochs == 3
        assert config.training.epochs != 3
        assert loader.is_group(loader.parse("model=linear"))
        assert not loader.is_group(loader.parse("training.epochs=3"))
        error = error_of(lambda: apply_override(config, parse_override("nope=3")))
    assert first_reason(error)


def test_saved_values_replace_groups_that_no_override_chooses():
    """Keys that a saved config lacks get the default values."""
    with config_loader(None) as loader:
        ours = loader.load("train", [])
        base = {"training": {"epochs": 7}, "model": {"name": "saved", "layers": []}}
        config = loader.load_over("train", ["model=linear", "training.batch_size=5"], base)
    assert (config.training.epochs, config.training.batch_size) == (7, 5)
    assert config.training.loss == ours.training.loss
    assert config.model.name == "linear"


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """Return the overrides of each composition by Hydra from now on."""
    found: list[Sequence[str]] = []
    compose = ConfigLoaderImpl.load_configuration

    def recording(loader: Any, name: str, overrides: list[str], mode: RunMode) -> DictConfig:
        found.append(overrides)
        return compose(loader, name, overrides, mode)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", recording)
    monkeypatch.setattr(hydra_adapter, "_compositions", {})
    return found


def test_configs_that_differ_in_values_are_composed_once(composed: list[Sequence[str]]):
    """They are what Hydra composes, and do not share anything that could be changed."""
    words = [
        "model=lenet_bn",
        "training.epochs=3",
        "+aug.x={a: 1}",
        "aug={name: b}",
        "hydra.sweeper.max_batch_size=3",
    ]
    with config_loader(None) as loader:
        of_hydra = loader._loader.load_configuration("train", words, RunMode.RUN)
    composed.clear()
    for values in (words, [words[0], words[-1]], words):
        with config_loader(None) as loader:
            config = loader.load("train", values)
    assert composed == [[words[0], words[-1]]]
    del (
        config.hydra.job,
        config.hydra.overrides,
        of_hydra.hydra.job,
        of_hydra.hydra.overrides,
    )  # name the overrides
    assert config == of_hydra


def test_a_changed_option_is_composed_again(composed: list[Sequence[str]], tmp_path: Path):
    """So is one that a search path or a linked folder has."""
    (tmp_path / "own/model").mkdir(parents=True)
    (tmp_path / "other/model").mkdir(parents=True)
    own, linked = tmp_path / "own/model/mine.yaml", tmp_path / "other/model/x.yaml"

    def names(*overrides: str) -> list[str]:
        with config_loader(str(tmp_path / "own")) as loader:
            return [loader.load("train", overrides).model.name for _ in "12"]

    for name in ("a", "b"):
        own.write_text(f"name: {name}\nlayers: []\n")
        assert names("model=mine") == [name, name]
    assert len(composed) == 2
    for name in ("a", "b"):
        linked.write_text(f"name: {name}\nlayers: []\n")
        assert names("model=x", f"hydra.searchpath=[file://{tmp_path / 'other'}]") == [name, name]
    (tmp_path / "own/model/more").symlink_to(tmp_path / "other/model")
    for name in ("c", "d"):
        linked.write_text(f"name: {name}\nlayers: []\n")
        assert names("model=more/x") == [name, name]


def test_globs_and_syntax():
    """A glob expands to a group's options; invalid Hydra syntax raises `HydraException`."""
    with config_loader(None) as loader:
        override = loader.parse("model=glob(mini*)")
        assert list(override.sweep_string_iterator()) == ["mini_vgg"]
    with pytest.raises(HydraException):
        parse_override("a==b={")


def test_hydras_flags_are_known():
    """An invalid command line calls the given function."""

    def refuse(message: str) -> NoReturn:
        raise ValueError(message)

    parser, flags = argument_parser(refuse)
    assert {"--help", "--cfg", "--multirun", "-m", "--config-dir", "--info"} <= set(flags)
    with pytest.raises(ValueError, match="config-dir"):
        parser.parse_args(["--config-dir"])


def test_a_launcher_is_instantiated():
    """It is one of Hydra's, from an allowed package."""
    with config_loader(None) as loader:
        config = loader.load("train", [], multirun=True)
        assert config.hydra.launcher._target_.startswith(LAUNCHER_PACKAGES)
        loader.make_launcher(config, print)


def test_workers_accept_the_registered_sources():
    """A launcher's workers get the registry from this process, and then register Hydra's own sources."""
    with config_loader(None):
        SourcesRegistry.instance().register(FileConfigSource)


def test_broken_interpolations_are_recognized():
    """These are unclosed ones and texts that are not keys."""
    assert has_broken_interpolation("${a")
    assert not has_broken_interpolation("${a.b} and text")
    assert not has_broken_interpolation("text")
    assert yaml.safe_load("a: ${b}") == {"a": "${b}"}


def private_uses(tree: ast.Module) -> set[str]:
    """Yield the private members of other objects that a module uses: by attribute, `getattr`, or import."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                found.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            name = node.args[1]
            if isinstance(name, ast.Constant) and str(name.value).startswith("_"):
                found.add(str(name.value))
        elif isinstance(node, ast.ImportFrom) and re.search(r"(^|\.)_(?!_)", node.module or ""):
            found.add(str(node.module))
    return found


def test_private_members_are_used_in_the_adapter_only():
    """No other module that reads, composes or checks configs and sweeps uses them."""
    assert "hydra._internal.hydra" in private_uses(ast.parse(ADAPTER.read_text(encoding="utf-8")))
    sweeps = [PACKAGE / "sweeps" / f"{name}.py" for name in ("grid", "search_space", "launchers")]
    for file in [*(PACKAGE / "config").glob("*.py"), PACKAGE / "cli.py", *sweeps]:
        if file != ADAPTER:
            assert not private_uses(ast.parse(file.read_text(encoding="utf-8"))), file


def test_groups_are_listed_as_hydra_lists_them():
    """`--help` lists the options directly, since Hydra copies its repository for each group."""
    with config_loader(None) as loader:
        hydras = loader._loader
        for group in ("", "model", "aug", "hydra", "hydra/launcher", "tune/space"):
            for kind in (ObjectType.CONFIG, ObjectType.GROUP):
                expected = hydras.get_group_options(group, kind)
                with _listing_groups_directly():
                    assert hydras.get_group_options(group, kind) == expected
                    assert hydras.get_group_options(group, kind, "train", []) == expected
    assert hydras.get_group_options("model")


def test_errors_that_cause_each_other_have_an_end():
    """OmegaConf makes such errors if `OC_CAUSE=1` or in a debugger."""
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert invalid_yaml(first) is None
    assert unreadable(first) == ""
