"""Prepare what a command line would train, ready for `fit`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import keras

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.data.dataset import Dataset
from mnist_exp.data.formats import find, prepare
from mnist_exp.model.build import build
from mnist_exp.model.preprocessing import statistics
from mnist_exp.training import device


def prepared(overrides: Sequence[str]) -> tuple[TrainConfig, Dataset, keras.Model]:
    """The config, the data and the model, on the device that the config asks for."""
    config, _ = compose_checked(Request("train", tuple(overrides)), TrainConfig)
    computer = device.resolve(config.device)
    data = prepare(find(config.data, lambda line: print(line, file=sys.stderr)), config.data)
    return config, data, build(config, statistics(data.train.images, config.preprocess), computer.precision)
