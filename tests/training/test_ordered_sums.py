"""Branches are added in the same order in every run."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.data.formats import find, prepare
from mnist_exp.model.build import build
from mnist_exp.model.preprocessing import statistics
from mnist_exp.training.callback import Callback
from mnist_exp.training.loop import Snapshot, fit
from mnist_exp.training.ordered_sums import ordered_sums
from mnist_exp.training.step import compile_steps

REPETITIONS = 20
BRANCHES = ", ".join(
    f"[{', '.join(['Flatten', *['{type: Dense, units: 300, activation: tanh}'] * depth])}, {{type: Dense, units: 10}}]"
    for depth in (2, 1, 3)
)
LAYERS = f"model.layers=[{{type: Parallel, merge: Average, branches: [{BRANCHES}]}}, Softmax]"


def setting(*overrides: str) -> tuple[TrainConfig, Any, Any]:
    words = ("data=digits", "data.limit=200", "optimizer=sgd", "training.epochs=1", *overrides)
    config, _ = compose_checked(Request("train", words), TrainConfig)
    data = prepare(find(config.data, print), config.data)
    return config, data, build(config, statistics(data.train.images, config.preprocess), "float32")


def test_weights_of_parallel_branches_are_those_of_any_repetition():
    """Whichever branch is computed first: with TensorFlow's own choice of the order, 3 results alternate."""
    config, data, model = setting(LAYERS)
    run = compile_steps(model, data.train, config, np.full(3, 0.1, np.float32))
    rows = np.arange(96, dtype=np.int32).reshape(3, 32)
    start = Snapshot.of(model)
    ends = set()
    with ordered_sums(model):
        for _ in range(REPETITIONS):
            start.restore(model)
            run(rows, 0, 1.0)
            ends.add(b"".join(weight.tobytes() for weight in model.get_weights()))
    assert len(ends) == 1, f"{len(ends)} different results"


class Options(Callback):
    """Records whether TensorFlow's arithmetic optimizer may work while a model is trained."""

    found: bool | None = None

    def on_steps(self, epoch: int, done: int, steps: int, metrics: Any) -> None:
        self.found = tf.config.optimizer.get_experimental_options().get("arithmetic_optimization", True)


def test_only_models_that_add_branches_train_without_the_arithmetic_optimizer():
    """The setting is that of the process, and is restored."""
    for overrides, expected in ((LAYERS,), False), (("model=linear",), True):
        config, data, model = setting(*overrides)
        options = Options()
        fit(model, data, config, [options])
        assert options.found is expected
        assert tf.config.optimizer.get_experimental_options().get("arithmetic_optimization", True)
