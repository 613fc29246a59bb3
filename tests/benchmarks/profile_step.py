"""Profile a training step: `python tests/benchmarks/profile_step.py [OVERRIDES…]` prints a table.

The operations of the second epoch on 6,400 images with one thread, the longest first: their own time as
TensorFlow's profiler records it, in milliseconds per 1,000 images.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from mnist_exp.model import backend

backend.load()

import tensorflow as tf  # noqa: E402
from prepared import prepared  # noqa: E402
from tensorflow.tsl.profiler.protobuf import xplane_pb2  # noqa: E402

from mnist_exp.training.callback import Callback  # noqa: E402
from mnist_exp.training.loop import fit  # noqa: E402

ALWAYS = ("data.limit=6500", "data.val_fraction=0.01", "device.threads=1", "training.epochs=2")


class Profiler(Callback):
    """Records from the end of the first epoch to the end of the second."""

    def __init__(self, folder: str) -> None:
        self.folder, self.running = folder, False

    def on_epoch(self, *_: Any) -> None:
        if self.running:
            tf.profiler.experimental.stop()
        else:
            options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=3, python_tracer_level=0)
            tf.profiler.experimental.start(self.folder, options)
            self.running = True


def own_times(events: list[tuple[int, int, str]]) -> Counter[str]:
    """Picoseconds by name, without what lies within other recorded events; (start, length, name) of one thread."""
    total: Counter[str] = Counter()
    around: list[tuple[int, str]] = []  # end and name
    for start, length, name in sorted(events, key=lambda event: (event[0], -event[1])):
        while around and around[-1][0] <= start:
            around.pop()
        if around:
            total[around[-1][1]] -= length
        total[name] += length
        around.append((start + length, name))
    return total


def main(overrides: tuple[str, ...]) -> None:
    """Train, and print the table."""
    config, data, model = prepared((*ALWAYS, *overrides))
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        fit(model, data, config, [Profiler(folder)])
        [path] = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    for plane in space.planes:
        names = {key: metadata.name for key, metadata in plane.event_metadata.items()}
        for line in plane.lines:
            events = [(event.offset_ps, event.duration_ps, names[event.metadata_id]) for event in line.events]
            total += own_times(
                [
                    event
                    for event in events
                    if ":" in event[2] and "::" not in event[2] and not event[2].startswith("EagerLocal")
                ]
            )
    by_kind: Counter[str] = Counter()
    for name, length in total.items():
        by_kind[name.split(":")[-1].split("#")[0]] += length
    for kind, table in (("operation", by_kind), ("node", total)):
        print(f"| {kind} | ms per 1,000 images |\n|---|---:|")
        for name, length in table.most_common(25):
            print(f"| {name} | {length / 1e9 / len(data.train) * 1000:.2f} |")
        print(f"| all | {sum(table.values()) / 1e9 / len(data.train) * 1000:.2f} |\n")


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
