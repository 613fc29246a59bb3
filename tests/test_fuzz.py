"""Random requests and damaged files: each is answered in time with exit status 0, 1 or 2, and a message of ours.

Seeds are fixed, so that a failure can be repeated. `make soak` runs all of them, other tests a sample.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Never

import pytest
from support.cli import PATIENCE, SMALL, Cli, soak
from support.mutations import (
    mutate_archive,
    mutate_bytes,
    mutate_json,
    mutate_lines,
    mutate_text,
    of_text,
    random_override,
)

from mnist_exp.config.compose import compose
from mnist_exp.config.hydra_adapter import conf_folder
from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.engine.preparation import set_up
from mnist_exp.engine.run import TrainingRun
from mnist_exp.errors import WorkError

pytestmark = pytest.mark.slow

DIGITS = ("data=digits", "model=linear", "data.limit=300")
RUN = Path("outputs/runs/a")
LIMIT = 5.0 * PATIENCE  # seconds

# Mutations of a run's files by name, and the verbs that read them.
FILES: dict[str, tuple[Callable[[bytes, random.Random], bytes], Sequence[Sequence[str]]]] = {
    "config.yaml": (
        of_text(mutate_text),
        [["check", "run=a"], ["resume", "run=a", "training.epochs=3"], ["from=a"], ["compare", "run=[a,b]"]],
    ),
    "result.json": (
        of_text(mutate_json),
        [["runs"], ["resume", "run=a", "training.epochs=3"], ["compare", "run=[a,b]"], ["check", "run=a"]],
    ),
    "history.csv": (of_text(mutate_text), [["compare", "run=[a,b]"], ["resume", "run=a", "training.epochs=3"]]),
    "journal.jsonl": (of_text(mutate_lines), [["runs"], ["sync"], ["resume", "run=a", "training.epochs=3"]]),
    "delivery.json": (of_text(mutate_json), [["runs"], ["sync"]]),
    "checkpoint": (mutate_bytes, [["resume", "run=a", "training.epochs=3"]]),
    "model.keras": (
        mutate_archive,
        [["export", "run=a", "format=[keras]", "output=exported"], ["check", "init_from=a", *DIGITS]],
    ),
    "model.h5": (
        mutate_bytes,
        [["export", f"run={RUN}/model.h5", "format=[keras]", "output=exported", *DIGITS[:1]]],
    ),
    "mlflow.db": (mutate_bytes, [["sync"], ["export", "run=a", "register=x"]]),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with two finished runs and their MLflow store."""
    from mnist_exp.cli import main

    outputs = tmp_path_factory.mktemp("trained") / "outputs"
    for name in ("a", "b"):
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
    return outputs


@pytest.fixture(autouse=True)
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is right ends where the training would begin."""

    def refuse(run: TrainingRun) -> Never:
        raise WorkError("here it would train")

    monkeypatch.setattr(TrainingRun, "execute", refuse)


def start_keras() -> None:
    """Start TensorFlow, so that no request is measured with its start."""
    set_up(compose_checked(Request("train", DIGITS), TrainConfig)[0])


def contents(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if not path.name.startswith(".")}


def check(cli: Cli, seed: int, words: Sequence[str]) -> None:
    """Assert that a request is answered as it should be."""
    before, begun = contents(Path.cwd()), time.monotonic()
    done = cli(*words, status=None)
    seconds, said = time.monotonic() - begun, done.out + done.err
    case = f"seed {seed}: {words}: exit status {done.status} after {seconds:.1f} s\n{said[-2000:]}"
    assert done.status in (0, 1, 2), case
    assert "mnist-exp: unexpected" not in said, case  # YAML's own messages have the word, too
    assert "\x1b" not in said, case
    assert seconds < LIMIT, case
    if done.status == 2:
        assert contents(Path.cwd()) == before, case


def keys(values: Any, path: str = "") -> Iterator[str]:
    pairs: Iterable[tuple[Any, Any]] = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in pairs:
        yield f"{path}{key}"
        if isinstance(value, (dict, list)):
            yield from keys(value, f"{path}{key}.")


@pytest.mark.parametrize("seeds", [range(15), soak(range(15, 300))])
def test_random_overrides_are_answered(cli: Cli, seeds: range):
    """Wrong values, keys and syntax, alone and in pairs, for a run and for a sweep."""
    start_keras()
    known = dict.fromkeys(keys(compose(Request("train", ("data=digits",))).values))
    for seed in seeds:
        rng = random.Random(seed)
        words = [random_override(rng, known) for _ in range(rng.choice((1, 1, 2)))]
        check(cli, seed, ["check", *(["-m"] if rng.random() < 0.2 else []), *DIGITS, *words])


@pytest.mark.parametrize("seeds", [range(2), soak(range(2, 23))])
@pytest.mark.parametrize("file", FILES)
def test_damaged_run_directories_are_answered(cli: Cli, trained: Path, file: str, seeds: range):
    """Every file, by every verb that reads it."""
    start_keras()
    mutate, verbs = FILES[file]
    for seed in seeds:
        shutil.rmtree("outputs", ignore_errors=True)
        shutil.rmtree("exported", ignore_errors=True)
        shutil.copytree(trained, "outputs")
        found = Path("outputs/mlflow.db") if file == "mlflow.db" else RUN / file
        found = max(found.iterdir()) if found.is_dir() else found
        found.write_bytes(mutate(found.read_bytes(), random.Random(seed)))
        for words in verbs:
            check(cli, seed, words)


@pytest.mark.parametrize("seeds", [range(5), soak(range(5, 100))])
def test_damaged_option_files_are_answered(cli: Cli, seeds: range):
    """Copies of the built-in ones, with other values, cut, or not indented as they must be."""
    start_keras()
    files = [file for file in sorted(conf_folder().glob("*/*.yaml")) if file.parent.name != "hydra"]
    for seed in seeds:
        rng = random.Random(seed)
        file = rng.choice(files)
        group = file.parent.name
        option = Path("mine") / group / "mine.yaml"
        shutil.rmtree("mine", ignore_errors=True)
        option.parent.mkdir(parents=True)
        option.write_text(mutate_text(file.read_text(), rng), encoding="utf-8")
        check(cli, seed, ["check", "--config-dir=mine", *DIGITS, f"{group}=mine"])
