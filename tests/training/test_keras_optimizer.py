"""Check what the program relies on inside Keras' optimizers: these tests fail first when it changes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_exp.keras_spec.signatures import classes
from mnist_exp.training.keras_optimizer import FusedAdam, skip_gradient_reduction


@pytest.mark.parametrize("name", sorted(classes("optimizers")))
def test_gradients_can_be_taken_unreduced(name: str):
    """Keras calls the method that is replaced, with pairs of gradient and variable; the step is the same."""
    assert hasattr(getattr(keras.optimizers, name), "_all_reduce_sum_gradients")
    ends = []
    for skip in (False, True):
        optimizer = getattr(keras.optimizers, name)()
        variable = keras.Variable(np.ones((2, 2), np.float32))
        if skip:
            skip_gradient_reduction(optimizer)
        optimizer.apply([tf.ones((2, 2))], [variable])
        ends.append(variable.numpy())
    assert np.array_equal(*ends)


def test_reduction_is_not_traced():
    """The replaced method is the only one through which Keras sums gradients over devices."""
    optimizer = keras.optimizers.SGD()
    called = []
    optimizer._all_reduce_sum_gradients = lambda pairs: called.append(1) or list(pairs)
    optimizer.apply([tf.ones(2)], [keras.Variable(np.ones(2, np.float32))])
    assert called == [1]


def test_adam_has_the_state_that_its_fused_update_writes():
    """First and second moments per variable, as Keras variables with a resource handle."""
    variable = keras.Variable(np.ones(3, np.float32))
    optimizer = FusedAdam(0.1)
    optimizer.build([variable])
    index = optimizer._get_variable_index(variable)
    for moments in (optimizer._momentums, optimizer._velocities):
        assert moments[index].value.handle is not None
    optimizer.apply([tf.ones(3)], [variable])
    np.testing.assert_allclose(variable.numpy(), 0.9, rtol=1e-5)
    np.testing.assert_allclose(optimizer._momentums[index].numpy(), 0.1, rtol=1e-5)
