"""One of each kind of plug-in; docs/plugins.md shows how to use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from mnist_exp import plugin

Tensor = Any


@plugin.layer(reads="position", keeps_shape=True, mixes_batch=False)
class ChannelScale(keras.Layer):
    """Multiply each channel by a learned factor, and in training by noise of a given strength."""

    def __init__(self, initial: float = 1.0, noise: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.initial, self.noise = initial, noise
        # Keras draws its seed from the run's seed, and checkpoints contain its state.
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.factor = self.add_weight(
            name="factor", shape=(input_shape[-1],), initializer=keras.initializers.Constant(self.initial)
        )

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        scaled = inputs * ops.cast(self.factor, inputs.dtype)
        if training and self.noise:
            shape = ops.shape(inputs)
            scaled *= keras.random.normal(shape, 1.0, self.noise, inputs.dtype, seed=self.seed_generator)
        return scaled

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "initial": self.initial, "noise": self.noise}


@plugin.augmentation()
class RandomDimming(keras.Layer):
    """Darken each image by a random factor. Images have values from 0 to 255."""

    def __init__(self, lowest: float = 0.5, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lowest = lowest
        # Set anew before each step, from the run's seed and the number of the step.
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images: Tensor, training: bool = True) -> Tensor:
        shape = (ops.shape(images)[0], 1, 1, 1)
        return images * keras.random.uniform(shape, self.lowest, 1.0, seed=self.seed_generator)


@plugin.loss()
def sparse_focal(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Weigh down images that are classified well (Lin and others, 2017). `sparse…` losses get class indices."""
    classes = ops.cast(ops.reshape(y_true, (-1,)), "int32")
    correct = ops.take_along_axis(y_pred, classes[:, None], axis=-1)[:, 0]
    correct = ops.clip(correct, 1e-7, 1.0)
    return -((1 - correct) ** 2) * ops.log(correct)


@plugin.metric(better="min")
def mean_doubt(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Return one minus the highest probability of each image."""
    return 1 - ops.max(y_pred, axis=-1)


@plugin.callback()
class WeightNorms(plugin.Callback):
    """Write the norm of all weights after each epoch to norms.csv in the run's directory."""

    def __init__(self, digits: int = 4) -> None:
        self.digits = digits

    def on_start(self, training: plugin.Training) -> None:
        self.training = training
        self.file = training.folder / "norms.csv"
        # A resumed run has the lines of the finished epochs, and perhaps one for the epoch that it repeats.
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.lines = lines[: len(training.history)]

    def on_epoch(self, row: Mapping[str, float], is_best: bool) -> None:
        weights = self.training.model.get_weights()
        norm = float(np.sqrt(sum(np.sum(np.square(weight, dtype=np.float64)) for weight in weights)))
        self.lines.append(f"{row['epoch']:.0f},{norm:.{self.digits}f}")
        self.file.write_text("\n".join(self.lines) + "\n")


@plugin.schedule()
def restarts(progress: npt.NDArray[np.float64], periods: int = 3) -> npt.NDArray[np.float64]:
    """Fall to 0 along half a cosine several times (Loshchilov and Hutter, 2016)."""
    return (1 + np.cos(np.pi * (progress * periods % 1))) / 2


@plugin.optimizer()
class SignDescent(keras.optimizers.Optimizer):
    """Move each weight by the learning rate, against the sign of its gradient's moving average."""

    def __init__(self, learning_rate: float = 0.001, momentum: float = 0.9, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.momentum = momentum

    def build(self, variables: list[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        self.averages = self.add_optimizer_variables(variables, "average")

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        average = self.averages[self._get_variable_index(variable)]
        self.assign(average, self.momentum * average + (1 - self.momentum) * ops.cast(gradient, average.dtype))
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * ops.sign(average))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum}
