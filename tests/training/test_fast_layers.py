"""Faster operations give the same results, and are used only if they are equivalent."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_exp.training.fast_layers import (
    MONOTONIC,
    ActivatedMaxPooling2D,
    FusedBatchNormalization,
    use_fused_layers,
)
from mnist_exp.training.keras_optimizer import FUSED_OPTIMIZERS, FusedAdam

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(3, 5, (6, 7, 8, 3)).astype("float32")


def compiled(inputs: Any, outputs: Any, optimizer: str = "sgd") -> keras.Model:
    model = keras.Model(inputs, outputs)
    model.compile(optimizer, "mse")
    return model


def results(model: keras.Model, training: bool) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Return the output, the gradients of a weighted sum of it, and the batch statistics that layers keep."""
    images = tf.constant(IMAGES)
    with tf.GradientTape() as tape:
        tape.watch(images)
        output = model(images, training=training)
        weighed = tf.reduce_sum(
            output * tf.cos(tf.reshape(tf.range(tf.size(output), dtype=tf.float32), output.shape))
        )
    gradients = tape.gradient(weighed, [images, *(variable.value for variable in model.trainable_variables)])
    kept = [variable.numpy() for variable in model.non_trainable_variables]
    return output.numpy(), [gradient.numpy() for gradient in gradients], kept


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("arguments", [{}, {"scale": False}, {"center": False}, {"momentum": 0.5, "epsilon": 0.1}])
def test_batch_normalization(training: bool, arguments: dict[str, Any]):
    """Outputs, gradients and running statistics equal Keras', in training and at inference."""
    inputs = keras.Input((7, 8, 3))
    model = compiled(inputs, keras.layers.BatchNormalization(**arguments)(inputs))
    for variable in model.variables:
        variable.assign(RANDOM.uniform(0.5, 1.5, variable.shape))
    before = model.get_weights()
    expected = results(model, training)
    model.set_weights(before)
    with use_fused_layers(model):
        assert type(model.layers[1]) is FusedBatchNormalization
        found = results(model, training)
    assert type(model.layers[1]) is keras.layers.BatchNormalization
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-5)
    for one, other in zip(found[1] + found[2], expected[1] + expected[2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    assert training != all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (keras.layers.BatchNormalization(axis=1), (7, 8, 3)),
        (keras.layers.BatchNormalization(), (7,)),
        (keras.layers.BatchNormalization(renorm=True), (7, 8, 3)),
        (keras.layers.BatchNormalization(dtype="float16"), (7, 8, 3)),
        (keras.layers.BatchNormalization(trainable=False), (7, 8, 3)),
        (keras.layers.LayerNormalization(), (7, 8, 3)),
    ],
)
def test_unsupported_batch_normalization_is_not_replaced(layer: keras.Layer, shape: tuple[int, ...]):
    """The fused operation would compute another result, or none."""
    inputs = keras.Input(shape)
    model = compiled(inputs, layer(inputs))
    kind = type(layer)
    with use_fused_layers(model):
        assert type(model.layers[1]) is kind


@pytest.mark.parametrize("activation", sorted(MONOTONIC))
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_pooling_before_the_activation(activation: str, padding: str):
    """Values and gradients are equal; half of the windows have only negative values.

    Piecewise linear activations give the same bits; the others are monotonic only up to rounding.
    """
    inputs = keras.Input((7, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation=activation, bias_initializer=keras.initializers.Constant(-1))(inputs)
    model = compiled(inputs, keras.layers.MaxPooling2D(padding=padding)(x))
    expected = results(model, True)
    with use_fused_layers(model):
        assert type(model.layers[2]) is ActivatedMaxPooling2D
        assert model.layers[1].activation is keras.activations.linear
        found = results(model, True)
    assert model.layers[1].activation.__name__ == activation
    assert type(model.layers[2]) is keras.layers.MaxPooling2D
    assert not hasattr(model.layers[2], "activation")
    rounding = 0.0 if activation in {"relu", "relu6", "leaky_relu", "hard_sigmoid", "hard_tanh"} else 2e-7
    np.testing.assert_allclose(found[0], expected[0], rtol=rounding, atol=rounding)
    for one, other in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_an_activation_with_other_consumers_is_not_moved():
    """Neither is one that is not monotonic or whose output is penalized."""
    for activation, more in (("silu", {}), ("gelu", {}), ("relu", {"activity_regularizer": "l2"})):
        inputs = keras.Input((7, 8, 3))
        x = keras.layers.Conv2D(4, 3, activation=activation, **more)(inputs)
        model = compiled(inputs, keras.layers.MaxPooling2D()(x))
        with use_fused_layers(model):
            assert model.layers[1].activation.__name__ == activation
    inputs = keras.Input((7, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    ends = [keras.layers.GlobalAveragePooling2D()(end) for end in (x, keras.layers.MaxPooling2D()(x))]
    model = compiled(inputs, keras.layers.Add()(ends))
    expected = results(model, True)
    with use_fused_layers(model):
        assert model.layers[1].activation is keras.activations.relu
        assert np.array_equal(results(model, True)[0], expected[0])


@pytest.mark.parametrize("optimizer", [keras.optimizers.Adam, keras.optimizers.AdamW])
@pytest.mark.parametrize("arguments", [{}, {"beta_1": 0}, {"beta_2": 0}, {"epsilon": 1}, {"loss_scale_factor": 2}])
def test_adam(optimizer: type, arguments: dict[str, float]):
    """Fifty steps give Keras' weights and moments, with Keras' own decay and clipping."""
    ends = []
    for fuse_it in (False, True):
        random = np.random.default_rng(0)
        inputs = keras.Input((5,))
        model = compiled(inputs, keras.layers.Dense(4, kernel_initializer="zeros")(inputs))
        model.compile(optimizer(0.01, clipnorm=0.5, weight_decay=0.1, **arguments), "mse")
        model.optimizer.build(model.trainable_variables)

        def train(model: keras.Model = model, random: Any = random) -> None:
            apply = tf.function(lambda gradients: model.optimizer.apply(gradients, model.trainable_variables))
            for _ in range(50):
                gradients = [random.normal(size=variable.shape) for variable in model.trainable_variables]
                apply([tf.constant(gradient, tf.float32) for gradient in gradients])

        if fuse_it:
            with use_fused_layers(model):
                assert isinstance(model.optimizer, FusedAdam)
                train()
        else:
            train()
        assert type(model.optimizer) is optimizer
        ends.append([variable.numpy() for variable in (*model.variables, *model.optimizer.variables)])
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_other_variants_of_adam_are_not_replaced():
    """AMSGrad and Adam's relatives have other formulas."""
    inputs = keras.Input((5,))
    for optimizer in (keras.optimizers.Adam(amsgrad=True), keras.optimizers.Nadam(), keras.optimizers.SGD()):
        model = compiled(inputs, keras.layers.Dense(4)(inputs), optimizer)
        with use_fused_layers(model):
            assert type(model.optimizer) not in FUSED_OPTIMIZERS.values()
