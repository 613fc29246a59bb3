"""Check the wording of Keras' errors that the program relies on: these tests fail first when it changes."""

from __future__ import annotations

import keras
import pytest

from mnist_exp.model.keras_errors import drop_received, explain_rejection, find_named_argument, first_sentence


def refusal(layer: keras.Layer, *shapes: tuple[int, ...]) -> BaseException:
    inputs = [keras.Input(shape) for shape in shapes]
    with pytest.raises(Exception) as raised:  # noqa: PT011 (of whatever type)
        layer(inputs if len(inputs) > 1 else inputs[0])
    return raised.value


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (keras.layers.Conv2D(4, 3), (5,), "Conv2D takes rows×columns×channels, but gets 5"),
        (keras.layers.LSTM(4), (5,), "LSTM takes steps×features, but gets 5"),
        (keras.layers.RepeatVector(4), (5, 2), "RepeatVector takes a vector, but gets 5×2"),
        (keras.layers.Conv2D(4, 3), (2, 2, 1), "Conv2D's kernel 3×3 does not fit its 2×2 input"),
        (
            keras.layers.Conv2D(4, 3, dilation_rate=2),
            (4, 4, 1),
            "Conv2D's kernel 3×3, dilated by 2×2, does not fit its 4×4 input",
        ),
        (keras.layers.MaxPooling2D(3), (2, 2, 1), "MaxPooling2D's window 3×3 does not fit its 2×2 input"),
    ],
)
def test_shape_error_is_recognized(layer, shape, expected):
    """Too few axes and windows larger than the input are recognized by Keras' wording."""
    text = "×".join(map(str, shape))
    assert explain_rejection(layer, text, "the input", refusal(layer, shape)) == f"{expected} (after the input)"


def test_lack_of_memory_is_recognized():
    """TensorFlow's message about a tensor that is too large begins with OOM."""
    layer = keras.layers.Dense(2**44)
    assert "do not fit into memory" in explain_rejection(layer, "65536", "the input", refusal(layer, (2**16,)))


def test_sentence_has_no_arguments_and_no_function_names():
    """The first sentence has no argument lists, line breaks or backquotes."""
    layer = keras.layers.Reshape((7, 2))
    sentence = first_sentence(refusal(layer, (5,)))
    assert sentence.startswith("The total size of the tensor must be unchanged")
    for unwanted in ("Arguments received", "Exception encountered", "\n", "`"):
        assert unwanted not in sentence


def test_sentence_has_no_operation_of_tensorflow():
    """TensorFlow appends the definition of the operation that failed."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 (of whatever type)
        keras.random.randint((1.5,), 0, 3)
    assert "NodeDef" in str(raised.value)
    assert "NodeDef" not in first_sentence(raised.value)


def test_shapes_that_were_received_can_be_cut():
    """Merge layers list the received shapes after `Received`."""
    error = refusal(keras.layers.Concatenate(), (4, 4, 1), (3, 3, 1))
    sentence = first_sentence(error)
    assert "Received" in sentence
    assert drop_received(sentence).endswith("except for the concatenation axis")


def test_argument_at_fault_is_found():
    """Constructors name the argument that they reject, and its value after `Received:`."""
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        keras.layers.Dropout(rate=7, name="drop")
    sentence = first_sentence(raised.value)
    assert find_named_argument(sentence, ["rate", "noise_shape"]) == "rate"
    assert find_named_argument(sentence, ["units"]) is None
    assert "Received" not in drop_received(sentence) != sentence
