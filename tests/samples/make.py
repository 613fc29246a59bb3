"""Make the sample directories of this folder: python make.py <checkout of the version that writes them>.

One run, one sweep of two jobs, one study of three trials and one interrupted run, on the built-in digits, without
plots. They are written under a neutral folder, so that no path in them depends on the machine.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

WORK = Path("/tmp/samples")
TARGET = Path(__file__).parent / "outputs"
# Pooling first keeps the model, and with it each sample, small.
MODEL = "model.layers=[{type: AveragePooling2D, pool_size: 4},Flatten,{type: Dense, units: 10},Softmax]"
SHARED = ("data=digits", "model=linear", MODEL, "tracking=none")
# Not needed to read a run back, or large.
DROPPED = ("plots", "*.h5", "architecture.md", ".claims")


def command(checkout: Path, *words: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(checkout), "USER": "user", "LOGNAME": "user"}
    environment = {k: v for k, v in environment.items() if not k.startswith(("MNIST_EXP", "MLFLOW"))}
    return subprocess.Popen([sys.executable, "-m", "mnist_exp", *words], cwd=WORK, env=environment)


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Send Ctrl-C to the run named `interrupted` once it has finished an epoch."""
    while not any(
        '"step": 1' in file.read_text() for file in WORK.glob("outputs/runs/interrupted-*/journal.jsonl")
    ):
        assert process.poll() is None, "the run ended before it could be interrupted"
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.wait()


def main() -> None:
    checkout = Path(sys.argv[1]).resolve()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    assert command(checkout, *SHARED, "training.epochs=2", "name=finished").wait() == 0
    jobs = (*SHARED, "training.epochs=2", "optimizer=adam,sgd", "sweep.name=sweep")
    assert command(checkout, "-m", *jobs).wait() == 0
    trials = ("optimizer.learning_rate=interval(0.001,0.1)", "tune.trials=3", "tune.name=study")
    assert command(checkout, "tune", *SHARED, "training.epochs=2", *trials).wait() == 0
    endless = ("training.epochs=10000", "name=interrupted")
    interrupt(command(checkout, *SHARED, *endless))
    shutil.rmtree(TARGET, ignore_errors=True)
    # The newest checkpoint is enough.
    for file in sorted(WORK.glob("outputs/runs/interrupted-*/checkpoint/*"))[:-1]:
        file.unlink()
    shutil.copytree(WORK / "outputs", TARGET, ignore=shutil.ignore_patterns(*DROPPED))


if __name__ == "__main__":
    main()
