"""The typed, immutable config that the rest of the program works with.

The classes here check for unknown keys, types, ranges, and values that contradict each other. Lists of layers are
parsed into specs and their faults (`mnist_exp.keras_spec.layer_specs`). Problems that only Keras can find are left
to `mnist_exp.engine.keras_check`, which builds the model.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from mnist_exp.config.field_types import (
    Augmentations,
    Count,
    Fraction,
    Frozen,
    LayerChoice,
    Layers,
    Pixels,
    Range,
    Seed,
)
from mnist_exp.config.metric_directions import direction_of
from mnist_exp.config.store_uri import a_store
from mnist_exp.keras_spec.objective import takes_one_hot
from mnist_exp.suggest import did_you_mean

WHITENED_VALUES = 4096  # whitening this many values takes a matrix of 64 MiB


class FileSpec(Frozen):
    """A file of a data set: in YAML, its name, or a mapping of its name and digests."""

    name: str
    sha256: str | None = None
    """SHA-256 of the uncompressed content."""
    gz_sha256: str | None = None
    """SHA-256 of the archive `<name>.gz`, if that of the content is not published."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


# The parts of each source. Test parts may be null if the data set has no test images.
PARTS = {
    "idx": ("train_images", "train_labels", "test_images", "test_labels"),
    "csv": ("train", "test"),
    "npz": ("archive",),
    "folder": ("train", "test"),
    "digits": (),
}


class DataConfig(Frozen):
    """The source of the images, their shape and classes, and how they are split."""

    name: str
    source: Literal["idx", "csv", "npz", "folder", "digits"]
    files: dict[str, FileSpec | None]
    mirrors: tuple[str, ...]
    keras_cache: FileSpec | None
    dir: str | None
    shape: tuple[Count, Count, Count]
    classes: Annotated[int, Field(ge=2)]
    class_names: tuple[str, ...] | None
    val_fraction: Fraction
    split_seed: Seed
    limit: Count | None
    fallback: str | None

    def __hash__(self) -> int:
        return hash((self.name, self.source, self.dir))  # `files` is not hashable

    @property
    def parts(self) -> dict[str, FileSpec]:
        """The files of the parts that are not null, in the order of `PARTS`."""
        return {part: spec for part in PARTS[self.source] if (spec := self.files[part]) is not None}

    @property
    def as_found(self) -> DataConfig:
        """The config without the settings that split or limit the images after reading them.

        Configs that differ only in these settings become equal.
        """
        return self.model_copy(update={"limit": None, "val_fraction": 0.0, "split_seed": 0})

    @field_validator("files", mode="before")
    @classmethod
    def _no_files(cls, value: Any) -> Any:
        return {} if value is None else value  # null in configs saved by earlier versions

    @field_validator("files")
    @classmethod
    def _parts_of_the_source(
        cls, value: dict[str, FileSpec | None], info: ValidationInfo
    ) -> dict[str, FileSpec | None]:
        source = info.data.get("source")
        if source is None:  # invalid, and reported as such
            return value
        parts = PARTS[source]
        for part in value:
            if part not in parts:
                known = f"has {', '.join(parts)}" if parts else "reads no files"
                raise ValueError(f"{part}: no such part{did_you_mean(part, parts)}; source {source} {known}")
        for part in parts:
            if part not in value:
                raise ValueError(f"{part}: missing; source {source} has {', '.join(parts)}")
            _check_part(source, part, value[part])
        if source == "idx" and (value["test_images"] is None) != (value["test_labels"] is None):
            raise ValueError("test_images and test_labels: must both be file names or both be null")
        return value

    @field_validator("mirrors", "keras_cache")
    @classmethod
    def _of_idx_files(
        cls, value: tuple[str, ...] | FileSpec | None, info: ValidationInfo
    ) -> tuple[str, ...] | FileSpec | None:
        source = info.data.get("source", "idx")
        if value and source != "idx":
            raise ValueError(f"only IDX files are searched for outside data.dir; the source is {source}")
        return value

    @field_validator("dir")
    @classmethod
    def _absolute(cls, value: str | None, info: ValidationInfo) -> str | None:
        # Absolute, as runs may be resumed and repeated from other directories. An empty environment variable
        # counts as unset.
        if value:
            return os.path.abspath(os.path.expanduser(value))
        files = info.data.get("files")
        if files and not info.data.get("mirrors") and not info.data.get("keras_cache"):
            names = ", ".join(spec.name for spec in files.values() if spec is not None)
            raise ValueError(f"give the folder that holds {names}: data.dir=…")
        return None

    @field_validator("shape", mode="before")
    @classmethod
    def _three(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)) or len(value) != 3:
            raise ValueError(f"must be [height, width, channels], found {value}")
        return tuple(value)

    @field_validator("shape")
    @classmethod
    def _grey_or_colour(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        if value[2] not in (1, 3):
            raise ValueError(f"must be [height, width, channels] with 1 or 3 channels, found {list(value)}")
        return value

    @model_validator(mode="after")
    def _names_each_class(self) -> DataConfig:
        if self.class_names is not None and len(self.class_names) != self.classes:
            names = f"{len(self.class_names)} name{'s' * (len(self.class_names) != 1)}"
            raise ValueError(f"class_names has {names} for {self.classes} classes")
        if self.class_names is not None and len(set(self.class_names)) < self.classes:
            twice = next(name for name in self.class_names if self.class_names.count(name) > 1)
            raise ValueError(f"class_names has {twice!r} twice; expected a name for each class")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> DataConfig:
        if self.mirrors or self.keras_cache:  # the names are also those of files in the cache
            used = {"name": self.name, **{f"files.{part}": spec.name for part, spec in self.parts.items()}}
            for key, name in used.items():
                if not re.fullmatch(r"\w[\w.+-]*", name):
                    raise ValueError(f"{key} must be letters, digits, '_', '.', '+' and '-', found {name!r}")
        if self.mirrors and self.dir is None:
            for part, spec in self.parts.items():
                if spec.sha256 is None and spec.gz_sha256 is None:
                    raise ValueError(
                        f"files.{part} must have a sha256 or gz_sha256, to be downloaded from mirrors"
                    )
        if self.source == "digits" and self.dir is not None:
            raise ValueError(f"dir={self.dir}: the digits are embedded, so no folder is read")
        return self


def _check_part(source: str, part: str, spec: FileSpec | None) -> None:
    """Raise `ValueError` if a part of the data lacks its file, or has a digest that is not one of its source."""
    if spec is None:
        if not part.startswith("test"):
            raise ValueError(f"{part}: must name a file; only a test part may be null")
    elif source == "folder" and spec.sha256 is not None:
        raise ValueError(f"{part}: a folder has no sha256")
    elif source != "idx" and spec.gz_sha256 is not None:
        raise ValueError(f"{part}: gz_sha256 is only for IDX files, which may be gzip archives")


class PreprocessConfig(Frozen):
    """The transformation of raw pixels at the saved model's input."""

    name: str
    type: Literal["unit", "standardize", "pca", "zca"]
    epsilon: Annotated[float, Field(gt=0)] | None

    @property
    def whitens(self) -> bool:
        """Whether the pixels are decorrelated."""
        return self.type in ("pca", "zca")

    @model_validator(mode="after")
    def _epsilon_is_for_whitening(self) -> PreprocessConfig:
        if self.whitens and self.epsilon is None:
            raise ValueError(f"{self.type} needs epsilon, which is added to each variance")
        if not self.whitens and self.epsilon is not None:
            raise ValueError(f"{self.type} takes no epsilon; only pca and zca do")
        return self


class AugConfig(Frozen):
    """Random augmentation of training images.

    The transforms have the names and meanings of Keras' `ImageDataGenerator`. Elastic distortion and Keras layers
    are additional.
    """

    name: str
    rotation_range: Annotated[float, Field(ge=0, le=180)]
    # Integers, floats and lists have different meanings; conf/aug/none.yaml explains them.
    width_shift_range: Pixels | Range | tuple[float, ...]
    height_shift_range: Pixels | Range | tuple[float, ...]
    shear_range: Annotated[float, Field(ge=0, lt=90)]
    zoom_range: Annotated[float, Field(ge=0, lt=1)] | tuple[float, float]
    horizontal_flip: bool
    vertical_flip: bool
    elastic_alpha: Range
    elastic_sigma: Annotated[float, Field(gt=0, le=100)]
    fill_mode: Literal["constant", "nearest", "reflect", "wrap"]
    cval: Annotated[float, Field(ge=0, le=255)]
    layers: Augmentations

    @field_validator("width_shift_range", "height_shift_range", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if not all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in numbers):
            raise ValueError(f"must be pixels, a fraction of the size, or a list of shifts, found {value}")
        return tuple(value) if isinstance(value, (list, tuple)) else value

    @field_validator("width_shift_range", "height_shift_range")
    @classmethod
    def _some(cls, value: float | tuple[float, ...]) -> float | tuple[float, ...]:
        if value == ():
            raise ValueError("must be a number or a list of at least one number")
        return value

    @property
    def zoom(self) -> tuple[float, float]:
        """The lowest and highest zoom; values below 1 enlarge."""
        if isinstance(self.zoom_range, tuple):
            return self.zoom_range
        return 1 - self.zoom_range, 1 + self.zoom_range

    @field_validator("zoom_range", mode="before")
    @classmethod
    def _one_or_two(cls, value: Any) -> Any:
        numbers = value if isinstance(value, (list, tuple)) and len(value) == 2 else [value]
        if not all(isinstance(number, (int, float)) for number in numbers):
            raise ValueError(f"must be a number or [low, high], found {value}")
        return tuple(value) if isinstance(value, (list, tuple)) else value

    @field_validator("zoom_range")
    @classmethod
    def _ordered(cls, value: float | tuple[float, float]) -> float | tuple[float, float]:
        if isinstance(value, tuple) and not 0 < value[0] <= value[1]:
            raise ValueError(f"must be [low, high] with 0 < low <= high, found {list(value)}")
        return value

    @property
    def shown_name(self) -> str:
        """The option's name, or `custom` if overrides of `aug=none` enable augmentation."""
        return "custom" if self.name == "none" and not self.is_identity else self.name

    @property
    def is_identity(self) -> bool:
        """Whether augmentation leaves every image unchanged."""
        return not self.resamples and not self.layers.specs

    @property
    def resamples(self) -> bool:
        """Whether any setting other than `layers` moves pixels."""
        ranges = (self.rotation_range, self.shear_range, self.width_shift_range, self.height_shift_range)
        return (
            any(any(value) if isinstance(value, tuple) else value for value in ranges)
            or self.zoom != (1, 1)
            or self.horizontal_flip
            or self.vertical_flip
            or self.elastic_alpha > 0
        )


class ModelConfig(Frozen):
    """A list of layers; any other key is a parameter that `layers` can interpolate."""

    model_config = ConfigDict(extra="allow")
    name: str
    layers: Layers


class OptimizerConfig(Frozen):
    """A Keras optimizer; any other key is an argument of its class."""

    model_config = ConfigDict(extra="allow")
    type: str
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    clipnorm: Annotated[float, Field(gt=0)] | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the optimizer's class; those that are null are left at its defaults."""
        return {key: value for key, value in self.model_dump(exclude={"type"}).items() if value is not None}


class PlateauConfig(Frozen):
    """When and by how much `reduce_on_plateau` lowers the learning rate."""

    factor: Annotated[float, Field(gt=0, lt=1)]
    patience: Count
    min_delta: Annotated[float, Field(ge=0)]


class ScheduleConfig(Frozen):
    """The learning rate schedule, as fractions of `optimizer.learning_rate`."""

    type: Literal["constant", "linear", "cosine", "exponential", "one_cycle", "reduce_on_plateau"]
    warmup_epochs: Annotated[float, Field(ge=0)]
    warmup_fraction: Fraction
    initial_fraction: Annotated[float, Field(ge=0, le=1)]
    final_fraction: Annotated[float, Field(ge=0, le=1)]
    plateau: PlateauConfig | None

    @model_validator(mode="after")
    def _consistent(self) -> ScheduleConfig:
        if self.warmup_epochs and self.warmup_fraction:
            both = f"warmup_epochs={self.warmup_epochs:g} and warmup_fraction={self.warmup_fraction:g}"
            raise ValueError(f"{both} both set the length of the warm-up: set one of them to 0")
        if self.type == "constant" and self.final_fraction != 1:
            raise ValueError("a constant schedule needs final_fraction: 1.0")
        if self.type == "exponential" and self.final_fraction == 0:
            raise ValueError("final_fraction must be above 0 for an exponential schedule, which never reaches 0")
        if (self.type == "reduce_on_plateau") != (self.plateau is not None):
            raise ValueError("plateau must be set for reduce_on_plateau, and for no other schedule")
        return self


class SelectConfig(Frozen):
    """The validation metric that determines the best epoch."""

    metric: Annotated[str, Field(pattern="^val/.+")]
    mode: Literal["max", "min"]

    @model_validator(mode="after")
    def _mode_is_the_metrics(self) -> SelectConfig:
        mode = direction_of(self.metric)
        if mode not in (None, self.mode):
            best = f"the {'highest' if mode == 'max' else 'lowest'} {self.metric}"
            raise ValueError(f"the best epoch has {best}: also set mode={mode} (training.select.mode={mode})")
        return self


class EarlyStoppingConfig(Frozen):
    """Early stopping after `patience` epochs without improvement (null: never)."""

    patience: Count | None
    min_delta: Annotated[float, Field(ge=0)]


class TrainingConfig(Frozen):
    """Epochs, batch size, loss, metrics, and the selection of the epoch to keep."""

    epochs: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: Count
    loss: str
    label_smoothing: Fraction
    metrics: tuple[str, ...]
    select: SelectConfig
    early_stopping: EarlyStoppingConfig
    ema: Annotated[float, Field(gt=0, lt=1)] | None
    watch: tuple[LayerChoice, ...]
    checkpoint_seconds: Annotated[float, Field(gt=0)] | None
    keep_checkpoint: bool

    @property
    def one_hot(self) -> bool:
        """Whether the loss expects one-hot targets; Keras' `sparse_…` losses expect class indices."""
        return takes_one_hot(self.loss)

    @model_validator(mode="after")
    def _smoothing_needs_one_hot(self) -> TrainingConfig:
        if self.label_smoothing and not self.one_hot:
            raise ValueError(f"label_smoothing needs loss: categorical_crossentropy, found {self.loss}")
        return self


class DeviceConfig(Frozen):
    """The device, its threads, and the precision; `auto` is resolved at the start of a run."""

    kind: Literal["auto", "cpu", "gpu"]
    precision: Literal["auto", "float32", "bfloat16"]
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"]
    deterministic: bool


class TrackingConfig(Frozen):
    """The MLflow store that mirrors the run directory."""

    enabled: bool
    uri: str | None
    experiment: Annotated[str, Field(min_length=1)]
    wait_seconds: Annotated[float, Field(ge=0)]

    @field_validator("experiment")
    @classmethod
    def _an_experiment_of_ours(cls, value: str) -> str:
        if value == "Default":
            raise ValueError(
                "must not be MLflow's own 'Default', whose artifacts would go into the working directory"
            )
        return value

    _a_store = field_validator("uri")(a_store)


class BudgetConfig(Frozen):
    """Limits on the model's parameters and multiply-adds; a model that exceeds them is refused."""

    max_parameters: Count | None
    max_macs: Count | None


class DebugConfig(Frozen):
    """Debugging aids for a model that does not train as it should."""

    name: str
    max_steps: Count | None
    check_finite: bool


class SweepConfig(Frozen):
    """The sweep's name, whether to start it over, and whether to skip invalid jobs."""

    name: Annotated[str, Field(min_length=1, max_length=100)] | None
    skip_invalid: bool
    rerun: bool


class TrainConfig(Frozen):
    """All settings of a training run."""

    seed: Seed
    name: Annotated[str, Field(min_length=1, max_length=100)] | None
    outputs: Annotated[str, Field(min_length=1)]
    from_: Annotated[str | None, Field(alias="from")]
    init_from: str | None
    any_version: bool
    """Whether a run may be resumed after an upgrade."""
    _outputs_of_a_home = field_validator("outputs")(os.path.expanduser)
    sweep: SweepConfig
    budget: BudgetConfig
    data: DataConfig
    preprocess: PreprocessConfig
    aug: AugConfig
    model: ModelConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    training: TrainingConfig
    device: DeviceConfig
    tracking: TrackingConfig
    debug: DebugConfig

    @model_validator(mode="after")
    def _groups_agree(self) -> TrainConfig:
        wrong = [*self._unwatched(), *self._too_large_to_whiten(), *self._warmup_without_end()]
        if wrong:
            raise ValueError("\n".join(wrong))  # each starts with the key to change
        return self

    def _unwatched(self) -> Iterator[str]:
        for key, watches in (
            ("training.early_stopping.patience", self.training.early_stopping.patience is not None),
            ("schedule=reduce_on_plateau", self.schedule.plateau is not None),
        ):
            if watches and not self.data.val_fraction:
                yield f"{key}: needs validation data, but data.val_fraction is 0"

    def _too_large_to_whiten(self) -> Iterator[str]:
        values = math.prod(self.data.shape)
        if self.preprocess.whitens and values > WHITENED_VALUES:
            yield (
                f"preprocess={self.preprocess.type}: whitening {values:,} values needs a matrix of "
                f"{values:,}×{values:,}; images may have at most {WHITENED_VALUES:,} values"
            )

    def _warmup_without_end(self) -> Iterator[str]:
        if self.schedule.warmup_epochs > self.training.epochs:
            yield (
                f"schedule.warmup_epochs={self.schedule.warmup_epochs:g}: "
                f"must not exceed training.epochs={self.training.epochs}"
            )
