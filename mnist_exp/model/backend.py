"""Import Keras and TensorFlow without their start-up chatter."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile

_CHATTER = re.compile(rb"^(WARNING: All log messages before absl|[IW]\d{4} \d\d:\d\d:)")


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
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            import keras
            import tensorflow as tf

            # "This file format is considered legacy", and the like.
            logging.getLogger("absl").setLevel(logging.ERROR)
            tf.get_logger().setLevel(logging.ERROR)
            keras.utils.disable_interactive_logging()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            captured.seek(0)
            for line in captured:
                if not _CHATTER.match(line):
                    os.write(2, line)
