"""The arguments, data and clock that the scripts that mnist-exp is compared with share.

    python tests/benchmarks/SCRIPT.py MNIST.NPZ MODEL AUG EPOCHS IMAGES PRECISION

Each script holds out a tenth of the images, validates after each epoch, and scores the test set at the end. With
TURNS=1, it waits for a line on standard input before each epoch, so that several programs can take turns.
"""

import argparse
import json
import os
import sys
import time

import numpy as np

BATCH = 128
PER_CALL = 20  # steps per call of a compiled function, as in mnist-exp
VALIDATION_BATCH = 500
# The ranges of aug=rotate45_mild.
DEGREES, SHIFT, ZOOM = 45, 0.1, 0.2


def arguments():
    """The command line of a script."""
    parser = argparse.ArgumentParser()
    parser.add_argument("archive")
    parser.add_argument("model")
    parser.add_argument("aug", choices=["none", "rotate45_mild"])
    parser.add_argument("epochs", type=int)
    parser.add_argument("images", type=int)
    parser.add_argument("precision", choices=["bfloat16", "float32"])
    return parser.parse_args()


def load(args):
    """(x, y), (x_val, y_val), (x_test, y_test): uint8, (n, 28, 28, 1) and (n,)."""
    with np.load(args.archive) as archive:
        x, y = archive["x_train"][: args.images, ..., np.newaxis], archive["y_train"][: args.images]
        tests = max(1, args.images // 6)
        test = archive["x_test"][:tests, ..., np.newaxis], archive["y_test"][:tests]
    held = args.images // 10
    return (x[held:], y[held:]), (x[:held], y[:held]), test


class Turns:
    """Waits for a turn before each epoch, and prints what the epoch took by the clock and by the processor."""

    def __init__(self, images):
        self._images = images

    def start(self):
        """Wait for a line, if the programs take turns."""
        if os.environ.get("TURNS") == "1":
            sys.stdin.readline()
        self._started = time.perf_counter(), time.process_time()

    def end(self):
        """Print a line of JSON."""
        seconds, cpu = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        print(json.dumps({"images": self._images, "seconds": seconds, "cpu": cpu}), flush=True)
