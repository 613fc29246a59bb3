"""Whether higher or lower values of a metric are better: one table for selection, search and comparison."""

from __future__ import annotations

from typing import Literal

from mnist_exp import registrations

Direction = Literal["max", "min"]

_LOWER = (
    "loss", "binary_crossentropy", "categorical_crossentropy", "sparse_categorical_crossentropy",
    "hinge", "squared_hinge", "categorical_hinge", "kl_divergence", "poisson", "log_cosh_error",
    "mean_absolute_error", "mean_absolute_percentage_error", "mean_squared_error",
    "mean_squared_logarithmic_error", "root_mean_squared_error", "false_negatives", "false_positives",
)  # fmt: skip
_HIGHER = (
    "accuracy", "binary_accuracy", "categorical_accuracy", "sparse_categorical_accuracy",
    "top_k_categorical_accuracy", "sparse_top_k_categorical_accuracy", "auc", "precision", "recall", "f1_score",
    "f_beta_score", "true_negatives", "true_positives", "precision_at_recall", "recall_at_precision",
    "sensitivity_at_specificity", "specificity_at_sensitivity", "binary_io_u", "io_u", "mean_io_u", "one_hot_io_u",
    "one_hot_mean_io_u", "cosine_similarity", "r2_score", "pearson_correlation", "concordance_correlation",
)  # fmt: skip
_DIRECTIONS: dict[str, Direction] = {**dict.fromkeys(_LOWER, "min"), **dict.fromkeys(_HIGHER, "max")}


def direction_of(metric: str) -> Direction | None:
    """Return whether the largest (`max`) or the smallest (`min`) value of a metric is the best.

    Args:
        metric: The metric's name, with or without its part: `accuracy`, `val/loss`.

    Returns:
        None if the direction is unknown, or if neither higher nor lower values are better (`mean`, `sum`).
    """
    name = metric.rpartition("/")[2]
    own = next((one for one in registrations.of_module("metrics").values() if name in (one.name, one.alias)), None)
    return _DIRECTIONS.get(name) if own is None else own.options["better"]
