"""Checkpoints contain everything for an exact resume, and damage to them is detected."""

from __future__ import annotations

import hashlib
import io
import os
import re
import resource
import shutil
import struct
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.data.dataset import Dataset
from mnist_exp.data.formats import find, prepare
from mnist_exp.model.build import build
from mnist_exp.model.preprocessing import statistics
from mnist_exp.training.callback import Callback
from mnist_exp.training.checkpoint import Checkpoints, DamagedCheckpoint, State, read, read_newest
from mnist_exp.training.loop import Progress, Snapshot, fit
from mnist_exp.training.step import build_state

# All that has state: dropout, batch statistics, momentum, a running mean, a schedule of steps and one of epochs, and
# learning rates at which the best epoch is not the last one.
EVERYTHING = (
    "data=digits", "data.limit=700", "aug=rotate45", "model=linear", "schedule=reduce_on_plateau",
    "schedule.plateau={factor: 0.5, patience: 1, min_delta: 0.3}", "schedule.warmup_epochs=3", "training.epochs=6",
    "training.batch_size=32", "training.ema=0.5", "optimizer.learning_rate=2", "optimizer.clipnorm=1",
    "training.early_stopping.patience=2", "seed=2",
    "model.layers=[{type: Dropout, rate: 0.3}, Flatten, {type: Dense, units: 24, activation: relu},"
    " BatchNormalization, {type: Dropout, rate: 0.2}, {type: Dense, units: 10}, Softmax]",
)  # fmt: skip
STEPS = 20  # of an epoch
STOPPED_AT = 3, 7  # epochs, steps


@pytest.fixture(autouse=True)
def _few_steps_per_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnist_exp.training.loop.STEPS_PER_CALL", 7)


def setting(*overrides: str) -> tuple[TrainConfig, Dataset]:
    config, _ = compose_checked(Request("train", overrides), TrainConfig)
    return config, prepare(find(config.data, print), config.data)


def fresh(config: TrainConfig, data: Dataset) -> Any:
    return build(config, statistics(data.train.images, config.preprocess), "float32")


def outcome(model: Any, progress: Progress) -> dict[str, Any]:
    """Return everything that training ends with, except times."""
    assert progress.best is not None
    state = Snapshot.of(model)
    return {
        "epochs": progress.epochs,
        "best epoch": progress.best_epoch,
        "history": [{name: value for name, value in row.items() if name != "seconds"} for row in progress.history],
        **{
            f"{name} {index}": array.tobytes()
            for name, arrays in (
                ("model", state.model), ("optimizer", state.optimizer),
                ("best model", progress.best.model), ("best optimizer", progress.best.optimizer),
            )
            for index, array in enumerate(arrays)
        },
    }  # fmt: skip


def train(folder: Path, overrides: tuple[str, ...], stop: tuple[int, int] | None = None) -> dict[str, Any]:
    """Train to a number of epochs and steps, from the newest checkpoint in a folder if there is one."""
    config, data = setting(*overrides)
    model = fresh(config, data)
    state, damaged = read_newest(folder, "run")
    assert not damaged
    return go_on(folder, config, data, model, state, stop)


def go_on(
    folder: Path, config: TrainConfig, data: Dataset, model: Any, state: State | None, stop: Any = None
) -> dict[str, Any]:
    progress = Progress() if state is None else state.restore(model)
    folder.mkdir(exist_ok=True)
    checkpoints = Checkpoints(folder, "run", state)

    class SaveAndStop(Callback):
        def on_steps(self, *_: Any) -> None:
            checkpoints.save(model, progress)
            if stop is not None and (progress.epochs, progress.steps) >= stop:
                raise KeyboardInterrupt

        on_epoch = on_steps

    try:
        fit(model, data, config, [SaveAndStop()], progress)
    except KeyboardInterrupt:
        assert (progress.epochs, progress.steps) == stop
        return {}
    return outcome(model, progress)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the outcome of uninterrupted training."""
    return train(tmp_path_factory.mktemp("straight"), EVERYTHING)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoints of training that was stopped in its fourth epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnist_exp.training.loop.STEPS_PER_CALL", 7)
        train(folder, EVERYTHING, STOPPED_AT)
    return folder


def test_the_newest_two_are_kept(stopped: Path):
    """They are named by the finished epochs and steps."""
    assert sorted(file.name for file in stopped.iterdir()) == ["000003-00000000.state", "000003-00000007.state"]


@pytest.mark.parametrize("at", [(0, 7), (1, 0), (1, STEPS), STOPPED_AT])
def test_resuming_gives_the_same_bits(straight: dict[str, Any], tmp_path: Path, at: tuple[int, int]):
    """Training stopped in an epoch, between two, or before the validation of one."""
    train(tmp_path / "run", EVERYTHING, at)
    assert train(tmp_path / "run", EVERYTHING) == straight


@pytest.mark.slow
def test_resuming_three_times_gives_the_same_bits(straight: dict[str, Any], tmp_path: Path):
    """This includes stops within one epoch."""
    for at in ((0, 14), (2, 7), (2, 14)):
        train(tmp_path / "run", EVERYTHING, at)
    assert train(tmp_path / "run", EVERYTHING) == straight


# Some of them keep numbers of their own between the steps.
@pytest.mark.parametrize("optimizer", ["nadam", "muon", "sgd", "adamw"])
def test_every_optimizer_is_resumed_exactly(tmp_path: Path, optimizer: str):
    """Its state between steps is restored."""
    words = (*EVERYTHING[:4], "data.limit=200", f"optimizer={optimizer}", "training.epochs=2", "schedule=cosine")
    expected = train(tmp_path / "straight", words)
    train(tmp_path / "stopped", words, (1, 0))
    assert train(tmp_path / "stopped", words) == expected


def test_frozen_layers_are_resumed_exactly(tmp_path: Path):
    """They keep their first weights, and all others are those of uninterrupted training."""
    words = (*EVERYTHING[:4], "data.limit=200", "training.epochs=2", "training.freeze=[1,2]", EVERYTHING[-1])
    first = fresh(*setting(*words)).get_weights()[:2]
    expected = train(tmp_path / "straight", words)
    train(tmp_path / "stopped", words, (1, 0))
    assert train(tmp_path / "stopped", words) == expected
    trained = [value for name, value in expected.items() if name.startswith("model ")]
    assert all(array.tobytes() in trained for array in first)


@pytest.mark.slow
@pytest.mark.parametrize("at", [(1, 0), (2, STEPS), (3, 7)])
def test_averages_of_epochs_are_resumed_exactly(tmp_path: Path, at: tuple[int, int]):
    """The checkpoint contains the weights of the earlier epochs; without them, the outcome would be another."""
    words = (
        *EVERYTHING, "training.ema=null", "training.average_last=3", "training.epochs=5", "schedule=constant",
        "schedule.plateau=null", "schedule.warmup_epochs=0", "optimizer.learning_rate=0.1",
        "training.early_stopping.patience=null",
    )  # fmt: skip
    expected = train(tmp_path / "straight", words)
    train(tmp_path / "stopped", words, at)
    state, _ = read_newest(tmp_path / "stopped", "run")
    assert state is not None
    assert {name.split("/")[1] for name in state.arrays if name.startswith("recent/")} == set("012"[: at[0]])
    assert train(shutil.copytree(tmp_path / "stopped", tmp_path / "copy"), words) == expected
    config, data = setting(*words)
    others = {name: array for name, array in state.arrays.items() if not name.startswith("recent/")}
    ended = go_on(tmp_path / "stopped", config, data, fresh(config, data), replace(state, arrays=others))
    assert ended["history"] != expected["history"]


# Each piece of state, and the arrays that it is: by their group and the path of their variable.
FORGOTTEN = {
    "weights": r"model .*(kernel|bias|gamma|beta)",
    "batch statistics": r"model .*moving",
    "seeds": r"model .*seed",
    "optimizer": r"optimizer .*",
    "momentum": r"optimizer .*momentum",
    "iterations": r"optimizer .*iteration",
    "running mean": r"optimizer .*average",
    "metrics": r"metrics .*",
    "best weights": r"best/model .*kernel",
    "best optimizer": r"best/optimizer .*momentum",
}


@pytest.mark.slow
@pytest.mark.parametrize("piece", FORGOTTEN)
def test_every_array_is_needed(straight: dict[str, Any], stopped: Path, tmp_path: Path, piece: str):
    """As a control, the outcome differs if any array is not restored."""
    config, data = setting(*EVERYTHING)
    model, new = fresh(config, data), fresh(config, data)
    state, _ = read_newest(stopped, "run")
    assert state is not None
    initial, paths = of_a_new_model(new)
    forgotten = {name for name in state.arrays if re.match(FORGOTTEN[piece], paths[name])}
    assert any(not np.array_equal(initial[name], state.arrays[name]) for name in forgotten)
    arrays = {name: initial[name] if name in forgotten else array for name, array in state.arrays.items()}
    copy = shutil.copytree(stopped, tmp_path / "copy")
    assert go_on(copy, config, data, model, replace(state, arrays=arrays)) != straight


def of_a_new_model(model: Any) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return a new model's arrays under a checkpoint's names, with the group and variable of each."""
    build_state(model)
    groups = {
        "model": model.variables, "optimizer": model.optimizer.variables, "metrics": model.metrics_variables,
        "best/model": model.variables, "best/optimizer": model.optimizer.variables,
    }  # fmt: skip
    found = [(group, index, v) for group, variables in groups.items() for index, v in enumerate(variables)]
    return (
        {f"{group}/{index}": variable.numpy() for group, index, variable in found},
        {f"{group}/{index}": f"{group} {variable.path}" for group, index, variable in found},
    )


@pytest.mark.parametrize(
    ("piece", "forgotten"),
    [("epochs", 2), ("steps", 0), ("history", []), ("history", 2), ("best_epoch", 1), ("best_epoch", None)],
)
def test_every_number_is_needed(
    straight: dict[str, Any], stopped: Path, tmp_path: Path, piece: str, forgotten: Any
):
    """The same holds for the position, the history or its last row, and the best epoch."""
    config, data = setting(*EVERYTHING)
    state, _ = read_newest(stopped, "run")
    assert state is not None
    if piece == "history" and forgotten:
        forgotten = state.progress["history"][:forgotten]
    assert state.progress[piece] != forgotten
    state = replace(state, progress={**state.progress, piece: forgotten})
    try:
        ended = go_on(shutil.copytree(stopped, tmp_path / "copy"), config, data, fresh(config, data), state)
    except IndexError:  # a best epoch that the history has not
        return
    assert ended != straight


def test_the_control_itself_restores_everything(straight: dict[str, Any], stopped: Path, tmp_path: Path):
    """If everything is restored, the outcome is the same, with a best epoch before the stop."""
    config, data = setting(*EVERYTHING)
    state, _ = read_newest(stopped, "run")
    assert go_on(shutil.copytree(stopped, tmp_path / "copy"), config, data, fresh(config, data), state) == straight
    assert 1 < straight["best epoch"] <= STOPPED_AT[0]
    assert straight["epochs"] < config.training.epochs  # stopped early
    assert len({row["learning_rate"] for row in straight["history"]}) > 2


DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "first bit": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "last bit": lambda content: content[:-1] + bytes([content[-1] ^ 128]),
    "longer": lambda content: content + b"\0",
    "foreign": lambda content: b'{"epochs": 3}',
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_replaced_by_the_previous_one(
    straight: dict[str, Any], stopped: Path, tmp_path: Path, damage: str
):
    """This holds for any damage, and the outcome is the same."""
    folder = shutil.copytree(stopped, tmp_path / "copy")
    before, newest = sorted(folder.glob("*"))
    newest.write_bytes(DAMAGES[damage](newest.read_bytes()))
    state, [message] = read_newest(folder, "run")
    assert state is not None
    assert state.path == before
    assert message.startswith(f"{newest}: damaged")
    if damage == "half":
        config, data = setting(*EVERYTHING)
        assert go_on(folder, config, data, fresh(config, data), state) == straight
        assert newest not in folder.glob("*")


def test_any_changed_bit_is_detected(stopped: Path, tmp_path: Path):
    """A hundred bits anywhere in the file are tested."""
    content = (stopped / "000003-00000007.state").read_bytes()
    file = tmp_path / "000003-00000007.state"
    for place in np.random.default_rng(0).integers(0, 8 * len(content), 100):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << (place % 8)
        file.write_bytes(changed)
        with pytest.raises(DamagedCheckpoint):
            read(file, "run")


def write_checkpoint(path: Path, member: bytes, declared: int | None = None, compression: int = 0) -> None:
    """Write a file with a valid digest and one array, optionally with a false size in the archive's directory."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model/0.npy", member)
    content = bytearray(path.read_bytes())
    if declared is not None:
        struct.pack_into("<I", content, content.rindex(b"PK\1\2") + 24, declared)
    path.write_bytes(content + hashlib.sha256(content).digest())


def array_header(*shape: int) -> bytes:
    stream, empty = io.BytesIO(), np.lib.format.header_data_from_array_1_0(np.empty(0, np.float32))
    np.lib.format.write_array_header_1_0(stream, {**empty, "shape": shape})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("member", "declared", "compression", "reason"),
    [
        (array_header(2**60) + bytes(8), None, zipfile.ZIP_STORED, "values of float32"),
        (array_header(2**28) + bytes(8), None, zipfile.ZIP_STORED, "values of float32"),
        (array_header(2**28) + bytes(8), 2**30 + 128, zipfile.ZIP_STORED, "would unpack"),
        (array_header(2**22) + bytes(2**24), None, zipfile.ZIP_DEFLATED, "would unpack"),
    ],
    ids=["exabytes", "a gigabyte", "false size", "compressed"],
)
def test_a_checkpoint_that_declares_more_than_it_contains_is_damaged(
    tmp_path: Path, member: bytes, declared: int | None, compression: int, reason: str
):
    """Its digest is valid; the memory that it declares is not allocated."""
    file = tmp_path / "000001-00000000.state"
    write_checkpoint(file, member, declared, compression)
    tracemalloc.start()
    try:
        state, [message] = read_newest(tmp_path, "run")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert state is None
    assert message.startswith(f"{file}: ")
    assert reason in message
    assert peak < 2**20


def test_a_checkpoint_larger_than_the_memory_is_reported(tmp_path: Path):
    """It is a sparse file of 4 GB, more than this process may allocate."""
    file = tmp_path / "000001-00000000.state"
    file.touch()
    os.truncate(file, 2**32)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, limits[1]))
    try:
        found = read_newest(tmp_path, "run")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert found == (None, [f"{file}: does not fit into memory"])


def test_a_checkpoint_of_another_run_is_refused(stopped: Path):
    """It is intact, but belongs to another run."""
    state, damaged = read_newest(stopped, "another")
    assert state is None
    assert len(damaged) == 2
    assert damaged[0].endswith("belongs to another run, run")


def test_temporary_files_of_a_killed_process_are_removed(stopped: Path, tmp_path: Path):
    """Such a file is incomplete."""
    folder = shutil.copytree(stopped, tmp_path / "copy")
    (folder / ".123.000003-00000014.state").write_bytes(b"half")
    train(folder, EVERYTHING, (3, 14))
    assert sorted(file.name for file in folder.glob("*")) == ["000003-00000007.state", "000003-00000014.state"]
