"""Read the logits that Keras attaches to a model's output. Only this module relies on that private attribute.

Keras' softmax and sigmoid attach their input to their output. The cross entropies use these logits instead of the
probabilities, which round to 0 and 1 for confident models. TensorFlow drops the attribute whenever it creates a
new tensor, so the loss for concatenated outputs or NumPy arrays is computed from clipped probabilities, and
differs.

`tests/training/test_keras_logits.py` fails first if a new version of Keras changes this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

Tensor = Any  # tf.Tensor; TensorFlow ships no types


def logits_of(output: Tensor) -> Tensor | None:
    """Return the logits of a model's output; None if the model does not end in a softmax or sigmoid."""
    return getattr(output, "_keras_logits", None)


def join_outputs(outputs: Sequence[Tensor], logits: Sequence[Tensor | None] | None = None) -> Tensor:
    """Concatenate a model's outputs for consecutive images, with their logits.

    Args:
        outputs: The outputs, each of shape (images, classes).
        logits: Their logits, if the outputs were returned by a compiled function or are NumPy arrays; by default
            those attached to the outputs.
    """
    attached = [logits_of(output) for output in outputs] if logits is None else list(logits)
    whole = tf.concat(outputs, axis=0)
    if all(part is not None for part in attached):
        whole._keras_logits = tf.concat(attached, axis=0)
    return whole
