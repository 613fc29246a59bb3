"""Run the experiments for three seeds, or five, and print the table of docs/performance.md: `make reproduce`.

Each run is a whole command, as a user types it; its seconds are those of the clock, start-up and tracking included.
Other commands can be given instead: `python tests/benchmarks/reproduce.py "model=pyramid aug=rotate45"`.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

EXPERIMENTS = [f"experiment={name}" for name in ("pyramid", "vgg_bn", "shallow", "bottleneck", "lenet5x5")]
EXPERIMENTS.insert(1, "experiment=pyramid aug=none")
EXPERIMENTS += ["experiment=fast", "experiment=minute", "experiment=best"]
SEEDS = {"experiment=fast": 5, "experiment=minute": 5}


def run(words: str, seed: int) -> dict[str, Any]:
    """One command; what its run left. Exits where it fails."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "mnist_exp", *shlex.split(words), f"seed={seed}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - start
    found = re.search(r"^run +(\S+)$", done.stdout, re.MULTILINE)
    if done.returncode or not found:
        sys.exit(f"{shlex.join(command)}: exit status {done.returncode}\n{done.stdout}")
    folder = Path(found[1])
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    with (folder / "history.csv").open(encoding="utf-8") as file:
        epochs = [float(row["seconds"]) for row in csv.DictReader(file)]
    print(f"{words} seed={seed}: test {result['test']['accuracy']:.2%}, {seconds:.1f} s", file=sys.stderr)
    return {
        "parameters": result["parameters"],
        "epochs": len(epochs),
        "val": result["best"]["val/accuracy"],
        "test": result["test"]["accuracy"],
        "seconds": seconds,
        "epoch": median(epochs),
        "device": result["device"],
    }


def main(commands: list[str]) -> None:
    """Print a row of the table as soon as its runs are done."""
    print("| command | parameters | epochs | validation | test accuracy (each seed) | seconds | per epoch |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for words in commands:
        runs = [run(words, seed) for seed in range(SEEDS.get(words, 3))]
        each = ", ".join(f"{100 * one['test']:.2f}" for one in runs)
        print(
            f"| `mnist-exp {words}` | {runs[0]['parameters']:,} | {runs[0]['epochs']} "
            f"| {mean(one['val'] for one in runs):.2%} | **{mean(one['test'] for one in runs):.2%}** ({each}) "
            f"| {mean(one['seconds'] for one in runs):.0f} | {median(one['epoch'] for one in runs):.1f} |",
            flush=True,
        )
    print(
        f"\n{runs[0]['device']['device']}, {runs[0]['device']['threads']} threads, {runs[0]['device']['precision']}"
    )


if __name__ == "__main__":
    main(sys.argv[1:] or EXPERIMENTS)
