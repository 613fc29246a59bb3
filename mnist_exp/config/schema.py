"""The typed, immutable config that the rest of the program works with.

The classes here check for unknown keys, types, ranges, and values that contradict each other. Lists of layers are
parsed into specs and their faults (`mnist_exp.keras_spec.layer_specs`). Problems that only Keras can find are left
to `mnist_exp.engine.keras_check`, which builds the model.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from mnist_exp import registrations
from mnist_exp.config.data_schema import PARTS as PARTS
from mnist_exp.config.data_schema import DataConfig as DataConfig
from mnist_exp.config.data_schema import FileSpec as FileSpec
from mnist_exp.config.distillation_schema import DistillationConfig
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
from mnist_exp.keras_spec.signatures import spell_out

WHITENED_VALUES = 4096  # whitening this many values takes a matrix of 64 MiB


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


MixingParameter = Annotated[float, Field(ge=0, le=100)]
"""The parameter of the Beta distribution of an image's share in a mixture; 0 mixes nothing."""


class AugConfig(Frozen):
    """Random augmentation of training images.

    The transforms have the names and meanings of Keras' `ImageDataGenerator`. Elastic distortion and Keras layers
    are additions.
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
    mixup: MixingParameter = 0.0
    cutmix: MixingParameter = 0.0
    until: Annotated[float, Field(gt=0, le=1)] | None = None
    """The fraction of the training steps after which augmentation stops."""

    @field_validator("width_shift_range", "height_shift_range", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if not all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in numbers):
            raise ValueError(f"must be a number of pixels, a fraction of the size, or a list, found {value}")
        return tuple(value) if isinstance(value, (list, tuple)) else value

    @field_validator("width_shift_range", "height_shift_range")
    @classmethod
    def _some(cls, value: float | tuple[float, ...]) -> float | tuple[float, ...]:
        if value == ():
            raise ValueError("must be a number or a list of at least one number")
        return value

    @field_validator("until")
    @classmethod
    def _never_stops(cls, value: float | None) -> float | None:
        return None if value == 1 else value

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
        return not self.resamples and not self.layers.specs and not self.mixes

    @property
    def mixes(self) -> bool:
        """Whether images and their targets are mixed."""
        return bool(self.mixup or self.cutmix)

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
        """The arguments of the optimizer's class, except null ones, which keep their defaults."""
        return {key: value for key, value in self.model_dump(exclude={"type"}).items() if value is not None}


class PlateauConfig(Frozen):
    """When and by how much `reduce_on_plateau` lowers the learning rate."""

    factor: Annotated[float, Field(gt=0, lt=1)]
    patience: Count
    min_delta: Annotated[float, Field(ge=0)]


_Schedule = Literal["constant", "linear", "cosine", "exponential", "one_cycle", "reduce_on_plateau"]
SCHEDULES: tuple[str, ...] = get_args(_Schedule)
"""The built-in schedules."""


def _a_registered_schedule(value: str) -> str:
    if value not in registrations.names("schedule"):
        raise ValueError(f"there is no schedule '{value}'")  # the message about built-in ones is shown instead
    return value


class ScheduleConfig(Frozen):
    """The learning rate schedule, as fractions of `optimizer.learning_rate`."""

    type: _Schedule | Annotated[str, AfterValidator(_a_registered_schedule)]
    """A built-in schedule, or one that a plug-in registers."""
    warmup_epochs: Annotated[float, Field(ge=0)]
    warmup_fraction: Fraction
    initial_fraction: Annotated[float, Field(ge=0, le=1)]
    final_fraction: Annotated[float, Field(ge=0, le=1)]
    plateau: PlateauConfig | None
    arguments: dict[str, Any] = Field(default_factory=dict)
    """The arguments of a plug-in's schedule."""

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
            raise ValueError(f"the best epoch is the one with {best}, so also set training.select.mode={mode}")
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
    class_weight: Literal["balanced"] | dict[str, Annotated[float, Field(ge=0)]] | None = None
    freeze: tuple[LayerChoice, ...] = ()
    max_seconds: Annotated[float, Field(gt=0)] | None = None
    """The time that a new run derives `epochs` from. The config of a run that has begun contains both."""
    average_last: Annotated[int, Field(ge=2, le=1000)] | None = None
    """The number of epochs whose weights are averaged."""
    callbacks: tuple[Any, ...] = ()
    """Callbacks of plug-ins: names, or mappings of a `type` and arguments."""
    distillation: DistillationConfig = DistillationConfig()
    _full_name_of_loss = field_validator("loss")(spell_out)

    @property
    def averages(self) -> bool:
        """Whether an average of the weights is validated and saved."""
        return self.ema is not None or self.average_last is not None

    @property
    def one_hot(self) -> bool:
        """Whether the loss expects one-hot targets; Keras' `sparse_…` losses expect class indices."""
        return takes_one_hot(self.loss)

    @field_validator("metrics")
    @classmethod
    def _full_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(spell_out, value))

    @model_validator(mode="after")
    def _smoothing_needs_one_hot(self) -> TrainingConfig:
        if self.label_smoothing and not self.one_hot:
            raise ValueError(f"label_smoothing needs one-hot targets, found loss: {self.loss}")
        return self

    @model_validator(mode="after")
    def _one_average(self) -> TrainingConfig:
        if self.average_last is not None and self.ema is not None:
            raise ValueError(f"average_last needs ema: null, found {self.ema:g}: only one average can be saved")
        return self


class DeviceConfig(Frozen):
    """The device, its threads, and the precision; `auto` is resolved at the start of a run."""

    kind: Literal["auto", "cpu", "gpu"]
    precision: Literal["auto", "float32", "bfloat16"]
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"]
    deterministic: bool


TagName = Annotated[str, Field(pattern=r"^[\w./ -]+$", max_length=250)]
TagValue = Annotated[str, Field(max_length=5000)]  # MLflow refuses longer ones


class TrackingConfig(Frozen):
    """The MLflow store that mirrors the run directory."""

    enabled: bool
    uri: str | None
    experiment: Annotated[str, Field(min_length=1)]
    wait_seconds: Annotated[float, Field(ge=0)]
    system_metrics: bool = False
    tags: dict[TagName, bool | int | float | TagValue] = Field(default_factory=dict)
    """Tags of the MLflow run."""

    @field_validator("experiment")
    @classmethod
    def _an_experiment_of_ours(cls, value: str) -> str:
        if value == "Default":
            raise ValueError(
                "must not be MLflow's own 'Default', whose artifacts would go into the working directory"
            )
        return value

    @field_validator("tags")
    @classmethod
    def _own_tags(cls, value: dict[str, Any]) -> dict[str, Any]:
        if reserved := [name for name in value if name.startswith(("mlflow.", "mnist_exp."))]:
            raise ValueError(f"must not contain tags that MLflow or mnist-exp sets, found {', '.join(reserved)}")
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
    """The sweep's name, whether to start it over or to skip invalid jobs, and which jobs keep their models."""

    name: Annotated[str, Field(min_length=1, max_length=100)] | None
    skip_invalid: bool
    rerun: bool
    keep_models: Literal["all", "best"] = "all"


Plot = Literal[
    "accuracy", "loss", "learning_rate", "architecture", "augmentation", "confusion_matrix", "misclassified"
]
"""The pictures that a run draws."""


class ResolutionConfig(Frozen):
    """The resolution of pictures."""

    dpi: Annotated[int, Field(ge=20, le=600)] = 110
    """Pixels per inch."""


_Plots = tuple[Plot, ...] | Literal["all", "none"] | bool


class PlotsConfig(ResolutionConfig):
    """The pictures that a run draws, and their resolution."""

    draw: tuple[Plot, ...] = get_args(Plot)

    @field_validator("draw", mode="before", json_schema_input_type=_Plots)
    @classmethod
    def _all_none_or_some(cls, value: Any) -> Any:
        if value in (True, "all"):
            return get_args(Plot)
        if value in (False, None, "none"):
            return ()
        return tuple(value) if isinstance(value, list) else (value,) if isinstance(value, str) else value


class TrainConfig(Frozen):
    """All settings of a training run."""

    seed: Seed
    name: Annotated[str, Field(min_length=1, max_length=100)] | None
    outputs: Annotated[str, Field(min_length=1)]
    from_: Annotated[str | None, Field(alias="from")]
    init_from: str | None
    teacher: str | None = None
    """The run or model file whose outputs are learned as well."""
    any_version: bool
    """Whether a run may be resumed after an upgrade."""
    save: tuple[Literal["keras", "h5", "yaml", "plots"], ...] = ("keras", "h5", "yaml", "plots")
    """The files that a run keeps besides its results; `yaml` is the architecture with the weights."""
    plots: PlotsConfig = PlotsConfig()
    report: bool = False
    """Whether a report is written at the end."""
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

    @field_validator("plots", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """Accept `false` instead of the mapping, as in a preset."""
        return {"draw": value} if isinstance(value, bool) else value

    @property
    def drawn_plots(self) -> tuple[Plot, ...]:
        """The pictures to draw; none if `save` leaves them out."""
        return self.plots.draw if "plots" in self.save else ()

    @model_validator(mode="after")
    def _groups_agree(self) -> TrainConfig:
        wrong = [
            *self._unwatched(),
            *self._too_large_to_whiten(),
            *self._warmup_without_end(),
            *self._mixed_indices(),
            *self._distillation_without_effect(),
        ]
        if wrong:
            raise ValueError("\n".join(wrong))  # each line starts with the key to change
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

    def _distillation_without_effect(self) -> Iterator[str]:
        defaults = DistillationConfig()
        for key, value in self.training.distillation:
            if self.teacher is None and value != getattr(defaults, key):
                yield f"training.distillation.{key}={value:g}: needs a teacher, but teacher is null"
        loss = self.training.loss
        if self.teacher is not None and "crossentropy" not in loss.lower().replace("_", ""):
            yield f"training.loss={loss}: must be a cross-entropy to learn from a teacher"

    def _mixed_indices(self) -> Iterator[str]:
        for key, alpha in (("mixup", self.aug.mixup), ("cutmix", self.aug.cutmix)):
            if alpha and not self.training.one_hot:
                yield (
                    f"aug.{key}={alpha:g}: mixed images have several classes, which {self.training.loss} "
                    f"cannot express: set training.loss=categorical_crossentropy"
                )

    def _warmup_without_end(self) -> Iterator[str]:
        # With a time budget, the number of epochs is not known yet: `engine.run` checks it.
        if self.training.max_seconds is None and self.schedule.warmup_epochs > self.training.epochs:
            yield (
                f"schedule.warmup_epochs={self.schedule.warmup_epochs:g}: "
                f"must not exceed training.epochs={self.training.epochs}"
            )
