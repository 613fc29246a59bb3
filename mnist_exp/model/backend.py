"""Import Keras and TensorFlow without their start-up messages."""

from __future__ import annotations

import gc
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.abc import MetaPathFinder
from threading import get_ident

from mnist_exp.errors import RequestError
from mnist_exp.runs import signals

_CHATTER = re.compile(rb"^(WARNING: All log messages before absl|[IW]\d{4} \d\d:\d\d:)")
_ANYTHING = re.compile(b"")

process_is_ours = False
"""Whether only this package uses Keras in this process, as in the command or a sweep's worker."""
# Optional imports of Keras and TensorFlow that this package does not need. Skipping them saves 2 of 5 CPU seconds
# and 160 of 720 MB at start-up.
_DISPENSABLE = ("matplotlib", "pandas", "scipy", "sklearn")


def load() -> None:
    """Import TensorFlow and Keras, which takes three seconds the first time in a process.

    TensorFlow's C++ code logs to standard error before any setting can reach it: information and warnings are
    dropped, everything else is passed on. If `process_is_ours`, optional libraries are hidden from Keras during
    its import only, and the garbage collector ignores what exists afterwards. Raises `RequestError` if the
    environment selects another Keras backend.
    """
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend != "tensorflow":
        raise RequestError(f"KERAS_BACKEND={backend}: mnist-exp trains with TensorFlow; unset KERAS_BACKEND")
    os.environ["KERAS_BACKEND"] = backend  # otherwise ~/.keras/keras.json decides
    # Failures raise exceptions; the log only adds remarks on drivers.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "tensorflow" in sys.modules and "keras" in sys.modules:
        return
    with (
        signals.exiting() if process_is_ours else nullcontext(),
        _stderr_without(_CHATTER),
        _as_if_without(_DISPENSABLE if process_is_ours else ()),
        _objects_kept() if process_is_ours else nullcontext(),
    ):
        import keras
        import tensorflow as tf

        # Silence "This file format is considered legacy" and similar warnings.
        logging.getLogger("absl").setLevel(logging.ERROR)
        tf.get_logger().setLevel(logging.ERROR)
        keras.utils.disable_interactive_logging()


@contextmanager
def quiet() -> Iterator[None]:
    """Drop everything that libraries print while they convert or load a model; failures still raise exceptions."""
    with _stderr_without(_ANYTHING), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Absent(MetaPathFinder):
    """Report some modules as not installed, but only to one thread: others may be importing them right now."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names, self._thread = names, get_ident()

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name in self._names and get_ident() == self._thread:
            raise ModuleNotFoundError(f"{name} is hidden during this import", name=name)


@contextmanager
def _as_if_without(names: Sequence[str]) -> Iterator[None]:
    """Hide modules from the imports of this thread, unless they are already loaded."""
    finder = _Absent(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextmanager
def _objects_kept() -> Iterator[None]:
    """Let the garbage collector ignore all that exists after the block, which nothing would free anyway.

    Searching the 300,000 objects of TensorFlow again and again takes a sixth of the CPU time of a short run.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _stderr_without(chatter: re.Pattern[bytes]) -> Iterator[None]:
    """Drop lines that begin with a pattern from standard error, including those written by C++ code."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            captured.seek(0)
            for line in captured:
                if not chatter.match(line):
                    os.write(2, line)
