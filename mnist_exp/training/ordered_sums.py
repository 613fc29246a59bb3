"""Sum a network's branches in a fixed order, because floating-point results depend on it.

TensorFlow's arithmetic optimizer joins additions into one `AddN` operation. With three or more terms, that
operation begins with whichever term's memory it can reuse, or, if the memory optimizer replaced it, adds the terms
as they arrive. Both depend on timing, despite `enable_op_determinism`: a model with a `Parallel` of three branches
ended with different weights each time it was trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf

from mnist_exp import registrations
from mnist_exp.model.saving import inner_layers

_OPTION = "arithmetic_optimization"


@contextmanager
def ordered_sums(model: keras.Model) -> Iterator[None]:
    """If the model adds branches, or might in a plug-in's layer, run without TensorFlow's arithmetic optimizer.

    Disabling it had no measurable effect on the time of a training step. Other models keep it, so that
    their results stay the same.
    """
    sums = (keras.layers.Add, keras.layers.Average)
    if not any(
        isinstance(layer, sums) or registrations.find("layer", type(layer).__name__)
        for layer in inner_layers(model)
    ):
        yield
        return
    before = tf.config.optimizer.get_experimental_options().get(_OPTION, True)
    tf.config.optimizer.set_experimental_options({_OPTION: False})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({_OPTION: before})
