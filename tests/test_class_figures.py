"""The figures of each class that `evaluate` prints."""

from __future__ import annotations

import numpy as np
import pytest

from mnist_exp.engine.evaluation import most_frequent_mistakes, print_class_figures
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


@pytest.mark.parametrize(
    ("mistakes", "texts"),
    [
        ([(0, 1), (0, 1), (1, 2)], ["a → b: 2 times", "b → c: 1 time"]),
        ([(0, 1), (0, 1), (1, 2), (2, 0), (2, 1)], ["a → b: 2 times", "b → c: 1 time", "c → a: 1 time",
                                                    "1 other pair: 1 time"]),
        ([(0, 1), (0, 2), (1, 0), (1, 2), (2, 0)] * 3, ["a → b: 3 times", "a → c: 3 times", "b → a: 3 times",
                                                        "2 other pairs: 3 times each"]),
        ([], []),
    ],
)  # fmt: skip
def test_equally_frequent_mistakes_that_are_left_out_are_counted(
    mistakes: list[tuple[int, int]], texts: list[str]
):
    """The first three pairs are listed; the last text is the number of others that are as frequent as the third."""
    true, predicted = zip(*mistakes, (0, 0), strict=True)
    probabilities = np.eye(3, dtype=np.float32)[list(predicted)]
    assert most_frequent_mistakes(assess(np.array(true), probabilities), ["a", "b", "c"]) == texts
