"""Train as mnist-exp does, without files and tracker.

    python tests/benchmarks/steady.py OVERRIDES…

Waits for a line before each epoch, and prints what it took by the clock and by the processor, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from mnist_exp.model import backend

backend.load()

from prepared import prepared  # noqa: E402

from mnist_exp.training.callback import Callback  # noqa: E402
from mnist_exp.training.loop import fit  # noqa: E402


class Turns(Callback):
    """Waits for a line before each epoch, and prints what it took."""

    def __init__(self, images: int) -> None:
        self._images = images
        self._wait()

    def _wait(self) -> None:
        sys.stdin.readline()
        self._started = time.perf_counter(), time.process_time()

    def on_epoch(self, *_: Any) -> None:
        seconds, cpu = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        print(json.dumps({"images": self._images, "seconds": seconds, "cpu": cpu}), flush=True)
        self._wait()


def main(overrides: tuple[str, ...]) -> None:
    """Train what the overrides describe."""
    config, data, model = prepared(overrides)
    fit(model, data, config, [Turns(len(data.train))])


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
