"""Find the validation images of a run that its initial weights or its teacher were already trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnist_exp.config.schema import DataConfig
from mnist_exp.data.dataset import Source, digest
from mnist_exp.data.formats import limit_source, split
from mnist_exp.runs.result import SplitRecord, read_result


def list_splits(run: Path, settings: Mapping[str, Any]) -> list[SplitRecord] | None:
    """Return the splits that a run, and the runs it started or learned from, were trained on.

    Returns None if its files do not say.

    Args:
        run: The run's directory.
        settings: The run's config.
    """
    keys = ("val_fraction", "split_seed", "limit")
    try:
        result = read_result(run)
        if result is None or not all(model.trained_on for model in result.models_used):
            return None
        data = {key: settings["data"][key] for key in keys}
        own = SplitRecord.model_validate({"sha256": result.data.sha256, **data})
    except (OSError, KeyError, TypeError, ValueError):  # written by another program, or damaged
        return None
    earlier = [split for model in result.models_used for split in model.trained_on]
    return [own, *(split for index, split in enumerate(earlier) if split not in (own, *earlier[:index]))]


def count_seen(trained_on: Sequence[SplitRecord], data: DataConfig, source: Source) -> int | None:
    """Count the validation images of `data` that are training images of the given splits.

    Returns None if a split belongs to another data set, because its images are then unknown.
    """
    labels = source.train.labels
    seen = np.zeros(len(labels), bool)
    for record in trained_on:
        update = {"val_fraction": record.val_fraction, "split_seed": record.split_seed, "limit": record.limit}
        theirs = data.model_copy(update=update)
        used = limit_source(source, theirs)
        if digest([used.train, used.test]) != record.sha256:
            return None
        seen[split(labels, theirs)[0]] = True
    return int(seen[split(labels, data)[1]].sum())
