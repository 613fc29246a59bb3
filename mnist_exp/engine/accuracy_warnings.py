"""Warn about a validation accuracy that says little about the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mnist_exp.data.dataset import Part
from mnist_exp.inference.metrics import wilson
from mnist_exp.runs.log import warn
from mnist_exp.text import format_percent

_IMPRECISE = 0.1  # warn above this half-width of an accuracy's 95 % interval


def report_imprecise(accuracy: float, images: int, *, limited: bool = False) -> None:
    """Warn if the validation accuracy is based on so few images that even its first digit is uncertain.

    Half the width of its 95 % interval then exceeds 10 percentage points, which is impossible with 93 or more
    images. `limited` says whether `data.limit` keeps further images away.
    """
    low, high = wilson(round(accuracy * images), images)
    if (high - low) / 2 > _IMPRECISE:
        warn(
            f"the validation accuracy is based on {images} image{'s' * (images > 1)}: its 95 % interval is "
            f"{format_percent(low, 0)} … {format_percent(high, 0)}; "
            f"a larger {'data.limit or ' * limited}data.val_fraction makes it more precise"
        )


def report_guessing(accuracy: float, part: Part, class_names: Sequence[str]) -> None:
    """Warn if the 95 % interval of the accuracy includes that of always predicting the most frequent class."""
    counts = np.bincount(part.labels)
    share = float(counts.max() / len(part))
    low, _ = wilson(round(accuracy * len(part)), len(part))
    if low <= share < wilson(len(part), len(part))[0]:  # else not even a perfect model would be clearly better
        usual = class_names[int(counts.argmax())]
        warn(
            f"the model is not clearly better than always predicting {usual}, which would give a "
            f"validation accuracy of {format_percent(share)}; it may need more steps (training.epochs, a smaller "
            "training.batch_size) or another optimizer.learning_rate"
        )
