"""The built-in digits."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mnist_exp.data import digits


def test_they_are_those_of_scikit_learn_enlarged():
    """Each row and column of 20 pixels is interpolated linearly between the centres of the original 8."""
    small, labels = load_digits(return_X_y=True)
    centres = (np.arange(20) + 0.5) * 8 / 20 - 0.5
    weights = np.array([np.interp(centres, np.arange(8), one) for one in np.eye(8)])
    expected = weights.T @ small.reshape(-1, 8, 8) @ weights * 255 / 16
    source = digits.load()
    for part in (source.train, source.test):
        inner = part.images[:, 4:24, 4:24, 0]
        for image, label in zip(inner[:50], part.labels, strict=False):
            [same] = np.flatnonzero(np.all(np.abs(expected - image) <= 0.5 + 1e-9, axis=(1, 2)))
            assert labels[same] == label
        assert part.images.sum() == inner.sum()  # the border is black
    counts = np.bincount(source.train.labels) + np.bincount(source.test.labels)
    assert counts.tolist() == np.bincount(labels).tolist()


def test_scikit_learn_reads_them_if_its_file_is_not_found(monkeypatch: pytest.MonkeyPatch):
    """A future version may keep it elsewhere."""
    expected = digits.load()
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    assert np.array_equal(digits.load().train.images, expected.train.images)
    assert np.array_equal(digits.load().test.labels, expected.test.labels)


def test_reading_them_does_not_import_scikit_learn():
    """The import would take longer than everything else together."""
    code = "import sys; from mnist_exp.data import digits; digits.load(); sys.exit('sklearn' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
