"""The equivalent script in plain Keras, with which mnist-exp is compared.

    python tests/benchmarks/plain.py MNIST.NPZ MODEL AUG EPOCHS IMAGES

Trains on so many images (a tenth of them is held out) and prints a line of JSON after each epoch.
"""

import json
import sys
import time

import keras
import numpy as np
from keras import layers
from keras.src.legacy.preprocessing.image import ImageDataGenerator

BATCH = 128


def batch_norm_conv(filters):
    return [layers.Conv2D(filters, 3), layers.BatchNormalization(momentum=0.9), layers.Activation("relu")]


def same_conv(filters, size):
    return layers.Conv2D(filters, size, padding="same", activation="relu")


MODELS = {
    "pyramid": lambda: [
        layers.Conv2D(32, (7, 1), activation="relu"),
        layers.Conv2D(32, (1, 7), activation="relu"),
        layers.MaxPooling2D(),
        layers.SeparableConv2D(16, 3, activation="relu"),
        layers.SeparableConv2D(16, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(10, 1),
        layers.GlobalAveragePooling2D(),
        layers.Softmax(),
    ],
    "vgg_bn": lambda: [
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
        layers.Softmax(),
    ],
    "shallow": lambda: [
        layers.Conv2D(32, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(128, activation="relu"),
        layers.Dropout(0.5),
        layers.Dense(10),
        layers.Softmax(),
    ],
    "bottleneck": lambda: [
        *(same_conv(filters, 3) for filters in (16, 24, 32, 48, 64)),
        layers.Conv2D(10, 1, activation="relu"),
        layers.MaxPooling2D(),
        layers.Dropout(0.3),
        layers.Conv2D(10, 14),
        layers.Flatten(),
        layers.Softmax(),
    ],
    "lenet5x5": lambda: [
        same_conv(32, 5),
        layers.MaxPooling2D(),
        same_conv(64, 5),
        layers.MaxPooling2D(),
        same_conv(32, 5),
        layers.MaxPooling2D(),
        layers.Dropout(0.4),
        layers.Flatten(),
        layers.Dense(256, activation="relu"),
        layers.Dense(10),
        layers.Softmax(),
    ],
}


class Turns(keras.callbacks.Callback):
    """Waits for a line before each epoch, and prints what it took by the clock and by the processor."""

    def on_epoch_begin(self, epoch, logs=None):
        sys.stdin.readline()
        self.started = time.perf_counter(), time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        seconds, cpu = time.perf_counter() - self.started[0], time.process_time() - self.started[1]
        print(json.dumps({"images": self.images, "seconds": seconds, "cpu": cpu}), flush=True)


def main(path, name, aug, epochs, images):
    with np.load(path) as archive:
        x, y = archive["x_train"][:images, ..., np.newaxis].astype("float32") / 255, archive["y_train"][:images]
    x_val, y_val, x, y = x[: images // 10], y[: images // 10], x[images // 10 :], y[images // 10 :]
    model = keras.Sequential([keras.Input((28, 28, 1)), *MODELS[name]()])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    turns = Turns()
    common = {"epochs": epochs, "validation_data": (x_val, y_val), "callbacks": [turns], "verbose": 0}
    turns.images = len(x)
    if aug == "none":
        model.fit(x, y, batch_size=BATCH, **common)
    else:
        assert aug == "rotate45_mild", aug
        generator = ImageDataGenerator(
            rotation_range=45, width_shift_range=0.1, height_shift_range=0.1, zoom_range=0.2, fill_mode="constant"
        )
        model.fit(generator.flow(x, y, batch_size=BATCH), **common)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
