"""Run directories that a stranger changed, in every verb that reads them.

Each is answered in time with exit status 0, 1 or 2 and a message of ours. Nothing outside of the working directory
is read, written or contacted: an audit hook sees which files this process opens, and what it connects to.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Never

import pytest
from PIL import Image
from support.cli import PATIENCE, SMALL, Cli, soak
from support.collector import Collector
from support.hostile_copies import CASES

from mnist_exp.commands import ui
from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.engine.preparation import set_up
from mnist_exp.engine.run import TrainingRun
from mnist_exp.errors import WorkError

pytestmark = pytest.mark.slow

DIGITS = ("data=digits", "model=linear")
VERBS: Sequence[Sequence[str]] = (
    ["runs"],
    ["runs", "format=json"],
    ["runs", "diff", "run=[shared,mine]"],
    ["runs", "note", "run=shared", "note=x"],
    ["check", "run=shared"],
    ["show", "run=shared"],
    ["compare", "run=[shared,mine]"],
    ["evaluate", "run=shared"],
    ["predict", "run=shared", "inputs=image.png"],
    ["visualize", "run=shared"],
    ["export", "run=shared", "format=[keras]", "output=exported"],
    ["from=shared", "training.epochs=3", "tracking=none"],
    ["check", "init_from=shared", *DIGITS],
    ["resume", "run=shared", "training.epochs=3"],
    ["sync"],
    ["sync", "run=shared"],
    ["export", "run=shared", "register=x"],
    ["ui", "open=false"],
    ["ui", "open=false", "run=shared"],
    ["runs"],
)
LIMIT = 5.0 * PATIENCE  # seconds of processor time
HANGS = 60 * PATIENCE
# One case in eight in CI.
SAMPLE = [name if number % 8 == 0 else soak(name) for number, name in enumerate(CASES)]


class Watch:
    """Notes files in a folder that this process opens, also through links, and addresses it connects to."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self.on = False
        self.seen: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            path, flags = os.fsdecode(arguments[0]), arguments[2] or 0
            real = path if flags & os.O_NOFOLLOW else os.path.realpath(path)
            if real.startswith((self._folder, "/etc/passwd", "/etc/hostname")):
                self.seen.append(f"open {path}")
        elif event in ("os.system", "os.exec") or (event == "socket.connect" and isinstance(arguments[1], tuple)):
            self.seen.append(f"{event} {arguments[-1]!r}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with two finished runs and their MLflow store."""
    from mnist_exp.cli import main

    outputs = tmp_path_factory.mktemp("trained") / "outputs"
    for name in ("shared", "mine"):
        words = [
            *SMALL,
            *DIGITS,
            "plots=all",
            "training.keep_checkpoint=true",
            "tracking=local",
            f"outputs={outputs}",
        ]
        assert main([*words, f"name={name}"]) == 0
        [run] = (outputs / "runs").glob(f"{name}-*")
        run.rename(outputs / "runs" / name)
    (outputs / "runs/shared/delivery.json").unlink()
    return outputs


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A folder with a file of the user's."""
    folder = tmp_path / "secret"
    folder.mkdir()
    (folder / "key.txt").write_text("PLANTED")
    return folder


@pytest.fixture
def watch(secret: Path) -> Iterator[Watch]:
    watch = Watch(secret)
    sys.addaudithook(watch)
    yield watch
    watch.on = False  # a hook cannot be removed


@contextmanager
def ending_hangs() -> Iterator[None]:
    """Interrupt what waits for a pipe."""

    def end(number: int, frame: object) -> Never:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(HANGS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    paths = ((str(path), path.lstat()) for path in folder.rglob("*"))
    return {path: (status.st_mtime_ns, status.st_size) for path, status in paths}


@pytest.mark.parametrize("name", SAMPLE)
def test_a_hostile_copy_is_answered(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, trained: Path, secret: Path, watch: Watch, name: str
):
    """By every verb, with nothing read, written or sent that is not the run's."""

    def refuse(run: TrainingRun) -> Never:
        raise WorkError("here it would train")

    def refuse_to_serve(*_: object) -> Never:
        raise WorkError("here MLflow would start")

    monkeypatch.setattr(TrainingRun, "execute", refuse)
    monkeypatch.setattr(ui, "_start_server", refuse_to_serve)
    set_up(compose_checked(Request("train", DIGITS), TrainConfig)[0])  # no verb is measured with Keras' start
    shutil.copytree(trained, "outputs")
    Image.new("L", (8, 8)).save("image.png")
    problems = []
    with Collector() as collector:
        CASES[name](Path("outputs/runs/shared"), secret, collector.uri)
        before = contents(secret)
        for words in VERBS:
            watch.seen, watch.on, begun = [], True, time.process_time()
            with ending_hangs():
                done = cli(*words, status=None)
            watch.on, seconds = False, time.process_time() - begun
            said = done.out + done.err
            faults = [
                *watch.seen,
                *(f"sent {request}" for request in collector.requests),
                *([f"exit status {done.status}"] if done.status not in (0, 1, 2) else []),
                *(f"said {word!r}" for word in ("unexpected", "\x1b", "\u202e", "PLANTED") if word in said),
                *([f"took {seconds:.1f} s"] if seconds > LIMIT else []),
                *(["changed the user's files"] if contents(secret) != before else []),
            ]
            collector.requests.clear()
            before = contents(secret)
            if faults:
                problems.append(f"{' '.join(words)}: {'; '.join(faults)}: {said[-1000:]}")
    for file in Path("outputs").rglob("*"):
        if file.is_file() and not file.is_symlink() and b"PLANTED" in file.read_bytes():
            problems.append(f"{file} has the user's secret")
    assert not problems, "\n\n".join(problems)
