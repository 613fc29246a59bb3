"""Measure response times: `python tests/benchmarks/quick.py` prints a table.

For a wrong config, this is the time until the first line of the answer; for the others, that of the whole process. The
commands alternate with the import of TensorFlow, nine rounds: medians and ranges of seconds, and the medians as
shares of the import's.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = 9
PROGRAM = [sys.executable, "-m", "mnist_exp"]
LAYER = "model.layers.0={type: Conv2D, fliters: 3, kernel_size: 3}"
WRONG = ["model=pyramid", "optimizer.learning_rate=-1", "aug=rotat45", LAYER, "training.loss=croosentropy"]
COMMANDS = {
    "import tensorflow": [sys.executable, "-c", "import tensorflow"],
    "a wrong config": [*PROGRAM, *WRONG],
    "check of it": [*PROGRAM, "check", *WRONG],
    "--help": [*PROGRAM, "--help"],
    "train --help": [*PROGRAM, "train", "--help"],
    "--version": [*PROGRAM, "--version"],
    "--cfg job": [*PROGRAM, "--cfg", "job", "model=pyramid"],
    "--info": [*PROGRAM, "--info", "config"],
    "completion": [*PROGRAM, "-sc", "query=bash"],
}


def seconds(name: str, folder: str) -> float:
    """Until the first line of a wrong config's answer, else until the end."""
    environment = os.environ | {"COMP_LINE": "mnist-exp model=", "COMP_POINT": "16", "TF_CPP_MIN_LOG_LEVEL": "3"}
    started = time.perf_counter()
    process = subprocess.Popen(
        COMMANDS[name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd=folder
    )
    assert process.stdout is not None
    with process.stdout:
        first = process.stdout.readline()
        until_first = time.perf_counter() - started
        process.stdout.read()
    process.wait()
    wrong = name in ("a wrong config", "check of it")
    if process.returncode != (2 if wrong else 0) or (wrong and b"4 problems" not in first):
        sys.exit(f"{name}: exit status {process.returncode}: {first.decode()}")
    return until_first if wrong else time.perf_counter() - started


def main() -> None:
    """Print the table."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for name in COMMANDS:
            seconds(name, folder)  # files come into memory
        for _ in range(ROUNDS):
            for name in COMMANDS:
                times[name].append(seconds(name, folder))
    whole = statistics.median(times["import tensorflow"])
    print(f"| answer | median of {ROUNDS} | range | share of the import |\n|---|---:|---:|---:|")
    for name, measured in times.items():
        median = statistics.median(measured)
        print(f"| {name} | {median:.2f} s | {min(measured):.2f}–{max(measured):.2f} s | {median / whole:.2f} |")


if __name__ == "__main__":
    main()
