"""Check what the program relies on about the logits that Keras attaches to outputs: fails first when it changes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_exp.training.keras_logits import join_outputs, logits_of

LOGITS = np.array([[200, 0, -50], [0, 90, 30], [-1, 2, 300], [5, 4, 3]], np.float32)
ENDS: dict[str, Any] = {
    "layer": keras.layers.Softmax(), "activation": keras.layers.Activation("softmax"),
    "sigmoid": keras.layers.Activation("sigmoid"),
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("compiled", [False, True])
def test_keras_attaches_logits(end: str, compiled: bool):
    """They are the input of a softmax or sigmoid, in a compiled function or not."""
    layer = ENDS[end]

    def logits(x: Any) -> Any:
        return logits_of(layer(x))

    np.testing.assert_array_equal((tf.function(logits) if compiled else logits)(tf.constant(LOGITS)), LOGITS)


def test_other_outputs_have_no_logits():
    """Joining them changes nothing."""
    outputs = [keras.layers.ReLU()(LOGITS[:2]), keras.layers.ReLU()(LOGITS[2:])]
    assert logits_of(outputs[0]) is None
    joined = join_outputs(outputs)
    assert logits_of(joined) is None
    np.testing.assert_array_equal(joined, np.maximum(LOGITS, 0))


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("loss", [keras.losses.CategoricalCrossentropy(), keras.losses.BinaryCrossentropy()])
def test_the_loss_of_joined_outputs_is_that_of_the_whole_output(end: str, loss: keras.Loss):
    """Keras' cross entropies use attached logits; without them, they give another value."""
    layer, targets = ENDS[end], tf.constant(np.eye(3, dtype=np.float32)[[1, 0, 2, 0]])

    @tf.function
    def losses(x: Any) -> tuple[Any, Any, Any]:
        parts = [layer(x[:2]), layer(x[2:])]
        return loss(targets, layer(x)), loss(targets, join_outputs(parts)), loss(targets, tf.concat(parts, axis=0))

    whole, joined, concatenated = losses(tf.constant(LOGITS))
    assert float(joined) == pytest.approx(float(whole), rel=1e-6)
    assert float(concatenated) < 0.5 * float(whole)


def test_logits_come_back_from_a_compiled_function():
    """They are returned separately, since the outputs lose them."""
    layer = keras.layers.Softmax()

    @tf.function
    def run(x: Any) -> Any:
        output = layer(x)
        return output, logits_of(output)

    outputs, logits = zip(run(tf.constant(LOGITS[:1])), run(tf.constant(LOGITS[1:])), strict=True)
    assert logits_of(outputs[0]) is None
    np.testing.assert_array_equal(logits_of(join_outputs(outputs, logits)), LOGITS)
