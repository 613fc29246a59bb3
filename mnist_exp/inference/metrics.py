"""What a model's predictions on labelled images are worth: by class, as a whole, and as probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mnist_exp.data.dataset import Labels

_Z = 1.959963984540054  # 95 % of a normal distribution lie within so many standard deviations
BINS = 15


@dataclass(frozen=True)
class ClassFigures:
    """How well one class is told from the others. None where there is nothing to divide by."""

    images: int
    precision: float | None
    """Of the images that were taken for this class, those that are of it."""
    recall: float | None
    """Of the images of this class, those that were taken for it."""
    f1: float | None
    """The harmonic mean of both."""


@dataclass(frozen=True)
class Calibration:
    """How sure predictions are (`confidence`, the highest probability) beside how often they are right, by bins
    of equal width of the confidence, the lowest first; means of empty bins are 0.
    """

    counts: tuple[int, ...]
    accuracy: tuple[float, ...]
    confidence: tuple[float, ...]

    @property
    def mean_confidence(self) -> float:
        """Over all images."""
        return float(np.average(self.confidence, weights=self.counts))

    @property
    def error(self) -> float:
        """The expected calibration error: the mean of their distance over all images (Guo et al., 2017)."""
        distances = np.abs(np.subtract(self.accuracy, self.confidence))
        return float(np.average(distances, weights=self.counts))


@dataclass(frozen=True)
class Assessment:
    """What predictions are worth."""

    accuracy: float
    interval: tuple[float, float]
    """That of the accuracy, 95 %."""
    classes: tuple[ClassFigures, ...]
    calibration: Calibration
    confusion: tuple[tuple[int, ...], ...]
    """How many images of each class (rows) were taken for each class (columns)."""

    def macro(self, figure: str) -> float | None:
        """The mean of a figure over the classes that have images; 0 for one that no image was taken for."""
        known = [getattr(of, figure) or 0.0 for of in self.classes if of.images]
        return sum(known) / len(known) if known else None


def assess(labels: Labels, probabilities: npt.NDArray[np.float32]) -> Assessment:
    """All of it, for labels (n,) and probabilities (n, classes)."""
    predicted = probabilities.argmax(axis=1)
    right = int((predicted == labels).sum())
    counts = confusion(labels, predicted, probabilities.shape[1])
    return Assessment(
        right / len(labels),
        wilson(right, len(labels)),
        tuple(by_class(counts)),
        calibration(labels, probabilities),
        tuple(map(tuple, counts.tolist())),
    )


def confusion(labels: Labels, predicted: Labels, classes: int) -> npt.NDArray[np.int64]:
    """How many images of each class (rows) were taken for each class (columns)."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def by_class(counts: npt.NDArray[np.int64]) -> list[ClassFigures]:
    """The figures of each class of a confusion matrix."""
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


def wilson(right: int, images: int) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson's score (1927): also near 0 and 1 it covers as often as it says.

    It says how much other images of the same kind would change the figure. For the 5 % that are taken for granted
    see Brown, Cai and DasGupta (2001), Interval estimation for a binomial proportion.
    """
    share, spread = right / images, _Z**2 / images
    middle = share + spread / 2
    half = _Z * math.sqrt(share * (1 - share) / images + spread / (4 * images))
    return (middle - half) / (1 + spread), (middle + half) / (1 + spread)


def calibration(labels: Labels, probabilities: npt.NDArray[np.float32]) -> Calibration:
    """The calibration of probabilities (n, classes), in `BINS` bins, to each of which its upper border belongs."""
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
