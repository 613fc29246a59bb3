"""Measure the cost of checkpoints: a table with their share of the training time.

    python tests/benchmarks/checkpoint.py [images]

Each model trains two epochs on a number of MNIST's images (all by default) with the settings that
`mnist-exp` has by default; every checkpoint is timed. What is printed is the share of the second epoch.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from mnist_exp.model import backend

backend.load()

from prepared import prepared  # noqa: E402

from mnist_exp.engine.callbacks import Checkpointing  # noqa: E402
from mnist_exp.training.checkpoint import Checkpoints  # noqa: E402
from mnist_exp.training.loop import Progress, fit  # noqa: E402


def measure(name: str, limit: str) -> str:
    """A row of the table for a model."""
    overrides = (f"model={name}", f"data.limit={limit}", "training.epochs=2")
    config, data, model = prepared(overrides)
    progress = Progress()
    taken: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        checkpoints = Checkpoints(Path(folder), "benchmark", None)

        class TimedCheckpointing(Checkpointing):
            def save(self) -> None:
                start = time.perf_counter()
                super().save()
                taken.append((progress.epochs + bool(progress.steps), time.perf_counter() - start))

        callback = TimedCheckpointing(checkpoints, model, progress, config.training.checkpoint_seconds)
        fit(model, data, config, [callback], progress)
        size = max(file.stat().st_size for file in Path(folder).iterdir())
    seconds = progress.history[1]["seconds"]
    found = [cost for epoch, cost in taken if epoch == 2]
    share = sum(found) / (seconds + sum(found))
    return (
        f"| `{name}` | {size / 1e6:.1f} | {seconds:.1f} | {len(found)} | {1000 * max(found):.0f} | {share:.2%} |"
    )


if __name__ == "__main__":
    print("| model | MB | seconds of the epoch | checkpoints in it | longest, ms | share of the time |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in ("pyramid", "lenet5x5", "vgg_bn"):
        print(measure(name, sys.argv[1] if len(sys.argv) > 1 else "null"), flush=True)
