"""The configs of verbs that do not train."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mnist_exp.config.schema import Count, DataConfig, Frozen, TrackingConfig, a_store


class RunsConfig(Frozen):
    """What `mnist-exp runs` lists."""

    outputs: Annotated[str, Field(min_length=1)]
    limit: Count | None


class UiConfig(Frozen):
    """What `mnist-exp ui` opens."""

    outputs: Annotated[str, Field(min_length=1)]
    host: str
    port: Annotated[int, Field(ge=1, le=65535)] | None
    open: bool
    tracking: TrackingConfig


class StoreConfig(Frozen):
    """The store that is delivered to."""

    uri: str | None
    _a_store = field_validator("uri")(a_store)


class SyncConfig(Frozen):
    """What `mnist-exp sync` delivers."""

    outputs: Annotated[str, Field(min_length=1)]
    run: str | None
    tracking: StoreConfig


def several(value: Any) -> Any:
    """`[a,b]` and `a,b` as the names that they list; they may hold what Hydra's lists cannot (`=`, blanks).

    Raises `ValueError`.
    """
    if value is None or isinstance(value, (dict, list, tuple)):
        return tuple(value) if isinstance(value, list) else value
    value = str(value)
    if not value or os.path.exists(
        os.path.expanduser(value)
    ):  # Path's own raises for a list as long as no name may be
        return (value,)
    inner = re.sub(r"^\s*\[(.*)\]\s*$", r"\1", value)
    quote = '"' if '"' in inner else "'"
    names = next(csv.reader([inner], quotechar=quote, skipinitialspace=True), [])
    if not all(map(str.strip, names)):
        raise ValueError("names nothing between two commas")
    return tuple(map(str.strip, names))


class CompareConfig(Frozen):
    """What `mnist-exp compare` compares, and by what."""

    outputs: Annotated[str, Field(min_length=1)]
    run: tuple[Annotated[str, Field(min_length=1)], ...] | None
    metric: str
    across_data: bool
    output: Annotated[str, Field(min_length=1)] | None

    _runs = field_validator("run", mode="before")(several)

    @field_validator("metric")
    @classmethod
    def _validated_or_tested(cls, value: str) -> str:
        if not re.fullmatch(r"(val|test)/.+", value):
            raise ValueError(f"must be val/<metric> or test/<metric>, such as val/accuracy, found {value}")
        return value

    @field_validator("output")
    @classmethod
    def _a_picture(cls, value: str | None) -> str | None:
        if value is not None and not value.lower().endswith(".png"):
            raise ValueError(f"must be the name of a .png file, found {value}")
        return value


class SavedConfig(Frozen):
    """What the verbs that work on a saved model have in common."""

    outputs: Annotated[str, Field(min_length=1)]
    run: str | None


class EvaluateConfig(SavedConfig):
    """Which model `mnist-exp evaluate` scores, on which part of the data."""

    part: Literal["test", "val", "train"]
    output: Annotated[str, Field(min_length=1)] | None


class PicturesConfig(Frozen):
    """What is done with image files before the model sees them."""

    normalize: bool | None
    skip_bad: bool


# The format that is meant by a file's ending.
_FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


class PredictConfig(SavedConfig):
    """What `mnist-exp predict` classifies, and where it writes the classes."""

    inputs: tuple[Annotated[str, Field(min_length=1)], ...] | None
    output: Annotated[str, Field(min_length=1)] | None
    format: Literal["csv", "jsonl", "kaggle"] | None
    predict: PicturesConfig

    _inputs = field_validator("inputs", mode="before")(several)

    @property
    def written_format(self) -> str | None:
        """The format that is written; None for a table."""
        if self.format is not None or self.output is None:
            return self.format
        return _FORMATS[Path(self.output).suffix.lower()]

    @model_validator(mode="after")
    def _consistent(self) -> PredictConfig:
        if not self.inputs:
            raise ValueError(
                "inputs: say what to classify: image files, folders, IDX, NPZ or CSV files, or - (standard input)"
            )
        if self.output is not None and self.format is None and Path(self.output).suffix.lower() not in _FORMATS:
            raise ValueError(f"output: must end in {', '.join(_FORMATS)}, or give its format=csv, jsonl or kaggle")
        if self.format == "kaggle" and self.predict.skip_bad:
            raise ValueError("predict.skip_bad: format=kaggle numbers the images, so that none may be left out")
        return self


class DatasetConfig(Frozen):
    """What `mnist-exp dataset` fetches, verifies or converts."""

    action: Literal["fetch", "verify", "convert"] | None
    data: DataConfig
    to: Literal["idx", "csv", "npz", "folder"] | None
    output: Annotated[str, Field(min_length=1)] | None
    header: bool
    outputs: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _of_the_action(self) -> DatasetConfig:
        if self.action == "convert" and self.to is None:
            raise ValueError("to: give the format to convert to: to=idx, to=csv, to=npz or to=folder")
        given = {"to": self.to, "output": self.output, "header": self.header or None}
        for key, value in given.items():
            if self.action != "convert" and value is not None:
                raise ValueError(f"{key}: only 'dataset convert' takes it")
        if self.header and self.to != "csv":
            raise ValueError("header: only to=csv takes it")
        return self
