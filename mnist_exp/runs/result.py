"""The result of a run (`result.json`): its fields, and how it is read and written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mnist_exp.errors import DIVERGED
from mnist_exp.runs.atomic import write_text
from mnist_exp.runs.regular_files import read_text
from mnist_exp.text import masked_values

RESULT = "result.json"
SCHEMA_VERSION = 1

_LARGEST = 3.5e38  # float32 ends at 3.4e38


def limit_metric(number: float) -> float:
    """Return a number, or an infinity if it is too large for float32.

    Only a damaged file has such a metric; it would overflow in plots.
    """
    return math.copysign(math.inf, number) if abs(number) > _LARGEST else number


# A larger number could not be converted to a float, or loses digits.
Count = Annotated[int, Field(gt=-(2**53), lt=2**53)]
Metrics = dict[str, Count | Annotated[float, AfterValidator(limit_metric)]]


class Record(BaseModel):
    """A part of `result.json`. Keys of later versions are kept."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=True)


class DataRecord(Record):
    """The data that the run was trained on."""

    name: str | None = None
    sha256: str | None = None
    """Digest of the images and labels of all parts."""
    origin: str | None = None
    """The folder, address or library that the data came from."""
    shape: list[int] | None = None
    class_names: list[str] = []
    images: dict[str, Count] = {}
    """Number of images in each part."""
    distinct_training_images: int | None = None
    """Number of training images before `data.balance` repeated some; None if none is repeated."""
    stands_in_for: str | None = None
    """The requested data set, if it was not found and this is its fallback."""
    skipped: list[str] = []
    """The paths of damaged files that `data.skip_bad` left out."""

    @property
    def title(self) -> str:
        """The name, if it is known, and, for a fallback, the data set that it replaces."""
        name = self.name or "unknown data"
        return f"{name}, the fallback for {self.stands_in_for}" if self.stands_in_for else name


class DeviceRecord(Record):
    """The device that the run computed on."""

    kind: str = "cpu"
    device: str | None = None
    threads: int | None = None
    precision: str | None = None
    deterministic: bool | None = None
    cpu_features: list[str] | None = None
    """The CPU's instruction sets, from which oneDNN selects its code."""
    onednn: dict[str, str] | None = None
    """The environment variables that change this selection."""


class SplitRecord(Record):
    """The settings that split a data set, which determine the images that a run trained on."""

    sha256: str
    """Digest of the images and labels that the run used."""
    val_fraction: float = Field(ge=0, lt=1)
    split_seed: int = Field(ge=0)
    limit: int | None = Field(ge=1)


class ModelRecord(Record):
    """Another model that the run used: a run's, or that of a file or an ensemble."""

    run: str
    weights_sha256: str
    trained_on: list[SplitRecord] = []
    """The training images of that run and, recursively, of the runs that it started from or learned from."""
    validation_images_seen: int | None = None
    """Number of this run's validation images that those runs trained on; None if that is not known."""


class TeacherRecord(ModelRecord):
    """The model whose outputs the run learned as well (`teacher`)."""

    sha256: str
    """Digest of the teacher's weights, its architecture and the plug-ins of its layers."""


class WarmStartRecord(ModelRecord):
    """The weights that the run started from (`init_from`)."""

    taken: list[str] = []
    left: list[str] = []


class ResumptionRecord(Record):
    """One resumption of the run."""

    at: float = 0
    """Seconds since 1970."""
    epochs: int = 0
    steps: int = 0
    """The number of finished epochs and, in `steps`, of finished steps in the next one."""
    overrides: list[str] = []
    exact: bool = True
    """Whether the weights are bit-identical to those of an uninterrupted run."""


class PluginRecord(Record):
    """A plug-in whose names the run's config uses."""

    name: str
    source: str
    """The name of its file, or of the entry point of an installed package."""
    sha256: str
    """Digest of the file, or of all Python files of the package."""


class RunResult(Record):
    """The content of a run's `result.json`. Times are seconds since 1970; durations are in seconds."""

    schema_version: int = 0
    """0 for results written before schema versions were introduced."""
    name: str = ""
    started: float = Field(allow_inf_nan=False)
    mlflow_run_id: str | None = None
    status: str
    """running, finished, interrupted, killed, pruned or failed."""
    pid: int | None = None
    host: str | None = None
    fingerprint: str | None = None
    code_sha256: str | None = None
    init_from: WarmStartRecord | None = None
    teacher: TeacherRecord | None = None
    """The model whose outputs were learned as well."""
    plugins: list[PluginRecord] = []
    overrides: list[str] = []
    withholds_test: bool = False
    """Whether the test set is not scored, as in a trial of a search."""
    planned_epochs: int | None = None
    parameters: int | None = None
    data: DataRecord
    device: DeviceRecord = Field(default_factory=DeviceRecord)
    epochs: int = 0
    """Finished epochs."""
    best: Metrics | None = None
    """The saved epoch's number and validation metrics."""
    test: Metrics | None = None
    """The test metrics of the saved model."""
    weights_sha256: str | None = None
    versions: dict[str, str] = {}
    reason: str = ""
    """Why the run ended early."""
    seconds: dict[str, float] = {}
    """Duration of each phase of the last process, and `total`, by its monotonic clock.

    In an unfinished run, these are the durations up to the last recorded epoch, or up to the end of the process.
    """
    earlier_seconds: float | None = None
    """`training_seconds` of the processes before the last; None if they did not record it."""
    ended: float | None = None
    stopped_early: bool = False
    resumed: list[ResumptionRecord] = []
    exact: bool = True
    """Whether the weights are those of an uninterrupted run."""
    tags: list[str] = []
    note: str = ""
    """`tags` and `note` are what the user wrote (`runs tag`, `runs note`)."""

    @property
    def validation_images_seen(self) -> int:
        """Number of validation images that the run's initial weights or its teacher were trained on.

        If both were trained on some, it is the greater of the two numbers. Unknown images are not counted.
        """
        return max((model.validation_images_seen or 0 for model in self.models_used), default=0)

    @property
    def models_used(self) -> list[ModelRecord]:
        """The models that the run started from and learned from."""
        return [model for model in (self.init_from, self.teacher) if model is not None]

    @property
    def diverged(self) -> bool:
        """Whether the run ended because its loss or weights were no longer finite."""
        return DIVERGED in self.reason

    @property
    def best_epoch(self) -> int | None:
        """The saved epoch's number."""
        epoch = _finite((self.best or {}).get("epoch"))
        return None if epoch is None else int(epoch)

    @property
    def val_accuracy(self) -> float | None:
        """The saved epoch's validation accuracy; None if it is not a number."""
        return _finite((self.best or {}).get("val/accuracy"))

    @property
    def test_accuracy(self) -> float | None:
        """The saved model's test accuracy; None if it is not a number."""
        return _finite((self.test or {}).get("accuracy"))

    @property
    def training_seconds(self) -> float | None:
        """The seconds that processes spent on the run, except for start-up and reading data, which jobs share.

        None if a process did not record them, as in older versions, or recorded no number.
        """
        if "total" not in self.seconds or (self.resumed and self.earlier_seconds is None):
            return None
        last = self.seconds["total"] - self.seconds.get("start", 0) - self.seconds.get("data", 0)
        return _finite((self.earlier_seconds or 0) + last)

    def as_resumed(self, entry: ResumptionRecord) -> RunResult:
        """Return the result with one more resumption, which begins now."""
        return self.model_copy(
            update={
                "resumed": [*self.resumed, entry],
                "exact": self.exact and entry.exact,
                "earlier_seconds": self.training_seconds,
            }
        )

    def as_json(self) -> str:
        """Return the content of `result.json`: the fields that are set, in order, without credentials."""
        values = masked_values(self.model_dump(mode="json", exclude_unset=True))
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _finite(value: float | None) -> float | None:
    """Return a number; None for NaN and infinities, which a diverged or foreign run can contain."""
    return value if value is not None and math.isfinite(value) else None


DAMAGED = RunResult(started=0, status="damaged", data=DataRecord())
"""A placeholder for a `result.json` that cannot be read."""


def read_result(directory: Path) -> RunResult | None:
    """Read a run's result; None if there is none.

    Raises `ValueError` if the file is damaged, or `OSError` if it cannot be read.
    """
    file = directory / RESULT
    try:
        return parse_result(json.loads(read_text(file)))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:  # invalid JSON, UTF-8 or field
        raise ValueError(f"{file}: damaged") from error


def parse_result(values: Any) -> RunResult:
    """Convert the values of a `result.json` of this or an earlier version to a result. Raises `ValueError`."""
    try:
        return RunResult.model_validate(values)
    except ValidationError as error:
        raise ValueError(str(error)) from error


def write_result(directory: Path, result: RunResult) -> None:
    """Write `result.json` atomically. The caller holds the directory's lock."""
    write_text(directory / RESULT, result.as_json())
