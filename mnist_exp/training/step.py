"""The compiled parts of training: several steps in one call, and validation.

Images stay in memory as bytes; each batch is gathered by index and then augmented. With several threads, the two
halves of a batch are computed in parallel: on two cores, this takes up to a fifth less time than using both for
one operation at a time. The gradient is that of the whole batch.

AutoGraph, which translates Python's loops and conditions, is off: it would double the time of the first step.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from mnist_exp.config.schema import TrainConfig
from mnist_exp.data.dataset import Part
from mnist_exp.keras_spec.layer_types import traits
from mnist_exp.keras_spec.objective import takes_one_hot
from mnist_exp.training.batch_augmentation import make_batch_augment
from mnist_exp.training.device import halves_batches
from mnist_exp.training.distillation import divergences
from mnist_exp.training.keras_logits import join_outputs, logits_of
from mnist_exp.training.keras_optimizer import skip_gradient_reduction

VALIDATION_BATCH = 500

Tensor = Any  # tf.Tensor; TensorFlow ships no types


def compile_steps(
    model: keras.Model,
    train: Part,
    config: TrainConfig,
    rates: npt.NDArray[np.float32],
    class_weights: npt.NDArray[np.float32] | None = None,
    teacher: keras.Model | None = None,
) -> Callable[[npt.NDArray[np.int32], int, float], None]:
    """Compile a function that performs one training step per row of image indices.

    `class_weights` holds, for each class, a factor for the losses of its images. `teacher` is the model whose
    outputs are learned as well, as `training.distillation` says.

    Returns:
        A function of the rows, the number of the first step, and a factor for the learning rate.
    """
    images, targets = tf.constant(train.images), _targets(train, config)
    table = tf.constant(rates)
    augment = make_batch_augment(config, len(rates))
    build_state(model)
    skip_gradient_reduction(model.optimizer)
    halves = halves_batches() and learns_in_halves(model, config)
    loss_of = _weighted_loss(model, class_weights, config, teacher)
    learn = _compile_learning(model, targets, loss_of)

    signature = [tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.float32)]

    def compiled(parts: int) -> Any:
        @tf.function(input_signature=signature, autograph=False)  # type: ignore[untyped-decorator]
        def run_steps(rows: Tensor, first_step: Tensor, scale: Tensor) -> None:
            def run_step(index: Tensor) -> list[Tensor]:
                step = first_step + tf.cast(index, tf.int64)
                model.optimizer.learning_rate.assign(tf.gather(table, step) * scale)
                batch = tf.cast(tf.gather(images, rows[index]), tf.float32)
                learn(*augment(batch, tf.gather(targets, rows[index]), step), parts)
                return [index + 1]

            tf.while_loop(lambda index: index < tf.shape(rows)[0], run_step, [0])

        return run_steps

    steps_of = _by_size(compiled, halves)

    def run(rows: npt.NDArray[np.int32], first_step: int, scale: float) -> None:
        run_steps = steps_of(rows.shape[1])
        run_steps(tf.constant(rows), tf.constant(first_step, tf.int64), tf.constant(scale, tf.float32))

    return run


def _weighted_loss(
    model: keras.Model,
    class_weights: npt.NDArray[np.float32] | None,
    config: TrainConfig,
    teacher: keras.Model | None,
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return a function that computes the training loss from images, their targets and the model's outputs.

    It is the mean over the images, plus the penalties of layers. Mixed images have mixed class weights.
    """
    table = None if class_weights is None else tf.constant(class_weights)
    share, temperature = config.training.distillation.weight, config.training.distillation.temperature

    def weigh(y: Tensor) -> Tensor | None:
        if table is None:
            return None
        if config.aug.mixes:
            return tf.linalg.matvec(y, table)
        return tf.gather(table, y if y.shape.rank == 1 else tf.argmax(y, axis=1))

    def loss_of(x: Tensor, y: Tensor, predicted: Tensor) -> Tensor:
        weights = weigh(y)
        loss = model.compute_loss(x, y, predicted, weights, training=True)
        if teacher is None:
            return loss
        apart = divergences(teacher(x, training=False), predicted, temperature)
        distilled = temperature**2 * tf.reduce_mean(apart if weights is None else weights * apart)
        return (1 - share) * loss + share * (distilled + sum(map(tf.reduce_sum, model.losses)))

    return loss_of


def _compile_learning(
    model: keras.Model, targets: Tensor, loss_of: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Callable[[Tensor, Tensor, int], None]:
    """Return a replacement for Keras' `train_step` that computes the gradient of a batch in parts.

    Args:
        model: The model.
        targets: The targets of all training images.
        loss_of: A function of images, their targets and the model's outputs.

    Returns:
        A function of a batch, its targets, and the number of parts.
    """
    signature = [
        tf.TensorSpec([None, *model.input_shape[1:]], tf.float32),
        tf.TensorSpec([None, *targets.shape[1:]], targets.dtype),
        tf.TensorSpec([], tf.float32),
    ]

    @tf.function(input_signature=signature, autograph=False)  # type: ignore[untyped-decorator]
    def gradients(x: Tensor, y: Tensor, share: Tensor) -> tuple[Any, Tensor, Tensor, Tensor | None]:
        """Compute the gradients of one part, weighted by its share of the batch; traced once for all parts."""
        with tf.GradientTape() as tape:
            predicted = model(x, training=True)
            loss = share * loss_of(x, y, predicted)
            scaled = model.optimizer.scale_loss(loss)
        return tape.gradient(scaled, model.trainable_weights), loss, predicted, logits_of(predicted)

    def learn(batch: Tensor, wanted: Tensor, parts: int) -> None:
        count = tf.shape(wanted)[0]
        found = []
        for start, stop in _bounds(count, parts):
            share = tf.cast(stop - start, tf.float32) / tf.cast(count, tf.float32)
            found.append(gradients(batch[start:stop], wanted[start:stop], share))
        each, losses, predicted, logits = zip(*found, strict=True)
        summed = [None if of_one[0] is None else tf.add_n(of_one) for of_one in zip(*each, strict=True)]
        model.optimizer.apply_gradients(zip(summed, model.trainable_weights, strict=True))
        _count_loss(model, tf.add_n(losses), count)
        model.compute_metrics(batch, wanted, join_outputs(predicted, logits), None)

    return learn


def compile_validation(model: keras.Model, val: Part, config: TrainConfig) -> Callable[[], dict[str, float]]:
    """Compile a function that returns the metrics of the current model on the validation set."""
    images, targets = tf.constant(val.images), _targets(val, config)
    halves = halves_batches() and not _penalizes_outputs(model)
    signature = [tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.int64)]

    def compiled(parts: int) -> Any:
        @tf.function(input_signature=signature, autograph=False)  # type: ignore[untyped-decorator]
        def score(start: Tensor, stop: Tensor) -> None:
            predicted = join_outputs(
                [
                    model(tf.cast(images[start + first : start + last], tf.float32), training=False)
                    for first, last in _bounds(stop - start, parts)
                ]
            )
            wanted = targets[start:stop]
            _count_loss(model, model.compute_loss(None, wanted, predicted, None, training=False), stop - start)
            model.compute_metrics(None, wanted, predicted, None)

        return score

    score_of = _by_size(compiled, halves)

    def validate() -> dict[str, float]:
        model.reset_metrics()
        for start in range(0, len(val), VALIDATION_BATCH):
            stop = min(start + VALIDATION_BATCH, len(val))
            score_of(stop - start)(tf.constant(start, tf.int64), tf.constant(stop, tf.int64))
        return read_metrics(model)

    return validate


def _by_size(compiled: Callable[[int], Any], halves: bool) -> Callable[[int], Any]:
    """Return a function that selects the compiled function for a batch size: a single image cannot be halved."""
    by_parts = {1: compiled(1), 2: compiled(2)}  # traced at their first call
    return lambda images: by_parts[2 if halves and images > 1 else 1]


def learns_in_halves(model: keras.Model, config: TrainConfig) -> bool:
    """Return whether a batch's gradient is the mean of the gradients of its halves.

    It is not if a layer normalizes over the batch, uses the same noise for all images, or penalizes its outputs,
    or if the loss is not a mean over images.
    """
    for layer in model.layers:
        if layer.trainable and traits(layer).mixes_batch:
            return False
        if (getattr(layer, "noise_shape", None) or [None])[0] is not None:
            return False
    if _penalizes_outputs(model):
        return False
    classes = config.data.classes
    labels = np.arange(4) % classes
    targets = np.eye(classes, dtype=np.float32)[labels] if config.training.one_hot else labels
    predicted = np.random.default_rng(0).dirichlet(np.ones(classes), 4).astype(np.float32)
    whole, first, second = (
        float(model.loss(targets[of], predicted[of])) for of in (slice(None), slice(2), slice(2, None))
    )
    return bool(np.isclose(whole, (first + second) / 2, rtol=1e-5))


def _penalizes_outputs(model: keras.Model) -> bool:
    return any(getattr(layer, "activity_regularizer", None) is not None for layer in model.layers)


def _bounds(count: Tensor, parts: int) -> list[tuple[Tensor, Tensor]]:
    """Split `count` images into `parts` parts and return the start and stop of each."""
    return list(pairwise(count * part // parts for part in range(parts + 1)))


def _count_loss(model: keras.Model, loss: Tensor, images: Tensor) -> None:
    [tracker] = [metric for metric in model.metrics if metric.name == "loss"]
    tracker.update_state(loss, sample_weight=images)


def _targets(part: Part, config: TrainConfig) -> Any:
    if config.training.one_hot:
        return tf.one_hot(part.labels, config.data.classes)
    return tf.constant(part.labels.astype(np.int32))


def build_state(model: keras.Model) -> None:
    """Create all variables that training uses, because none can be created inside a compiled function."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    shape = (1, *model.output_shape[1:])
    labels = np.zeros(shape) if _takes_one_hot(model) else np.zeros((1,), np.int32)
    model.compute_metrics(None, labels, np.full(shape, 1 / shape[-1], np.float32), None)
    model.reset_metrics()


def _takes_one_hot(model: keras.Model) -> bool:
    return takes_one_hot(type(model.loss).__name__)


def read_metrics(model: keras.Model) -> dict[str, float]:
    """Return the metrics accumulated since their last reset."""
    return {name: float(value) for name, value in model.get_metrics_result().items()}
