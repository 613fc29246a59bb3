"""Import Keras and TensorFlow without their start-up chatter."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from threading import get_ident

_CHATTER = re.compile(rb"^(WARNING: All log messages before absl|[IW]\d{4} \d\d:\d\d:)")
_ANYTHING = re.compile(b"")

process_is_ours = False
"""Whether nobody but us uses Keras in this process: a command line, or a worker that runs a sweep's jobs."""
# What Keras and TensorFlow import where they find it, and need for nothing that is done here: 2 of 5 CPU seconds
# and 160 of 720 MB.
_DISPENSABLE = ("matplotlib", "pandas", "scipy", "sklearn")


def load() -> None:
    """Import TensorFlow and Keras (three seconds, the first time in a process).

    TensorFlow's C++ code logs to the standard error before any setting can reach it: what is only information
    or a warning there is dropped, everything else is passed on. Where `process_is_ours`, Keras does not learn of
    libraries that it can do without; they can be imported as ever.
    """
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    # What fails comes as an exception; the log adds remarks on drivers that nobody asked for.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "tensorflow" in sys.modules and "keras" in sys.modules:
        return
    with _stderr_without(_CHATTER), _as_if_without(_DISPENSABLE if process_is_ours else ()):
        import keras
        import tensorflow as tf

        # "This file format is considered legacy", and the like.
        logging.getLogger("absl").setLevel(logging.ERROR)
        tf.get_logger().setLevel(logging.ERROR)
        keras.utils.disable_interactive_logging()


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what libraries print while they convert or load a model; what fails still comes as an exception."""
    with _stderr_without(_ANYTHING), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Absent(MetaPathFinder):
    """Finds that some modules are not installed, for one thread: another may be importing them just now."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names, self._thread = names, get_ident()

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name in self._names and get_ident() == self._thread:
            raise ModuleNotFoundError(f"{name} is not looked for", name=name)


@contextmanager
def _as_if_without(names: Sequence[str]) -> Iterator[None]:
    """What this thread imports does not find these modules, unless they are there already."""
    finder = _Absent(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextmanager
def _stderr_without(chatter: re.Pattern[bytes]) -> Iterator[None]:
    """Drop the lines that begin so from the standard error, C++ code's too."""
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
