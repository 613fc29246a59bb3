"""The models of the benchmark in plain Keras, as one would write them without mnist-exp."""

import keras
import opponent
from keras import layers


def batch_norm_conv(filters):
    return [layers.Conv2D(filters, 3), layers.BatchNormalization(momentum=0.9), layers.Activation("relu")]


def same_conv(filters, size):
    return layers.Conv2D(filters, size, padding="same", activation="relu")


def chain(x, *parts):
    """Apply layers one after another."""
    for layer in parts:
        x = layer(x)
    return x


def pyramid(x):
    return chain(
        x,
        layers.Conv2D(32, (7, 1), activation="relu"),
        layers.Conv2D(32, (1, 7), activation="relu"),
        layers.MaxPooling2D(),
        layers.SeparableConv2D(16, 3, activation="relu"),
        layers.SeparableConv2D(16, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(10, 1),
        layers.GlobalAveragePooling2D(),
    )


def vgg_bn(x):
    return chain(
        x,
        *batch_norm_conv(32),
        *batch_norm_conv(32),
        layers.MaxPooling2D(),
        *batch_norm_conv(64),
        *batch_norm_conv(64),
        layers.MaxPooling2D(),
        layers.Dropout(0.25),
        layers.Flatten(),
        layers.Dense(256, activation="relu"),
        layers.Dropout(0.5),
        layers.Dense(10),
    )


def shallow(x):
    return chain(
        x,
        layers.Conv2D(32, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(128, activation="relu"),
        layers.Dropout(0.5),
        layers.Dense(10),
    )


def lenet5x5(x):
    return chain(
        x,
        *(part for filters in (32, 64, 32) for part in (same_conv(filters, 5), layers.MaxPooling2D())),
        layers.Dropout(0.4),
        layers.Flatten(),
        layers.Dense(256, activation="relu"),
        layers.Dense(10),
    )


def normalized(x, filters, size=3, strides=1):
    x = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.9)(x)


def residual(x, filters, strides=1):
    shortcut = x if strides == 1 else normalized(x, filters, 1, strides)
    x = normalized(layers.ReLU()(normalized(x, filters, strides=strides)), filters)
    return layers.ReLU()(layers.Add()([x, shortcut]))


def resnet_mini(x):
    x = layers.MaxPooling2D()(layers.ReLU()(normalized(x, 16)))
    for filters, strides in ((16, 1), (16, 1), (32, 2), (32, 1), (32, 1)):
        x = residual(x, filters, strides)
    return layers.Dense(10)(layers.GlobalAveragePooling2D()(x))


MODELS = {
    "lenet5x5": lenet5x5,
    "vgg_bn": vgg_bn,
    "pyramid": pyramid,
    "resnet_mini": resnet_mini,
    "shallow": shallow,
}


def build(name):
    """A model of bytes (n, 28, 28, 1) that returns logits in float32, and its first layer scales them to 0…1."""
    inputs = keras.Input((28, 28, 1))
    scores = MODELS[name](layers.Rescaling(1 / 255)(inputs))
    return keras.Model(inputs, layers.Activation("linear", dtype="float32")(scores))


class Turns(keras.callbacks.Callback):
    """The clock of `opponent`, for `fit`."""

    def __init__(self, images):
        super().__init__()
        self._turns = opponent.Turns(images)

    def on_epoch_begin(self, epoch, logs=None):
        self._turns.start()

    def on_epoch_end(self, epoch, logs=None):
        self._turns.end()
