"""Load a saved model and score it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from mnist_exp.config.schema import TrainingConfig
from mnist_exp.data.dataset import Images, Part, Shape
from mnist_exp.errors import RequestError
from mnist_exp.model.compile_args import make_loss, make_metrics
from mnist_exp.runs.archives import refuse_oversized
from mnist_exp.training.device import halves_batches
from mnist_exp.training.keras_logits import join_outputs, logits_of
from mnist_exp.training.ordered_sums import ordered_sums

Probabilities = npt.NDArray[np.float32]
Result = TypeVar("Result")
Tensor = Any  # tf.Tensor; TensorFlow ships no types

# Fixed because results with another batch size differ in their last bits.
BATCH = 250
_INEXACT = 1e-3  # tolerance for a sum of probabilities
_ANY = 32  # pixels, for a model that takes images of any size


@dataclass(frozen=True)
class Scores:
    """A model's metrics on a part of the data, and its class probabilities (n, classes)."""

    metrics: dict[str, float]
    probabilities: Probabilities

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The most probable class of each image, as its index."""
        predicted: npt.NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return predicted


def load(path: Path) -> keras.Model:
    """Load a model from a `.keras` file without running any code that it contains."""
    refuse_oversized(path)
    return keras.saving.load_model(path, safe_mode=True)


def inspect_classifier(model: keras.Model, name: str) -> tuple[Shape, int]:
    """Return a model's image shape and number of classes.

    Raises `RequestError`, with `name` in its message, if the model is not an image classifier.
    """
    try:
        inputs, outputs = (
            [tuple(tensor.shape[1:]) for tensor in tensors] for tensors in (model.inputs, model.outputs)
        )
    except (AttributeError, TypeError) as error:  # e.g. a Sequential model that was never built
        raise RequestError(f"{name}: not a model from one image to its class probabilities") from error
    if not (
        len(inputs) == len(outputs) == 1
        and (len(inputs[0]), len(outputs[0])) == (3, 1)
        and all((*inputs[0], *outputs[0]))
        and inputs[0][2] in (1, 3)
        and outputs[0][0] > 1
    ):
        raise RequestError(
            f"{name}: not a classifier of small images: expected one input (height, width, 1 or 3) and a "
            f"probability for each class, found {inputs} and {outputs}"
        )
    total = sum_of_outputs(model, inputs[0])
    if not abs(total - 1) < _INEXACT:
        raise RequestError(not_probabilities(name, total))
    return inputs[0], outputs[0][0]


def refuse_logits(model: keras.Model, name: str) -> None:
    """Raise `RequestError` if a model of images does not return probabilities; NaN is accepted."""
    height, width, channels = (size or _ANY for size in model.input_shape[1:])
    total = sum_of_outputs(model, (height, width, channels))
    if abs(total - 1) >= _INEXACT:
        raise RequestError(not_probabilities(name, total))


def sum_of_outputs(model: keras.Model, shape: Shape) -> float:
    """Return the sum of a model's outputs for a grey image."""
    return float(np.sum(predict(model, np.full((1, *shape), 128, np.uint8))))


def not_probabilities(name: str, total: float) -> str:
    """Return the message about a model whose outputs do not sum to 1."""
    return (
        f"{name}: its outputs are not probabilities: they sum to {total:.3g}, expected 1; if they are logits, "
        "keras.Sequential([model, keras.layers.Softmax()]) makes them probabilities"
    )


def predict(model: keras.Model, images: Images) -> Probabilities:
    """Return class probabilities (n, classes), float32, for raw images (n, height, width, channels)."""
    # Bit-identical to `model.predict(images, batch_size=BATCH)`, but saves half a second for a tf.data pipeline.
    with ordered_sums(model):
        probabilities = _by_batch(lambda batch: model.predict_on_batch(images[batch]), len(images))
    return np.concatenate(probabilities).astype(np.float32, copy=False)


def score(model: keras.Model, part: Part, training: TrainingConfig) -> Scores:
    """Compute the loss and the configured metrics on a part of the data, as Keras' `evaluate` does.

    The loss includes the penalties of the layers, and is computed from the logits if the model ends in a softmax
    or sigmoid. It is computed in the graph of the predictions, as Keras knows logits and penalties only there.
    """
    loss, classes = make_loss(training), model.output_shape[1]
    targets = keras.utils.to_categorical(part.labels, classes) if training.one_hot else part.labels

    def compute(images: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        predicted = model(images, training=False)
        return predicted, logits_of(predicted), loss(wanted, predicted) + sum(map(tf.reduce_sum, model.losses))

    signature = [tf.TensorSpec([None, *array.shape[1:]], array.dtype) for array in (part.images, targets)]
    compiled = tf.function(compute, input_signature=signature, autograph=False)
    with ordered_sums(model):
        results = _by_batch(lambda batch: compiled(part.images[batch], targets[batch]), len(part))
    predicted, logits, losses = zip(*results, strict=True)
    metrics = {"loss": float(np.average(losses, weights=[len(batch) for batch in predicted]))}
    outputs = join_outputs(predicted, logits)
    for metric in make_metrics(training):
        metric.update_state(targets, outputs)
        metrics[metric.name] = float(metric.result())
    return Scores(metrics, outputs.numpy().astype(np.float32, copy=False))


def _by_batch(compute: Callable[[slice], Result], images: int) -> list[Result]:
    """Call a function for each batch, in parallel after the first call, which compiles it. Returns the results."""
    batches = [slice(first, first + BATCH) for first in range(0, images, BATCH)]
    results = [compute(batch) for batch in batches[:1]]
    with ThreadPoolExecutor(2 if halves_batches() else 1) as threads:
        return results + list(threads.map(compute, batches[1:]))
