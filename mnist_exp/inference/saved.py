"""Load a saved model, and score it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from mnist_exp.config.schema import TrainingConfig
from mnist_exp.data.dataset import Images, Part
from mnist_exp.model.objective import make_loss, make_metrics
from mnist_exp.training.device import halves_batches

Probabilities = npt.NDArray[np.float32]

# Part of what a figure is: another batch size gives other last bits.
BATCH = 250


@dataclass(frozen=True)
class Scores:
    """A model's metrics on a part of the data, and its class probabilities (n, classes)."""

    metrics: dict[str, float]
    probabilities: Probabilities

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The most probable class of each image."""
        predicted: npt.NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return predicted


def load(path: Path) -> keras.Model:
    """A model from a `.keras` file; nothing in it is run."""
    return keras.saving.load_model(path, safe_mode=True)


def predict(model: keras.Model, images: Images) -> Probabilities:
    """Class probabilities (n, classes), float32, of raw images (n, height, width, channels)."""
    # The same bits as `model.predict(images, batch_size=BATCH)`, without half a second for a tf.data pipeline.
    batches = [images[first : first + BATCH] for first in range(0, len(images), BATCH)]
    probabilities = [model.predict_on_batch(batch) for batch in batches[:1]]  # compiles it
    with ThreadPoolExecutor(2 if halves_batches() else 1) as threads:
        probabilities += threads.map(model.predict_on_batch, batches[1:])
    return np.concatenate(probabilities).astype(np.float32, copy=False)


def score(model: keras.Model, part: Part, training: TrainingConfig) -> Scores:
    """The loss and the metrics that the config names, on a part of the data."""
    probabilities = predict(model, part.images)
    targets = keras.utils.to_categorical(part.labels, probabilities.shape[1]) if training.one_hot else part.labels
    # As Keras' own `evaluate`: with what layers add for their weights.
    metrics = {"loss": float(make_loss(training)(targets, probabilities)) + float(sum(model.losses))}
    for metric in make_metrics(training):
        metric.update_state(targets, probabilities)
        metrics[metric.name] = float(metric.result())
    return Scores(metrics, probabilities)
