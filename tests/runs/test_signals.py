"""Signals are neither lost nor mistaken for errors."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import PATIENCE, Cli, soak

from mnist_exp.errors import Killed, RequestError
from mnist_exp.report.progress import TrainingDisplay
from mnist_exp.runs import signals


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    signals.start()
    yield
    signals._raised.clear()
    signal.signal(signal.SIGINT, before)


class Deleted:
    """Sends this process a signal in `__del__`, where Python drops the handler's exception."""

    def __init__(self, number: signal.Signals) -> None:
        self._number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self._number)
        time.sleep(0.01)


def lose(number: signal.Signals) -> None:
    deleted = Deleted(number)
    del deleted


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Killed)])
def test_a_lost_signal_is_raised_at_the_next_check(number: signal.Signals, error: type[BaseException]):
    """It is raised at the end of the block at the latest, and Python does not print it before."""
    with pytest.raises(error), signals.raised():
        lose(number)
    with pytest.raises(error):
        signals.check()


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Killed)])
def test_a_signal_during_an_import_is_raised_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, error: type[BaseException]
):
    """No import is cut short, which could leave the import lock held; a blocking call after it is interrupted."""
    name = f"interrupted_by_{number.name}"
    Path(tmp_path, f"{name}.py").write_text(
        f"import os, time\nos.kill(os.getpid(), {number:d})\ntime.sleep(0.2)\ncomplete = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def work() -> None:
        importlib.import_module(name)
        time.sleep(60)

    with pytest.raises(error), signals.raised():
        work()
    assert sys.modules[name].complete


def test_repeated_signals_during_an_import_are_raised_once_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A class body of this package counts as part of the import."""
    kill = f"os.kill(os.getpid(), {signal.SIGINT:d})"
    Path(tmp_path, "often.py").write_text(
        f"import os, time\n__package__ = 'mnist_exp.often'\nclass Body:\n    {kill}\nfor _ in range(40):\n    {kill}\n"
        "    time.sleep(0.01)\ncomplete = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def work() -> None:
        importlib.import_module("often")
        time.sleep(60)

    with pytest.raises(KeyboardInterrupt), signals.raised():
        work()
    assert sys.modules["often"].complete
    time.sleep(0.3)  # a second exception would end this


def test_a_program_that_runs_during_an_import_can_be_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """This is the case if a module trains when it is imported."""
    from mnist_exp.engine import run

    continued: list[bool] = []

    def announcing(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        continued.append(True)

    monkeypatch.setattr(run, "announce", announcing)
    words = ["data=digits", "model=linear", "tracking=none"]
    Path(tmp_path, "trains.py").write_text(f"from mnist_exp.cli import main\nstatus = main({words})\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.import_module("trains").status == 130
    assert not continued


def test_only_lost_signals_are_unreported(monkeypatch: pytest.MonkeyPatch):
    """Python reports other exceptions in `__del__` as usual."""

    class Failing:
        def __del__(self) -> None:
            raise ValueError

    reported: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: reported.append(unraisable.exc_type))
    with signals.lost_exceptions_unreported():
        failing = Failing()
        del failing
        lose(signal.SIGINT)
    assert reported == [ValueError]


def test_only_signals_lost_in_cpp_are_unprinted(monkeypatch: pytest.MonkeyPatch):
    """C++ code that cannot pass an exception on prints it with `sys.excepthook`."""
    printed: list[object] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: printed.append(kind))
    with signals.lost_exceptions_unreported():
        for error in (KeyboardInterrupt(), Killed(signal.SIGTERM), ValueError()):
            sys.excepthook(type(error), error, None)
    assert printed == [ValueError]


def test_a_signal_lost_before_training_ends_the_run(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """The run ends before the first epoch, with the exit status of a signal."""
    from mnist_exp.engine import run

    announce = run.announce

    def announcing(*arguments: object) -> None:
        announce(*arguments)  # type: ignore[arg-type]
        lose(signal.SIGTERM)

    monkeypatch.setattr(run, "announce", announcing)
    done = cli("data=digits", "model=linear", "tracking=none", status=143)
    assert done.result["status"] == "killed"
    assert done.result["epochs"] == 0


@pytest.mark.parametrize("kind", [RuntimeError, RequestError])
def test_an_error_that_a_signal_caused_is_the_signal(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
):
    """If a library turns the exception into its own, the run or config is not reported as wrong."""

    def step(*_: object, **__: object) -> None:
        try:
            signals._raise(signal.SIGINT, None)
        except KeyboardInterrupt as error:
            raise kind("interrupted import") from error

    monkeypatch.setattr(TrainingDisplay, "on_epoch", step)
    done = cli("data=digits", "model=linear", "tracking=none", "format=json", status=130)
    assert "mnist-exp: interrupted" in done.err
    assert "interrupted import" not in done.err + done.out


def test_a_signal_of_an_earlier_command_does_not_hide_an_error(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """Programs and notebooks can run several commands."""
    monkeypatch.setattr(signals, "_raised", [signal.SIGINT])
    assert "no such command" in cli("trian", status=2).err


AT_THE_END = """\
import os, signal, sys, threading, time
import mnist_exp.__main__, mnist_exp.cli
from mnist_exp.runs import signals

def run():
    signals.start()
    others = threading.Thread(target=lambda: [time.sleep(0.5) or os.kill(os.getpid(), signal.SIGINT) for _ in range(TIMES)])
    others.start()
    return 3

mnist_exp.cli.main = run
sys.exit(mnist_exp.__main__.main())
"""


@pytest.mark.parametrize(("times", "status", "said"), [(1, 3, ""), (2, 130, "mnist-exp: interrupted\n")])
def test_ctrl_c_while_python_ends(times: int, status: int, said: str):
    """The command has ended, so its status counts. A second Ctrl-C does not wait for threads that do not end."""
    code = AT_THE_END.replace("TIMES", str(times))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60 * PATIENCE)
    assert (done.returncode, done.stderr) == (status, said)


def test_ctrl_c_between_the_command_and_its_end():
    """It is reported like any other, not with a traceback."""
    run = "def run():\n    raise KeyboardInterrupt\n"
    code = f"import sys, mnist_exp.__main__, mnist_exp.cli\n{run}mnist_exp.cli.main = run\nsys.exit(mnist_exp.__main__.main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60 * PATIENCE)
    assert (done.returncode, done.stderr) == (130, "mnist-exp: interrupted\n")


# After the import of a module, and a number of seconds later.
INSTANTS = [
    ("mnist_exp.errors", 0), ("pydantic", 0), ("hydra", 0), ("mnist_exp.config.schema", 0),
    *(("mnist_exp.config.schema", delay) for delay in (0.1, 0.3, 1, 2)),
]  # fmt: skip
MORE = [("mnist_exp.config.schema", round(0.08 * step, 2)) for step in range(1, 60)]


@pytest.mark.slow
@pytest.mark.parametrize(("module", "delay"), [*INSTANTS, *(soak(*instant) for instant in MORE)])
def test_ctrl_c_during_start_up(module: str, delay: float):
    """The result is one line and status 130, or an interrupted run, but no traceback and no other error."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "mnist_exp", "data=digits", "model=linear", "tracking=none",
         "training.epochs=1000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.rstrip().endswith(f" {module}"):
            break
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120 * PATIENCE)
    said = [line for line in err.splitlines() if not line.startswith("import time:")]
    assert (process.returncode, said) == (130, ["mnist-exp: interrupted"])
    for result in Path("outputs").rglob("result.json"):
        assert '"status": "interrupted"' in result.read_text()
