"""Runs that end early, by signals or unwritable files: finished work is kept and can be resumed."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import PATIENCE, SMALL, Cli, start

from mnist_exp.cli import main
from mnist_exp.report.progress import TrainingDisplay
from mnist_exp.runs.journal import has_ended
from mnist_exp.training import loop
from mnist_exp.training.checkpoint import read_newest

LONG = (*SMALL, "training.epochs=5000")
TRAINED = ("training.epochs=3", "name=run", "plots=all")


@pytest.fixture
def endless(home_data: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A training that continues until it is terminated."""
    process = start(*LONG, *home_data)
    yield process
    process.kill()
    process.communicate()


def wait_for_epoch(process: subprocess.Popen[str], number: int) -> None:
    assert process.stdout is not None
    seen = (re.match(rf"epoch +{number}/", line) for line in process.stdout)
    assert any(seen), "the training ended by itself"


def the_run() -> Path:
    [run] = Path("outputs/runs").iterdir()
    return run


@pytest.mark.parametrize(
    ("number", "exit_status", "status"),
    [
        pytest.param(signal.SIGTERM, 143, "killed", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, "killed", marks=pytest.mark.slow),
        (signal.SIGINT, 130, "interrupted"),
    ],
)
def test_a_signal_marks_the_run(
    cli: Cli, endless: subprocess.Popen[str], number: signal.Signals, exit_status: int, status: str
):
    """The directory and the tracker have the new status at once, with a checkpoint of the last step."""
    wait_for_epoch(endless, 2)
    endless.send_signal(number)
    out, err = endless.communicate(timeout=60 * PATIENCE)
    assert endless.returncode == exit_status, err
    assert "Traceback" not in err
    run = the_run()
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == status
    assert result["reason"] == (number.name if status == "killed" else "KeyboardInterrupt")
    last = json.loads((run / "journal.jsonl").read_text().splitlines()[-1])
    assert (last["kind"], last["status"]) == ("end", "KILLED")
    assert out.splitlines()[-1] == f"to resume: mnist-exp resume run={run}"
    state, damaged = read_newest(run / "checkpoint", f"{result['name']} of {result['started']}")
    assert state is not None
    assert not damaged
    assert state.progress["epochs"] >= result["epochs"]
    done = cli("resume", "run=latest", f"training.epochs={state.progress['epochs'] + 1}")
    assert done.result["status"] == "finished"


@pytest.mark.parametrize(
    ("signaled", "exit_status", "status"),
    [(True, 143, "killed"), (False, 1, "failed")],
    ids=["SIGTERM", "full disk"],
)
def test_a_signal_at_the_start_is_recorded(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, signaled: bool, exit_status: int, status: str
):
    """It may arrive while the run is being announced."""

    def end(path: Path, text: str) -> None:
        if signaled:
            signal.raise_signal(signal.SIGTERM)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("mnist_exp.engine.run.write_text", end)
    done = cli(small=True, status=exit_status)
    assert done.result["status"] == status
    assert json.loads((the_run() / "journal.jsonl").read_text().splitlines()[-1])["kind"] == "end"
    assert f"mnist-exp resume run={the_run()}" in done.out + done.err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_for_the_tracker(cli: Cli, number: signal.Signals):
    """The run itself has finished, and leaves the files that every finished run does."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        words = (f"tracking.uri=http://127.0.0.1:{silent.getsockname()[1]}", "tracking.wait_seconds=60")

        def interrupt() -> None:
            while not (ends := list(Path.cwd().glob("outputs/runs/*/journal.jsonl"))) or not has_ended(
                ends[0].parent
            ):
                time.sleep(0.05)
            time.sleep(0.5)
            os.kill(os.getpid(), number)

        thread = threading.Thread(target=interrupt, daemon=True)
        thread.start()
        done = cli("tracking.enabled=true", *words, small=True)
        thread.join()
    assert done.result["status"] == "finished"
    assert "a signal ended the wait" in done.out
    assert "'mnist-exp sync' delivers it" in done.out
    assert "to resume: " not in done.out
    assert not (the_run() / "checkpoint").exists()
    assert not (the_run() / "delivery.log").exists()


@pytest.mark.slow
def test_repeated_ctrl_c_does_no_damage(cli: Cli, endless: subprocess.Popen[str]):
    """Not even while the first one is being handled."""
    wait_for_epoch(endless, 2)
    for _ in range(30):
        endless.send_signal(signal.SIGINT)
        try:
            endless.wait(0.05)
            break
        except subprocess.TimeoutExpired:
            pass
    _, err = endless.communicate(timeout=60 * PATIENCE)
    assert endless.returncode in (130, -signal.SIGINT)
    assert 'Traceback (most recent call last):\n  File "<frozen' not in err
    run = the_run()
    epochs = len((run / "history.csv").read_text().splitlines()) - 1
    done = cli("resume", "run=latest", f"training.epochs={epochs + 1}")
    assert done.result["status"] == "finished"
    assert len((run / "history.csv").read_text().splitlines()) == epochs + 2


@pytest.mark.slow
def test_a_signal_that_is_ignored_stays_ignored(home_data: list[str]):
    """With `nohup`, training continues when its terminal is closed."""
    words = [*SMALL, *home_data, "training.epochs=20"]
    process = start(*words, ignoring=signal.SIGHUP)
    wait_for_epoch(process, 1)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no byte free."""
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                pass


@pytest.fixture
def after_epoch(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """Call a function after a number of epochs."""

    def arrange(number: int, action: Callable[[], object]) -> None:
        on_epoch = TrainingDisplay.on_epoch

        def and_then(display: Any, row: dict[str, float], is_best: bool) -> None:
            on_epoch(display, row, is_best)
            if row["epoch"] == number:
                action()

        monkeypatch.setattr(TrainingDisplay, "on_epoch", and_then)

    return arrange


@pytest.mark.slow
def test_a_full_disk_loses_nothing(cli: Cli, small_disk: Path, after_epoch: Any):
    """The message names the file, the exit status is 1, and the previous checkpoint can be resumed."""
    after_epoch(2, lambda: fill(small_disk))
    failed = cli(*TRAINED, f"outputs={small_disk}/outputs", small=True, status=1)
    run = failed.run
    assert run is not None
    first, second = failed.err.splitlines()
    assert (
        first == f"mnist-exp: {run}/checkpoint/000003-00000000.state: cannot be written: No space left on device"
    )
    assert second == f"fix this, then resume with: mnist-exp resume run={run}"
    assert "killed" in cli("runs", f"outputs={small_disk}/outputs").out or failed.result["status"] == "failed"
    again = cli("resume", f"run={run}", status=None)
    assert again.status in (1, 2)
    assert "No space left on device" in again.err
    os.unlink(small_disk / "filler")
    result = json.loads((run / "result.json").read_text())
    state, damaged = read_newest(run / "checkpoint", f"{result['name']} of {result['started']}")
    assert state is not None
    assert not damaged
    assert state.progress["epochs"] == 2
    done = cli("resume", f"run={run}")
    assert done.result["weights_sha256"] == cli(*TRAINED, small=True).result["weights_sha256"]
    assert [line["kind"] for line in journal(run)].count("model") == 1


@pytest.mark.slow
def test_a_run_that_diverges_keeps_its_best_epoch(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """As after Ctrl-C: the model of the best epoch so far is saved, and other verbs take it."""
    read = loop.read_metrics

    def not_a_number_in_epoch_3(model: Any) -> dict[str, float]:
        metrics = read(model)
        return {**metrics, "loss": math.nan} if int(model.optimizer.iterations) > 6 else metrics

    monkeypatch.setattr(loop, "read_metrics", not_a_number_in_epoch_3)
    failed = cli("training.epochs=4", "name=run", "plots=all", small=True, status=1)
    assert failed.run is not None
    assert failed.result["status"] == "failed"
    assert failed.result["epochs"] == 2
    assert failed.result["test"] is None
    assert failed.result["weights_sha256"] is not None
    assert (failed.run / "plots" / "loss.png").is_file()
    monkeypatch.setattr(loop, "read_metrics", read)
    cli("evaluate", "run=run", "part=val", "output=scores")
    scored = json.loads(Path("scores/evaluation.json").read_text())
    best = failed.result["best"]
    assert scored["metrics"]["accuracy"] == pytest.approx(best["val/accuracy"])
    again = cli("init_from=run", small=True)
    assert again.result["init_from"]["weights_sha256"] == failed.result["weights_sha256"]


def journal(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "free", [60_000, *(pytest.param(free, marks=pytest.mark.slow) for free in (10_000, 110_000))]
)
def test_a_full_disk_at_the_end_loses_nothing(cli: Cli, small_disk: Path, after_epoch: Any, free: int):
    """It fills while models, scores or plots are saved."""

    def leave_little() -> None:
        fill(small_disk)
        os.truncate(small_disk / "filler", (small_disk / "filler").stat().st_size - free)

    after_epoch(3, leave_little)
    failed = cli(*TRAINED, f"outputs={small_disk}/outputs", small=True, status=1)
    run = failed.run
    assert run is not None
    assert "cannot be written: No space left on device" in failed.err
    assert not list(run.rglob(".*.keras"))
    os.unlink(small_disk / "filler")
    done = cli("resume", f"run={run}")
    assert done.result["weights_sha256"] == cli(*TRAINED, small=True).result["weights_sha256"]


@pytest.mark.slow
def test_a_directory_that_becomes_unwritable_loses_nothing(cli: Cli, small_disk: Path, after_epoch: Any):
    """It is mounted read-only during training."""
    runs = small_disk / "outputs" / "runs"

    def protect() -> None:
        for words in (["--bind", str(runs), str(runs)], ["-o", "remount,bind,ro", str(runs)]):
            subprocess.run(["mount", *words], check=True)

    after_epoch(2, protect)
    try:
        failed = cli(*TRAINED, f"outputs={small_disk}/outputs", small=True, status=1)
        assert "000003-00000000.state: cannot be written: Read-only file system" in failed.err
        refused = cli("resume", f"run={failed.run}", status=2)
        assert "cannot be written: Read-only file system" in refused.err
    finally:
        subprocess.run(["umount", str(runs)], check=True)
    done = cli("resume", f"run={failed.run}")
    assert done.result["weights_sha256"] == cli(*TRAINED, small=True).result["weights_sha256"]


def test_a_directory_that_is_removed_ends_the_run(
    after_epoch: Any, home_data: list[str], capsys: pytest.CaptureFixture[str]
):
    """The message names the file and the reason, and the exit status is 1."""
    after_epoch(2, lambda: shutil.rmtree("outputs"))
    assert main([*SMALL, *home_data, *TRAINED]) == 1
    told = capsys.readouterr().err
    assert re.match(r"mnist-exp: \S+/run-[\d-]+/checkpoint\S*: cannot be written: No such file or directory", told)


def test_an_output_directory_that_cannot_be_written_is_refused(cli: Cli, small_disk: Path):
    """If it is read-only or full at the start, the exit status is 2 and nothing is left behind."""
    fill(small_disk)
    full = cli(f"outputs={small_disk}/outputs", small=True, status=2)
    assert "cannot be written: No space left on device" in full.err
    assert not list(small_disk.glob("outputs/runs/*"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "Read-only file system" in cli(f"outputs={small_disk}/outputs", small=True, status=2).err
