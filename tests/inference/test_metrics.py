"""Figures by class, Wilson's interval, calibration."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mnist_exp.inference.metrics import BINS, assess, calibration, wilson


def certain(predicted: list[int], classes: int) -> np.ndarray:
    """Return probabilities that are 1 for the given classes."""
    return np.eye(classes, dtype=np.float32)[predicted]


def test_figures_of_classes_are_those_of_scikit_learn():
    """Precision, recall, F1, their means and the confusion matrix agree."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 400)
    probabilities = rng.dirichlet(np.ones(5), 400).astype(np.float32)
    probabilities[np.arange(400), labels] += 0.3
    predicted = probabilities.argmax(axis=1)
    found = assess(labels, probabilities)
    expected = precision_recall_fscore_support(labels, predicted)
    for figure, values in zip(("precision", "recall", "f1", "images"), expected, strict=True):
        assert [getattr(of, figure) for of in found.classes] == pytest.approx(values)
        assert found.macro(figure) == pytest.approx(values.mean())
    assert (np.array(found.confusion) == confusion_matrix(labels, predicted)).all()
    assert found.accuracy == (labels == predicted).mean()


def test_undefined_figures_are_none():
    """A class without images has no recall, and one that is never predicted no precision."""
    found = assess(np.array([0, 0, 1, 1]), certain([0, 0, 0, 2], 4))
    assert [of.precision for of in found.classes] == [2 / 3, None, 0, None]
    assert [of.recall for of in found.classes] == [1, 0, None, None]
    assert [of.f1 for of in found.classes] == [0.8, 0, 0, None]
    assert found.macro("recall") == 0.5


@pytest.mark.parametrize(("right", "images"), [(0, 1), (1, 1), (0, 50), (50, 50), (81, 263), (9929, 10000)])
def test_wilsons_interval_is_scipys(right: int, images: int):
    """It lies between 0 and 1 and contains the share, even for shares of 0 and 1."""
    expected = stats.binomtest(right, images).proportion_ci(0.95, method="wilson")
    assert wilson(right, images) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_calibrated_probabilities_have_no_error():
    """Over many images, calibrated probabilities have error 0, and overconfidence by 0.1 has error 0.1."""
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.5, 0.9, 200_000)
    labels = (rng.random(len(sure)) > sure).astype(np.int64)
    assert calibration(labels, np.stack([sure, 1 - sure], axis=1)).error == pytest.approx(0, abs=0.005)
    surer = sure + 0.1
    found = calibration(labels, np.stack([surer, 1 - surer], axis=1))
    assert found.error == pytest.approx(0.1, abs=0.005)
    assert found.mean_confidence == pytest.approx(surer.mean())


def test_bins_are_of_equal_width():
    """Each includes its upper bound; a confidence of 1 is in the last bin."""
    confidence = np.array([0.6, 0.61, 1.0, 1.0])
    probabilities = np.stack([confidence, (1 - confidence) / 2, (1 - confidence) / 2], axis=1)
    found = calibration(np.array([0, 1, 0, 1]), probabilities)
    assert sum(found.counts) == 4
    assert (found.counts[8], found.counts[9], found.counts[BINS - 1]) == (1, 1, 2)
    assert found.accuracy[BINS - 1] == 0.5
    assert found.error == pytest.approx((0.4 + 0.61 + 2 * 0.5) / 4)
