"""Evaluate predictions on labelled images: accuracy, precision and recall by class, and calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from mnist_exp.data.dataset import Labels

BINS = 15


@dataclass(frozen=True)
class ClassFigures:
    """Precision, recall and F1 score of a class; None if undefined (a division by zero)."""

    images: int
    precision: float | None
    """The share of the images predicted as this class that belong to it."""
    recall: float | None
    """The share of the images of this class that were predicted as it."""
    f1: float | None
    """The harmonic mean of precision and recall."""


@dataclass(frozen=True)
class Calibration:
    """Mean confidence and accuracy of predictions, in confidence bins of equal width, lowest first.

    The confidence of a prediction is its highest class probability. Means of empty bins are 0.
    """

    counts: tuple[int, ...]
    accuracy: tuple[float, ...]
    confidence: tuple[float, ...]

    @property
    def mean_confidence(self) -> float:
        """The mean confidence over all images."""
        return float(np.average(self.confidence, weights=self.counts))

    @property
    def error(self) -> float:
        """The expected calibration error (Guo et al., 2017): the mean gap, weighted by images per bin."""
        distances = np.abs(np.subtract(self.accuracy, self.confidence))
        return float(np.average(distances, weights=self.counts))


@dataclass(frozen=True)
class Assessment:
    """The evaluation of a model's predictions."""

    accuracy: float
    interval: tuple[float, float]
    """The 95 % confidence interval of the accuracy."""
    classes: tuple[ClassFigures, ...]
    calibration: Calibration
    confusion: tuple[tuple[int, ...], ...]
    """The number of images of each class (rows) by predicted class (columns)."""

    def macro(self, figure: str) -> float | None:
        """Return the mean of a metric over the classes that have images; an undefined value counts as 0."""
        known = [getattr(of, figure) or 0.0 for of in self.classes if of.images]
        return sum(known) / len(known) if known else None


def assess(labels: Labels, probabilities: npt.NDArray[np.float32]) -> Assessment:
    """Evaluate predictions, given labels (n,) and probabilities (n, classes)."""
    predicted = probabilities.argmax(axis=1)
    right = int((predicted == labels).sum())
    counts = confusion(labels, predicted, probabilities.shape[1])
    return Assessment(
        right / len(labels),
        wilson(right, len(labels)),
        tuple(compute_class_figures(counts)),
        calibration(labels, probabilities),
        tuple(map(tuple, counts.tolist())),
    )


def confident_mistakes(labels: Labels, probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the indices of the misclassified images, the most confident mistakes first."""
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    return wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")]


def confusion(labels: Labels, predicted: Labels, classes: int) -> npt.NDArray[np.int64]:
    """Count the images of each class (rows) by predicted class (columns)."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def compute_class_figures(counts: npt.NDArray[np.int64]) -> list[ClassFigures]:
    """Compute the metrics of each class from a confusion matrix."""
    figures = []
    for right, of_class, taken in zip(counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0), strict=True):
        figures.append(
            ClassFigures(
                int(of_class),
                float(right / taken) if taken else None,
                float(right / of_class) if of_class else None,
                float(2 * right / (taken + of_class)) if taken + of_class else None,
            )
        )
    return figures


def wilson(right: int, images: int, level: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval (1927) of a proportion, which is reliable even near 0 and 1.

    It shows how much the proportion may vary on other images of the same kind. On its actual coverage, see Brown,
    Cai and DasGupta (2001), Interval estimation for a binomial proportion.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, spread = right / images, z**2 / images
    middle = share + spread / 2
    half = z * math.sqrt(share * (1 - share) / images + spread / (4 * images))
    return (middle - half) / (1 + spread), (middle + half) / (1 + spread)


def calibration(labels: Labels, probabilities: npt.NDArray[np.float32]) -> Calibration:
    """Compute the calibration of probabilities (n, classes) in `BINS` bins; each includes its upper bound."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    divisor = np.maximum(counts, 1)
    return Calibration(
        tuple(counts.tolist()),
        tuple((np.bincount(bins, right, BINS) / divisor).tolist()),
        tuple((np.bincount(bins, confidence, BINS) / divisor).tolist()),
    )
