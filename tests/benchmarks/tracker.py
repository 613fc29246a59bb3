"""Measure what a tracker costs a run: `python tests/benchmarks/tracker.py` prints a table.

The slowest epoch is the longest time between two epochs' lines in the journal, whatever happens between them; the
wait is that for the tracker, after the work was done. Medians of three runs of an 8-epoch training of lenet5x5 on
5,000 images.
"""

from __future__ import annotations

import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.servers import Server

REPEATS = 3
TRAIN = ("model=lenet5x5", "data.limit=5000", "training.epochs=8", "tracking.wait_seconds=5")


def train(folder: Path, *words: str) -> tuple[float, float, float]:
    """Seconds of the slowest epoch, of the wait at the end, and of the whole command."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "mnist_exp", *TRAIN, f"outputs={folder}", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    [run] = (folder / "runs").iterdir()
    lines = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    epochs = [line["time"] for line in lines if "time/epoch" in line.get("values", {})]
    slowest = max(after - before for before, after in pairwise(epochs)) / 1000
    waited = (run / "result.json").stat().st_mtime - lines[-1]["time"] / 1000
    return slowest, max(waited, 0), seconds


def main() -> None:
    """Train without a tracker and with each, and print what it took."""
    print("| tracker | slowest epoch (s) | wait at the end (s) | whole command (s) |")
    print("|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        root = Path(name)
        server = Server(root)
        address = f"tracking.uri=http://127.0.0.1:{silent.getsockname()[1]}"
        trackers = {
            "none": ["tracking=none"],
            "SQLite": ["tracking=local"],
            "a server": ["tracking=server", f"tracking.uri={server.uri}"],
            "a frozen server": ["tracking=server", f"tracking.uri={server.uri}"],
            "a server that is gone": ["tracking=server", f"tracking.uri={server.uri}"],
            "a port that never answers": ["tracking=server", address],
        }
        try:
            server.start()
            for number, (tracker, words) in enumerate(trackers.items()):
                if tracker == "a frozen server":
                    server.signal(signal.SIGSTOP)
                if tracker == "a server that is gone":
                    server.kill()
                figures = [train(root / f"{number}-{repeat}", *words) for repeat in range(REPEATS)]
                slowest, waited, seconds = map(statistics.median, zip(*figures, strict=True))
                print(f"| {tracker} | {slowest:.3f} | {waited:.1f} | {seconds:.1f} |", flush=True)
        finally:
            server.kill()


if __name__ == "__main__":
    main()
