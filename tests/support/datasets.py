"""Configs of small data sets in the working directory."""

from __future__ import annotations

from mnist_exp.config.data_schema import PARTS, DataConfig, FileSpec

NAMES = {
    "csv": ("train.csv", "test.csv"),
    "npz": ("data.npz",),
    "idx": (
        "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte",
    ),
    "folder": ("train", "test"),
}  # fmt: skip


def own_data(source: str, **changes: object) -> DataConfig:
    """The config of a data set of two classes of 2×3 pixels."""
    files = {part: FileSpec(name=name) for part, name in zip(PARTS[source], NAMES[source], strict=True)}
    values: dict[str, object] = {
        "name": source, "source": source, "files": files, "dir": ".", "mirrors": (), "keras_cache": None,
        "shape": (2, 3, 1), "classes": 2, "class_names": None, "val_fraction": 0.0, "split_seed": 0,
        "limit": None, "fallback": None,
    }  # fmt: skip
    return DataConfig(**{**values, **changes})  # type: ignore[arg-type]
