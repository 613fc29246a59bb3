"""Import Keras and TensorFlow without their start-up chatter."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_CHATTER = re.compile(rb"^(WARNING: All log messages before absl|[IW]\d{4} \d\d:\d\d:)")
_ANYTHING = re.compile(b"")


def load() -> None:
    """Import TensorFlow and Keras (three seconds, the first time in a process).

    TensorFlow's C++ code logs to the standard error before any setting can reach it: what is only information
    or a warning there is dropped, everything else is passed on.
    """
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    # What fails comes as an exception; the log adds remarks on drivers that nobody asked for.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "tensorflow" in sys.modules and "keras" in sys.modules:
        return
    with _stderr_without(_CHATTER):
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
