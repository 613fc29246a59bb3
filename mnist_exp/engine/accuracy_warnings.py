"""Warn about a validation accuracy that says little about the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mnist_exp.data.dataset import Part
from mnist_exp.inference.metrics import wilson
from mnist_exp.runs.log import warn
from mnist_exp.text import count_images, format_percent

_IMPRECISE = 0.1  # warn above this half-width of an accuracy's 95 % interval


def report_imprecise(accuracy: float, images: int, *, epochs: int = 1, limited: bool = False) -> None:
    """Warn if the validation accuracy is based on so few images that even its first digit is uncertain.

    Half the width of its 95 % interval then exceeds 10 percentage points, which is impossible with 93 or more
    images. The interval does not take into account that the best of several `epochs` was chosen. `limited` says
    whether `data.limit` keeps further images away.
    """
    low, high = wilson(round(accuracy * images), images)
    caveat = f", and the accuracy is probably too high, because it is the best of {epochs} epochs"
    if (high - low) / 2 > _IMPRECISE:
        warn(
            f"the validation accuracy is based on {count_images(images)}: its 95 % interval is "
            f"{format_percent(low, 0)} … {format_percent(high, 0)}"
            f"{caveat * (epochs > 1)}; "
            f"a larger {'data.limit or ' * limited}data.val_fraction makes it more precise"
        )


def report_guessing(
    accuracy: float,
    part: Part,
    class_names: Sequence[str],
    history: Sequence[Mapping[str, float]] = (),
    model: str = "",
) -> None:
    """Warn if the model is not clearly better than always predicting the most frequent class.

    This is so if the lower end of its accuracy's interval is not above the accuracy of that prediction. The
    interval's level of 95 % is corrected by Bonferroni's method for the number of epochs, because the best of them
    was chosen. If there are so few images that even a perfect model would not be clearly better, only models with
    at least as many mistakes as that prediction are reported, and none if all images are of one class.

    Args:
        accuracy: The validation accuracy of the saved epoch.
        part: The validation set.
        class_names: The names of the classes.
        history: The metrics of each epoch.
        model: The name of the model.
    """
    counts = np.bincount(part.labels)
    share = float(counts.max() / len(part))
    right, level = round(accuracy * len(part)), 1 - 0.05 / max(1, len(history))
    low, highest_low = (wilson(count, len(part), level)[0] for count in (right, len(part)))
    if low <= share < 1 and (share < highest_low or right <= counts.max()) and right < len(part):
        usual = class_names[int(counts.argmax())] if counts.min() < counts.max() else "the same class"
        other = "another model" + ", such as mini_vgg" * (model != "mini_vgg")
        trained = max((row.get("train/accuracy", 0.0) for row in history), default=0.0)
        if trained > (1 + share) / 2 and not _still_falls([row.get("val/loss", np.nan) for row in history]):
            advice = f"as the training accuracy rose to {format_percent(trained)}, it needs more images, stronger"
            advice += f" augmentation, or {other}"
        else:
            advice = "it may need more steps (training.epochs, a smaller training.batch_size)"
            advice += f", {other}, or another optimizer.learning_rate"
        warn(
            f"the model is not clearly better than always predicting {usual}, which would give a "
            f"validation accuracy of {format_percent(share)}; {advice} "
            "(see 'Small data sets' in: mnist-exp help data)"
        )


def _still_falls(losses: Sequence[float]) -> bool:
    """Return whether the lowest loss is in the last fifth of the epochs, or is the only one."""
    lowest = np.nan_to_num(losses, nan=np.inf).argmin() + 1
    return bool(lowest > 0.8 * len(losses))
