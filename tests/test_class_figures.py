"""The figures of each class that `evaluate` prints."""

from __future__ import annotations

import numpy as np
import pytest

from mnist_exp.engine.evaluation import print_class_figures
from mnist_exp.inference.metrics import assess


@pytest.mark.parametrize(("classes", "rows"), [(30, 30), (31, 10), (100, 10)])
def test_of_many_classes_the_worst_are_listed(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, classes: int, rows: int
):
    """The table of 100 classes has the ten with the lowest F1, and says so; `per_class.csv` has all."""
    labels = np.arange(classes).repeat(3)
    predicted = labels.copy()
    predicted[3 * (classes - 1)] = 0  # one mistake: an image of the last class taken for the first
    probabilities = np.eye(classes, dtype=np.float32)[predicted]
    caplog.set_level("INFO")
    print_class_figures(assess(labels, probabilities), [f"species-{number}" for number in range(classes)])
    out = capsys.readouterr().out
    listed = [line.split()[0] for line in out.splitlines() if line.strip().startswith("species-")]
    assert len(listed) == rows
    assert {"species-0", f"species-{classes - 1}"} <= set(listed)
    assert ("per_class.csv" in caplog.text) == (rows < classes)
