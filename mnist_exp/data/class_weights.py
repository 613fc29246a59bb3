"""The weights of the classes in the training loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mnist_exp.data.dataset import Labels
from mnist_exp.errors import RequestError
from mnist_exp.suggest import did_you_mean


def class_weights(
    setting: str | Mapping[str, float] | None, labels: Labels, names: Sequence[str]
) -> npt.NDArray[np.float32] | None:
    """Return the weight of each class; None if all classes weigh the same.

    Args:
        setting: `training.class_weight`: `balanced`, or weights by class name or label; other classes weigh 1.
        labels: The labels of the training set.
        names: The class names.

    Raises:
        RequestError: There is no such class.
    """
    if setting is None:
        return None
    if isinstance(setting, str):  # balanced: each class contributes the same in total
        counts = np.bincount(labels, minlength=len(names))
        return (len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))).astype(np.float32)
    weights = np.ones(len(names), np.float32)
    for name, weight in setting.items():
        if name in names:
            weights[list(names).index(name)] = weight
        elif name.isascii() and name.isdigit() and int(name) < len(names):
            weights[int(name)] = weight
        else:
            raise RequestError(f"training.class_weight: there is no class {name}{did_you_mean(name, names)}")
    return weights
