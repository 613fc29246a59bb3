"""Measure conversions of MNIST, in time and memory: `python tests/benchmarks/convert.py` prints a table.

MNIST is found as the program finds it. Seconds are those of the whole command, the median of five. Memory is the
peak of the command above that of the same conversion of 100 images, as a multiple of the size of all images.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPEATS = 5
IMAGES, BYTES = 70_000, 70_000 * 28 * 28


def convert(output: Path, to: str, *words: str) -> tuple[float, int, str]:
    """Seconds, peak bytes and the digest of one conversion, in a process of its own."""
    command = [sys.executable, "-m", "mnist_exp", "dataset", "convert", f"to={to}", f"output={output}", *words]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    found = re.search(r"^SHA-256 ([0-9a-f]{64}) ", out, re.MULTILINE)
    if process.returncode or not found:
        sys.exit(f"{' '.join(command)}: exit status {process.returncode}\n{out}")
    return seconds, usage.ru_maxrss * 1024, found[1]


def main() -> None:
    """Convert MNIST to each format and back, and print what it took."""
    print("| direction | seconds | images per second | memory | same SHA-256 |")
    print("|---|---:|---:|---:|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for to in ("idx", "csv", "npz", "folder"):
            convert(folder / f"few-{to}", to, "data=mnist", "data.limit=100")
        _, _, expected = convert(folder / "idx", "idx", "data=mnist")
        for other in ("csv", "npz", "folder"):
            for source, target in (("idx", other), (other, "idx")):
                whole = [f"data={source}", f"data.dir={folder / source}"]
                few = [f"data={source}", f"data.dir={folder / f'few-{source}'}"]
                _, floor, _ = convert(folder / f"few-{source}-{target}", target, *few)
                runs = []
                for number in range(REPEATS):
                    output = folder / (target if target == other and not number else "again")
                    runs.append(convert(output, target, *whole))
                    shutil.rmtree(folder / "again", ignore_errors=True)
                seconds, peak = (statistics.median(run[i] for run in runs) for i in (0, 1))
                same = {run[2] for run in runs} == {expected}
                print(
                    f"| {source} → {target} | {seconds:.2f} | {IMAGES / seconds:,.0f} | "
                    f"{(peak - floor) / BYTES:.2f} × | {'yes' if same else 'NO'} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
