"""Plots: texts that come from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mnist_exp.report import plots


def test_control_characters_are_escaped(tmp_path: Path):
    """They have no glyphs: Matplotlib would warn, which is an error in tests."""
    strange = "\x1b[31mred\x07"
    labels = np.array([0, 1, 1])
    plots.confusion_matrix(labels, labels[::-1], [strange, "two"], f"title {strange}", tmp_path / "matrix.png")
    plots.misclassified(
        np.zeros((3, 4, 4, 1), np.uint8),
        labels,
        np.eye(2)[labels[::-1]],
        (strange, "two"),
        strange,
        tmp_path / "x.png",
    )
    assert {file.name for file in tmp_path.glob("*.png")} == {"matrix.png", "x.png"}
