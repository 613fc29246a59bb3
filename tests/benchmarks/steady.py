"""Training alone, as mnist-exp does it: `python tests/benchmarks/steady.py OVERRIDES…` prints JSON.

What each epoch took, by the clock and by the processor; no files, no tracker.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from mnist_exp.config.check import compose_checked
from mnist_exp.config.request import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.model import backend

backend.load()

from mnist_exp.data.load import find, prepare  # noqa: E402
from mnist_exp.model.build import build  # noqa: E402
from mnist_exp.model.preprocess import count_parameters, statistics  # noqa: E402
from mnist_exp.training import device  # noqa: E402
from mnist_exp.training.loop import fit  # noqa: E402


class Clock:
    """Seconds of the clock and of the processor at the start and after each epoch."""

    def __init__(self) -> None:
        self.readings = [(time.perf_counter(), time.process_time())]

    def on_steps(self, *_: Any) -> None: ...

    def on_epoch(self, *_: Any) -> None:
        self.readings.append((time.perf_counter(), time.process_time()))


def main(overrides: tuple[str, ...]) -> None:
    """Train what the overrides describe."""
    config, _ = compose_checked(
        Request("train", overrides, config_dir=__import__("os").environ.get("CDIR")), TrainConfig
    )
    computer = device.resolve(config.device)
    started = time.perf_counter()
    data = prepare(find(config.data, lambda _: None), config.data)
    reading = time.perf_counter() - started
    model = build(config, statistics(data.train.images, config.preprocess), computer.precision)
    clock = Clock()
    fit(model, data, config, clock)
    found = {
        "parameters": count_parameters(model),
        "images": len(data.train),
        "reading": reading,
        "precision": computer.precision,
        "readings": clock.readings,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
