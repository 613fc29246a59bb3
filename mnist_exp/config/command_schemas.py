"""Typed configs of the verbs that do not train, and the search settings of `tune`."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, ConfigDict, Field, InstanceOf, field_validator, model_validator

from mnist_exp.config.conditions import Condition
from mnist_exp.config.field_types import Count, Frozen, LayerChoice, Seed
from mnist_exp.config.schema import DataConfig, ResolutionConfig, TrackingConfig
from mnist_exp.config.store_uri import a_store

Index = Annotated[int, Field(ge=0)]
Json = Literal["json"] | None
"""`format=json` prints the result as a JSON document."""


class RunsConfig(Frozen):
    """Config of `mnist-exp runs`."""

    action: Literal["list", "tag", "note", "rm", "diff"]
    outputs: Annotated[str, Field(min_length=1)]
    limit: Count | None
    where: InstanceOf[Condition] | None
    sort: Annotated[str, Field(min_length=1)] | None
    run: tuple[Annotated[str, Field(min_length=1)], ...] | None
    tags: tuple[str, ...] | None
    note: str | None
    yes: bool
    from_mlflow: bool
    format: Json

    _names = field_validator("run", "tags", mode="before")(lambda value: split_names(value))

    @field_validator("where", mode="before")
    @classmethod
    def _a_condition(cls, value: Any) -> Any:
        return None if value is None else Condition.parse(str(value))

    @field_validator("tags")
    @classmethod
    def _some_tags(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if value is None else tuple(dict.fromkeys(tag for tag in value if tag))

    @model_validator(mode="after")
    def _of_the_action(self) -> RunsConfig:
        uses = {"list": ("where", "sort"), "tag": ("run", "tags"), "note": ("run", "note"), "diff": ("run",)}
        uses["rm"] = ("run", "yes", "from_mlflow")
        given = {name for name in ("where", "sort", "run", "tags", "note", "yes", "from_mlflow")
                 if getattr(self, name) not in (None, False)}  # fmt: skip
        used = uses[self.action]
        verb = "runs" if self.action == "list" else f"runs {self.action}"
        wrong = [f"{name}: has no effect on '{verb}'" for name in sorted(given - set(used))]
        if self.action != "list":
            needed = [name for name in used if name in ("run", "tags", "note")]
            wrong += [f"{name}: missing; '{verb}' needs it" for name in needed if getattr(self, name) is None]
        if self.action == "diff" and self.run and len(self.run) != 2:
            wrong.append(f"run: must be two runs, 'run=[a,b]', for 'runs diff', found {len(self.run)}")
        if self.format is not None and self.action not in ("list", "diff"):
            wrong.append(f"format: has no effect on '{verb}'")
        if wrong:
            raise ValueError("\n".join(wrong))
        return self


class SchemaConfig(Frozen):
    """Config of `mnist-exp schema`: a group of options, a JSON document, or all groups; by default, the config."""

    group: str | None
    output: str | None
    folder: str | None

    @model_validator(mode="after")
    def _one_subject(self) -> SchemaConfig:
        given = [key for key, value in self if value is not None]
        if len(given) > 1:
            raise ValueError(f"{given[0]}: must not be given together with {given[1]}")
        return self


class UiConfig(Frozen):
    """Config of `mnist-exp ui`."""

    outputs: Annotated[str, Field(min_length=1)]
    run: str | None
    host: str
    port: Annotated[int, Field(ge=1, le=65535)] | None
    open: bool
    tracking: TrackingConfig


class StoreConfig(Frozen):
    """The MLflow store to write to."""

    uri: str | None
    _a_store = field_validator("uri")(a_store)

    @field_validator("uri")
    @classmethod
    def _with_credentials(cls, value: str | None) -> str | None:
        if value is not None and "://***@" in value:
            raise ValueError("must contain the user name and password instead of ***")
        return value


class SyncConfig(Frozen):
    """Config of `mnist-exp sync`: the runs to deliver, and the store."""

    outputs: Annotated[str, Field(min_length=1)]
    run: str | None
    repair: bool
    tracking: StoreConfig


def split_names(value: Any) -> Any:
    """Split `[a,b]` or `a,b` into names, which may contain characters that Hydra's lists cannot (`=`, blanks).

    The path of an existing file is one name, even if it contains commas.

    Raises:
        ValueError: If one of the names is empty.
    """
    if value is None or isinstance(value, (dict, list, tuple)):
        return tuple(value) if isinstance(value, list) else value
    value = str(value)
    # Not `Path.exists`, which raises `OSError` for a list longer than the longest file name.
    if not value or os.path.exists(os.path.expanduser(value)):
        return (value,)
    inner = re.sub(r"^\s*\[(.*)\]\s*$", r"\1", value)
    quote = '"' if '"' in inner else "'"
    names = next(csv.reader([inner], quotechar=quote, skipinitialspace=True), [])
    if not all(map(str.strip, names)):
        raise ValueError("must not contain an empty name")
    return tuple(map(str.strip, names))


def _a_metric_of_a_part(value: str) -> str:
    if not re.fullmatch(r"(val|test)/.+", value):
        raise ValueError(f"must be val/<metric> or test/<metric>, such as val/accuracy, found {value}")
    return value


class CompareConfig(Frozen):
    """Config of `mnist-exp compare`: the runs, and the metric to compare them by."""

    outputs: Annotated[str, Field(min_length=1)]
    run: tuple[Annotated[str, Field(min_length=1)], ...] | None
    metric: Annotated[str, AfterValidator(_a_metric_of_a_part)]
    mode: Literal["max", "min"] | None
    across_data: bool
    full: bool
    plots: ResolutionConfig
    report: bool
    output: Annotated[str, Field(min_length=1)] | None
    format: Json

    _runs = field_validator("run", mode="before")(split_names)

    @field_validator("output")
    @classmethod
    def _a_picture(cls, value: str | None) -> str | None:
        if value is not None and not value.lower().endswith(".png"):
            raise ValueError(f"must name a .png file, found {value}")
        return value


class ReportConfig(Frozen):
    """Config of `mnist-exp report`: the runs, the file, and the metric to compare several runs by."""

    outputs: Annotated[str, Field(min_length=1)]
    run: tuple[Annotated[str, Field(min_length=1)], ...] | None
    metric: Annotated[str, AfterValidator(_a_metric_of_a_part)]
    mode: Literal["max", "min"] | None
    across_data: bool
    output: Annotated[str, Field(min_length=1)] | None
    format: Json = None

    _runs = field_validator("run", mode="before")(split_names)

    @field_validator("output")
    @classmethod
    def _a_page(cls, value: str | None) -> str | None:
        if value is not None and not value.lower().endswith((".html", ".htm")):
            raise ValueError(f"must name an .html file, found {value}")
        return value

    @model_validator(mode="after")
    def _something_to_report(self) -> ReportConfig:
        if not self.run:
            raise ValueError("run: missing; give run=latest, run=best, a run, a sweep, a study, or 'run=[a,b]'")
        return self


class TuneConfig(Frozen):
    """Search settings of `mnist-exp tune`."""

    trials: Count | None
    sampler: Literal["tpe", "cmaes", "random", "grid"]
    pruner: Literal["median", "hyperband", "none"]
    name: Annotated[str, Field(min_length=1, max_length=100)] | None
    storage: Annotated[str, Field(min_length=1)] | None
    seed: Seed | None
    space: dict[str, Any]


class StudyConfig(Frozen):
    """The root config of `mnist-exp tune`, ignoring the keys that it shares with `train`."""

    model_config = ConfigDict(extra="ignore")
    tune: TuneConfig


Rate = Annotated[float, Field(gt=0, le=1e6)]


class FindConfig(Frozen):
    """The learning rates of `mnist-exp lr_find`, and the number of steps between them."""

    low: Rate
    high: Rate
    steps: Annotated[int, Field(ge=30, le=1000)]


class LrFindConfig(Frozen):
    """The root config of `mnist-exp lr_find`, ignoring the keys that it shares with `train`."""

    model_config = ConfigDict(extra="ignore")
    find: FindConfig
    output: Annotated[str, Field(min_length=1)] | None

    @model_validator(mode="after")
    def _rising(self) -> LrFindConfig:
        if self.find.low >= self.find.high:
            raise ValueError(f"find.low={self.find.low:g}: must be less than find.high={self.find.high:g}")
        return self


class SavedConfig(Frozen):
    """Keys shared by the verbs that work on a saved model."""

    outputs: Annotated[str, Field(min_length=1)]
    run: str | None


class EvaluateConfig(SavedConfig):
    """Config of `mnist-exp evaluate`: the model, and the part of the data to score it on."""

    part: Literal["test", "val", "train"] | None
    normalize: bool
    output: Annotated[str, Field(min_length=1)] | None
    format: Json
    require: tuple[InstanceOf[Condition], ...] | None

    @field_validator("require", mode="before")
    @classmethod
    def _bounds(cls, value: Any) -> Any:
        """Parse bounds that are joined by `and`, or that are the entries of a list."""
        if value is None:
            return None
        return tuple(bound for text in split_bounds(str(value)) for bound in Condition.parse(text).conjuncts())


class EnsembleConfig(Frozen):
    """Config of `mnist-exp ensemble`: the members, the shifts of the images, and the folder to write."""

    outputs: Annotated[str, Field(min_length=1)]
    run: tuple[Annotated[str, Field(min_length=1)], ...] | None
    shifts: Annotated[tuple[tuple[int, int], ...], Field(min_length=1, max_length=50)]
    """How far down and to the right each image is shifted, in pixels, for one of the averaged probabilities."""
    output: Annotated[str, Field(min_length=1)] | None
    format: Json

    _runs = field_validator("run", mode="before")(split_names)

    @field_validator("shifts")
    @classmethod
    def _different(cls, value: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        if twice := [list(shift) for shift in dict.fromkeys(value) if value.count(shift) > 1]:
            raise ValueError(f"must contain each shift once, found {twice[0]} several times")
        return value

    @model_validator(mode="after")
    def _some_runs(self) -> EnsembleConfig:
        if not self.run:
            raise ValueError("run: missing; give runs [a,b,c], a sweep, or a pattern such as 'lenet*'")
        return self


def split_bounds(text: str) -> list[str]:
    """Split `[a>1,b<2]` or `a>1,b<2` at its commas, except those inside brackets, parentheses and quotes."""
    inner = re.sub(r"^\s*\[(.*)\]\s*$", r"\1", text)
    parts = re.findall(r"""(?:[^,\[\]()'"]|\[[^\]]*\]|\([^)]*\)|'[^']*'|"[^"]*")+""", inner)
    return [part.strip() for part in parts] or [text]


class PicturesConfig(Frozen):
    """How image files are prepared for prediction, and whether unreadable ones are skipped."""

    normalize: bool | None
    many: bool
    save_inputs: Annotated[str, Field(min_length=1)] | None
    skip_bad: bool


# The output format implied by a file name extension.
_FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


class PredictConfig(SavedConfig):
    """Config of `mnist-exp predict`: the inputs, and where to write their classes."""

    inputs: tuple[Annotated[str, Field(min_length=1)], ...] | None
    output: Annotated[str, Field(min_length=1)] | None
    format: Literal["csv", "jsonl", "kaggle", "json"] | None
    predict: PicturesConfig

    _inputs = field_validator("inputs", mode="before")(split_names)

    @property
    def written_format(self) -> str | None:
        """The format to write; None for a table on the terminal."""
        if self.format is not None or self.output is None:
            return self.format
        return _FORMATS[Path(self.output).suffix.lower()]

    @model_validator(mode="after")
    def _consistent(self) -> PredictConfig:
        if not self.inputs:
            raise ValueError(
                "inputs: missing; give image files, folders, IDX, NPZ or CSV files, or - for standard input"
            )
        if self.output is not None and self.format is None and Path(self.output).suffix.lower() not in _FORMATS:
            endings = ", ".join(_FORMATS)
            raise ValueError(f"output: must end in {endings}, or be given with format=csv, jsonl or kaggle")
        if self.output is not None and self.format == "json":
            raise ValueError("output: must not be given with format=json, which prints to standard output")
        if self.format == "kaggle" and self.predict.skip_bad:
            raise ValueError("predict.skip_bad: must be false with format=kaggle, which needs one row per image")
        if self.format == "kaggle" and self.predict.many:
            raise ValueError("predict.many: must be false with format=kaggle, which needs one row per image")
        return self


Format = Literal["keras", "h5", "yaml", "savedmodel", "onnx", "litert", "all"]


class ExportConfig(SavedConfig):
    """Config of `mnist-exp export`: the formats to write, or the name to register."""

    formats: tuple[Format, ...] = Field(alias="format")
    output: Annotated[str, Field(min_length=1)] | None
    tolerance: Annotated[float, Field(gt=0, lt=1)]
    name: Annotated[str, Field(min_length=1, max_length=255)] | None = Field(alias="register")
    alias: Annotated[str, Field(max_length=255)] | None
    tracking: StoreConfig

    @field_validator("formats", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        """Accept a single format, a list, or `all`; remove duplicates."""
        formats = () if value is None else tuple(value) if isinstance(value, (list, tuple)) else (value,)
        every = tuple(name for name in get_args(Format) if name != "all")
        return tuple(dict.fromkeys(every if "all" in formats else formats))

    @field_validator("name")
    @classmethod
    def _a_registered_name(cls, value: str | None) -> str | None:
        """Require a name that MLflow accepts and that needs no quotes in its URIs or on a command line."""
        if value is not None and not re.fullmatch(r"\w[\w.+-]*", value):
            raise ValueError(f"must consist of letters, digits, '_', '.', '+' and '-', found {value!r}")
        return value

    @field_validator("alias")
    @classmethod
    def _an_alias(cls, value: str | None) -> str | None:
        """Require an alias that MLflow accepts."""
        if value is not None and not re.fullmatch(r"[\w-]+", value):
            raise ValueError(f"must consist of letters, digits, '_' and '-', found {value!r}")
        if value is not None and re.fullmatch(r"latest|v\d+", value, re.IGNORECASE):
            raise ValueError(f"must not be {value}, which MLflow reserves for versions")
        return value

    @model_validator(mode="after")
    def _something_to_do(self) -> ExportConfig:
        if self.alias is not None and self.name is None:
            raise ValueError("alias: needs register=<name>")
        if not self.formats and self.name is None:
            formats = ", ".join(get_args(Format))
            raise ValueError(
                f"format: missing; give one or more of {formats}; register=<name> registers the model instead"
            )
        if self.output is not None and not self.formats:
            raise ValueError("output: needs format=…")
        return self


class VisualizeConfig(SavedConfig):
    """Config of `mnist-exp visualize`: the model, and the layers, images and pictures to draw."""

    pictures: tuple[Literal["filters", "features", "activation", "fields"], ...]
    layers: tuple[LayerChoice, ...] | None
    """None selects every layer that can be drawn."""
    images: tuple[int | str, ...] | None
    """Indices of test images, image files, or both.

    `("wrong",)` selects the most confident mistakes; None selects the first image of each class."""
    channels: Count | None
    unit: tuple[Index, Index] | None
    output: Annotated[str, Field(min_length=1)] | None

    @field_validator("pictures", mode="before")
    @classmethod
    def _some(cls, value: Any) -> Any:
        if value in ([], ()):
            raise ValueError("must name at least one of filters, features, activation and fields")
        return cls._one_or_several(value)

    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, (list, tuple)) else (value,)

    @field_validator("layers", mode="before")
    @classmethod
    def _all_or_some(cls, value: Any) -> Any:
        if value in ([], ()):
            raise ValueError("must name at least one layer; 'all' selects every layer")
        return None if value in (None, "all") else cls._one_or_several(value)

    @field_validator("images", mode="before")
    @classmethod
    def _numbers_and_files(cls, value: Any) -> Any:
        names = split_names(value)
        if names == ():
            raise ValueError("must name at least one image; null selects the first of each class")
        return names and tuple(int(name) if re.fullmatch(r"-?[0-9]+", str(name)) else name for name in names)

    @field_validator("unit", mode="before")
    @classmethod
    def _row_and_column(cls, value: Any) -> Any:
        if value is not None and (not isinstance(value, (list, tuple)) or len(value) != 2):
            raise ValueError(f"must be [row,column], found {value}")
        return value and tuple(value)


class DemoConfig(Frozen):
    """Config of `mnist-exp demo`: the models, and where the page is served."""

    outputs: Annotated[str, Field(min_length=1)]
    run: tuple[Annotated[str, Field(min_length=1)], ...] | None
    channels: Annotated[int, Field(ge=1, le=64)]
    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)] | None
    open: bool

    _runs = field_validator("run", mode="before")(split_names)

    @field_validator("run")
    @classmethod
    def _one_or_two(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and not 1 <= len(value) <= 2:
            raise ValueError(f"must be a run or two of them, 'run=[a,b]', found {len(value)}")
        return value


class DatasetConfig(Frozen):
    """Config of `mnist-exp dataset`: the data set to fetch, verify or convert."""

    action: Literal["fetch", "verify", "convert"] | None
    data: DataConfig
    to: Literal["idx", "csv", "npz", "folder"] | None
    output: Annotated[str, Field(min_length=1)] | None
    header: bool
    format: Json
    outputs: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _of_the_action(self) -> DatasetConfig:
        if self.action == "convert" and self.to is None:
            raise ValueError("to: missing; give idx, csv, npz or folder")
        given = {"to": self.to, "output": self.output, "header": self.header or None}
        for key, value in given.items():
            if self.action != "convert" and value is not None:
                raise ValueError(f"{key}: applies only to 'dataset convert'")
        if self.format is not None and self.action != "verify":
            raise ValueError("format: applies only to 'dataset verify'")
        if self.header and self.to != "csv":
            raise ValueError("header: has no effect without to=csv")
        return self
