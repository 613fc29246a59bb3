"""On a GPU, training computes whole batches, with operations that GPUs have. A GPU is faked: none is needed.

TensorFlow registers its GPU kernels on every machine, so that a step's graph can be compared with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from support.device import set_up_tensorflow
from tensorflow.python.framework import kernels

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.data.formats import find, prepare
from mnist_exp.inference import scoring
from mnist_exp.model.build import build
from mnist_exp.model.preprocessing import statistics
from mnist_exp.training import step
from mnist_exp.training.fast_layers import use_fused_layers


@pytest.fixture
def faked_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake a visible GPU; the operations still run on the CPU."""
    set_up_tensorflow()
    visible = tf.config.get_visible_devices
    monkeypatch.setattr(
        tf.config, "get_visible_devices", lambda kind=None: ["gpu"] if kind == "GPU" else visible(kind)
    )


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Callable[[int], Any], bool]]:
    """Record the functions that are compiled, and whether each may compute a batch in halves."""
    found: list[tuple[Callable[[int], Any], bool]] = []
    by_size = step._by_size

    def record(function: Callable[[int], Any], halves: bool) -> Any:
        found.append((function, halves))
        return by_size(function, halves)

    monkeypatch.setattr(step, "_by_size", record)
    return found


def compile_all(*overrides: str) -> None:
    config, _ = compose_checked(Request("train", ("data=digits", *overrides)), TrainConfig)
    data = prepare(find(config.data, print), config.data)
    model = build(config, statistics(data.train.images, config.preprocess), config.device.precision)
    with use_fused_layers(model):
        step.compile_steps(model, data.train, config, np.full(1, 0.1, np.float32))(
            np.zeros((1, 8), np.int32), 0, 1.0
        )
        step.compile_validation(model, data.val, config)()


def missing_on_gpus(graph: Any) -> set[str]:
    """Return the operations of a graph, and of the functions that it calls, that have no GPU kernel."""
    definition = graph.as_graph_def()
    functions = {function.signature.name for function in definition.library.function}
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    return {node.op for node in nodes if node.op not in functions and not runs_on_gpus(node)}


def runs_on_gpus(node: Any) -> bool:
    registered = kernels.get_registered_kernels_for_op(node.op).kernel
    return any(fits(node, kernel) for kernel in registered if kernel.device_type in ("GPU", "DEFAULT"))


def fits(node: Any, kernel: Any) -> bool:
    def types(name: str) -> Iterator[int]:
        value = node.attr[name]
        yield from value.list.type or [value.type]

    return all(
        set(types(constraint.name)) <= set(constraint.allowed_values.list.type) for constraint in kernel.constraint
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "overrides", [("model=vgg_bn", "aug=rotate45"), ("model=pyramid", "optimizer=adamw")], ids=" ".join
)
def test_a_gpu_gets_whole_batches_and_operations_that_it_has(
    faked_gpu: None, compiled: list[Any], overrides: tuple[str, ...], precision: str
):
    """Batches are halved only for a CPU's cores. Only the choice of a batch's bytes from all images needs the CPU."""
    compile_all(*overrides, "training.batch_size=8", "data.limit=80", f"device.precision={precision}")
    assert [halves for _, halves in compiled] == [False, False]
    training, validation = (missing_on_gpus(function(1).get_concrete_function().graph) for function, _ in compiled)
    assert training == {"GatherV2"}  # GPUs have none for uint8
    assert validation == set()


def test_operations_without_a_gpu_kernel_are_found():
    """Otherwise the test above could not fail."""

    @tf.function(input_signature=[tf.TensorSpec([4], tf.string)])
    def on_the_cpu(words: Any) -> Any:
        return tf.strings.length(words)

    assert "StringLength" in missing_on_gpus(on_the_cpu.get_concrete_function().graph)


def test_scoring_on_a_gpu_is_not_divided_among_threads(faked_gpu: None, monkeypatch: pytest.MonkeyPatch):
    """Its batches follow one another."""
    workers: list[int] = []
    executor = scoring.ThreadPoolExecutor
    monkeypatch.setattr(scoring, "ThreadPoolExecutor", lambda most: workers.append(most) or executor(most))
    assert scoring._by_batch(lambda batch: batch.start, 2 * scoring.BATCH + 1) == [
        0,
        scoring.BATCH,
        2 * scoring.BATCH,
    ]
    assert workers == [1]
