"""Build the Keras model of a config. Its input is raw pixels."""

from __future__ import annotations

import keras

from mnist_exp.config.schema import TrainConfig
from mnist_exp.errors import Problem, RequestError
from mnist_exp.model.compile_args import make_loss, make_metrics, make_optimizer
from mnist_exp.model.graph import apply_layers
from mnist_exp.model.layer_selection import freeze
from mnist_exp.model.preprocessing import Statistics, apply_preprocessing

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def build(config: TrainConfig, statistics: Statistics, precision: str, *, compiled: bool = True) -> keras.Model:
    """Build the model of a config.

    Initial weights are a function of `config.seed`. The learning rate is a variable that the training loop sets.

    Args:
        config: A config that has passed `engine.keras_check.check`.
        statistics: The statistics of the training images, for preprocessing.
        precision: `float32` or `bfloat16`, for computations; weights, input and output are float32.
        compiled: Whether to compile the model with its optimizer, loss and metrics.

    Returns:
        A model with input (batch, height, width, channels) of raw pixels 0…255 and output (batch, classes).
    """
    keras.utils.set_random_seed(config.seed)
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[precision])
    try:
        inputs = keras.Input(config.data.shape, name="pixels", dtype="float32")
        x = apply_preprocessing(config.preprocess, statistics, inputs)
        places: dict[str, str] = {}
        outputs = apply_layers(config.model.layers.specs, x, _refuse, places)
        model = keras.Model(inputs, outputs, name=_identifier(config.model.name))
        for wanted in config.training.freeze:
            freeze(model, wanted, places)
        if compiled:
            model.compile(
                optimizer=make_optimizer(config.optimizer, config.training.ema),
                loss=make_loss(config.training),
                metrics=make_metrics(config.training),
                jit_compile=False,  # slower on CPUs
            )
    finally:
        keras.config.set_dtype_policy(previous)
    return model


def _refuse(path: str, message: str) -> None:
    raise RequestError([Problem("rejected-by-keras", path, message)])


def _identifier(name: str) -> str:
    return "".join(character if character.isalnum() else "_" for character in name)
