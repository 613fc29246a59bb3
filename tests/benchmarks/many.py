"""Run a hundred tiny jobs in one sweep: do the last ones take more time or memory than the first?

    python tests/benchmarks/many.py [jobs]

Printed: seconds of the first and last fifth of the jobs, and the process's memory at the end of each fifth.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

WORDS = ("model=lenet_bn", "aug=rotate15", "data.limit=1000", "training.epochs=1", "tracking=none")
MOST_SECONDS, MOST_MEMORY = 1.2, 1.1  # the last fifth against the first


def memory(pid: int) -> float:
    """Return the memory of a process, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1000


def main(jobs: int) -> None:
    """Run the sweep, and look at it from outside."""
    ended: dict[Path, tuple[float, float]] = {}  # in order: seconds since the one before, and memory
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mnist_exp", "-m", *WORDS, f"seed=range({jobs})"]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        last = time.perf_counter()
        while process.poll() is None:
            for file in Path(folder).glob("outputs/sweeps/*/*/result.json"):
                if file not in ended and json.loads(file.read_text())["status"] == "finished":
                    now = time.perf_counter()
                    ended[file] = (now - last, memory(process.pid))
                    last = now
            time.sleep(0.02)
    if process.returncode or len(ended) < jobs:
        sys.exit(f"exit status {process.returncode} after {len(ended)} jobs")
    taken = list(ended.values())
    fifth = jobs // 5
    print("memory after each fifth, MB:", ", ".join(f"{taken[fifth * (i + 1) - 1][1]:,.0f}" for i in range(5)))
    first, late = (median(seconds for seconds, _ in part) for part in (taken[1:fifth], taken[-fifth:]))
    print(
        f"seconds of a job, median: first fifth {first:.2f}, last {late:.2f}: {late / first:.2f}, target ≤ {MOST_SECONDS}"
    )
    grown = taken[-1][1] / taken[fifth - 1][1]
    print(f"memory, last against first fifth: {grown:.2f}, target ≤ {MOST_MEMORY}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
