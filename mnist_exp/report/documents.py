"""The JSON documents of `format=json`, one type per verb; `mnist-exp schema output=…` prints their JSON Schemas.

Accuracies are from 0 to 1, times are seconds since 1970, durations are in seconds, and paths are absolute. Numbers
that are not finite become `null`, because JSON cannot represent them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from mnist_exp.errors import Code, Problem, RequestError
from mnist_exp.report.document_base import Document as Document
from mnist_exp.report.document_base import Part
from mnist_exp.report.lr_find_document import LrFindDocument

Metrics = dict[str, float | None]


class ProblemEntry(Part):
    """One problem in a request."""

    code: Code | None
    """null if the message concerns the request as a whole."""
    place: str
    """`file:line`, `command line`, or empty."""
    path: str
    """The dotted path of the key at fault; empty if no single key is at fault."""
    message: str


class ErrorDocument(Document):
    """The failure of a command line, printed instead of the verb's own document."""

    document: Literal["error"] = "error"
    exit_status: int
    """1 if the work failed, 2 if the request was wrong, 128 + the signal's number if a signal ended it."""
    message: str
    problems: list[ProblemEntry]
    """The problems of a wrong request; empty if the work failed."""


class RunEntry(Part):
    """A run in the list."""

    run: str
    """The run's name; for a job of a sweep, `<sweep>/<job>`."""
    path: str
    status: str
    started: float
    epochs: int
    planned_epochs: int | None
    data: str | None
    data_sha256: str | None
    fallback_for: str | None
    """The data set that was requested, if the run used its fallback."""
    metrics: Metrics
    """`val/…` of the saved epoch and `test/…` of the saved model."""
    settings: dict[str, Any]
    """The settings that differ between the listed runs."""
    tags: list[str]
    note: str
    fault: str | None
    """The reason why other verbs cannot use the run."""


class RunsDocument(Document):
    """Output of `runs`."""

    document: Literal["runs"] = "runs"
    runs: list[RunEntry]
    total: int
    """The number of runs before `limit` is applied."""


class DiffDocument(Document):
    """Output of `runs diff`."""

    document: Literal["diff"] = "diff"
    runs: tuple[str, str]
    """The paths of the two runs."""
    settings: dict[str, tuple[Any, Any]]
    """The settings that differ; null if a run does not have the setting."""
    results: dict[str, tuple[Any, Any]]
    """The metrics of both runs; null if a run does not have the metric."""


class CheckedModel(Part):
    """A model that was checked."""

    job: str | None
    """The sweep's job; null for a single run."""
    model: str
    parameters: int
    shape: list[int]


class CheckedData(Part):
    """Data that was checked. `images` is the number of images in each part, or empty if they were not counted."""

    name: str
    dir: str | None
    images: dict[str, int]


class CheckDocument(Document):
    """Output of `check`. If the config is wrong, the exit status is 2."""

    document: Literal["check"] = "check"
    ok: bool
    problems: list[ProblemEntry]
    models: list[CheckedModel]
    data: list[CheckedData]


class Axis(Part):
    """The receptive field along one axis, in pixels of the image."""

    size: int | None
    """null for the whole image."""
    stride: float
    start: int
    is_bound: bool
    """Whether `size` is only an upper bound."""


class LayerEntry(Part):
    """A layer of the architecture."""

    name: str
    type: str
    output: list[int | None]
    parameters: int
    multiply_adds: int
    memory_bytes: int
    """Size of the layer's output for one image, in float32."""
    trainable: bool
    rows: Axis
    columns: Axis


class ShowDocument(Document):
    """Output of `show`."""

    document: Literal["show"] = "show"
    model: str
    shape: list[int]
    classes: int
    parameters: int
    multiply_adds: int
    layers: list[LayerEntry]
    remarks: list[str]
    aug: str


class TrainDocument(Document):
    """Output of `train` and `resume`: the run's result."""

    document: Literal["train"] = "train"
    run: str
    path: str
    status: str
    data: str | None
    data_sha256: str | None
    fallback_for: str | None
    """The data set that was requested, if the run used its fallback."""
    fingerprint: str | None
    weights_sha256: str | None
    parameters: int | None
    epochs: int
    best: Metrics | None
    """The saved epoch's number and validation metrics."""
    test: Metrics | None
    seconds: Metrics
    mlflow_run_id: str | None
    exact: bool


class JobEntry(Part):
    """A job of a sweep."""

    name: str
    path: str | None
    values: dict[str, str]
    """The swept keys and their values, as written in overrides."""
    status: str
    reason: str
    epochs: int | None
    val_accuracy: float | None
    test_accuracy: float | None
    seconds: float | None


class SweepDocument(Document):
    """Output of a sweep. If jobs failed, the exit status is 1."""

    document: Literal["sweep"] = "sweep"
    sweep: str
    path: str
    swept: list[str]
    jobs: list[JobEntry]
    best: str | None
    """The path of the job with the best validation accuracy."""
    fallback_for: str | None


class TrialEntry(Part):
    """A trial of a search."""

    number: int
    status: str
    value: float | None
    values: dict[str, str]
    """The searched keys and their values, as written in overrides."""
    seconds: float | None
    reason: str


class TuneDocument(Document):
    """Output of `tune`; `best` is null while another process is running the last trials."""

    document: Literal["tune"] = "tune"
    study: str
    path: str
    metric: str
    mode: Literal["max", "min"]
    trials: list[TrialEntry]
    best: int | None
    """The number of the best trial."""
    best_run: str | None
    """The path of its run, if it is on this machine."""
    test: Metrics | None
    """The test metrics of its saved model."""
    fallback_for: str | None


class GroupEntry(Part):
    """A group of runs that differ only in their seed."""

    mark: str
    label: str
    runs: list[str]
    """Paths, in the order of `seeds`."""
    seeds: list[int]
    mean: float | None
    deviation: float | None
    interval: tuple[float, float] | None
    """The 95 % confidence interval of the mean."""
    metrics: dict[str, Metrics]
    """The values of every metric by seed."""


class PairEntry(Part):
    """Two groups, and the difference of their means (first − second), paired by seed."""

    first: str
    second: str
    seeds: int
    difference: float | None
    interval: tuple[float, float] | None
    smallest: float | None
    """The smallest difference that would be significant."""
    p: float | None
    sign_flip_p: float | None
    verdict: Literal["different", "indistinguishable", "unequal", "extreme", "diverged"] | None
    """null for fewer than two common seeds."""
    better: str | None
    """The mark of the better group, if the verdict is `different`."""


class LeftOutEntry(Part):
    """A run that cannot be compared."""

    path: str
    reason: str


class CompareDocument(Document):
    """Output of `compare`."""

    document: Literal["compare"] = "compare"
    metric: str
    mode: Literal["max", "min"]
    summary: str
    data: str
    fallback_for: list[str]
    groups: list[GroupEntry]
    """Best first."""
    pairs: list[PairEntry]
    left_out: list[LeftOutEntry]
    remarks: list[str]
    picture: str


class ReportDocument(Document):
    """Output of `report`."""

    document: Literal["report"] = "report"
    kind: Literal["run", "sweep", "study", "comparison"]
    summary: str
    """The first sentences of the report."""
    path: str
    """The HTML file."""


class EvaluatedData(Part):
    """The images that a model was scored on."""

    name: str
    sha256: str
    origin: str
    part: Literal["train", "val", "test"]
    images: int
    class_names: list[str]
    of_the_run: bool
    normalized: bool
    """Whether photographs were converted to MNIST style."""
    fallback_for: str | None


class ClassEntry(Part):
    """The metrics of a class; null if undefined."""

    name: str
    images: int
    precision: float | None
    recall: float | None
    f1: float | None


class BoundEntry(Part):
    """A bound of `require`, and the values of its metrics."""

    bound: str
    holds: bool
    values: Metrics


class EvaluateDocument(Document):
    """Output of `evaluate`. If a bound of `require` does not hold, the exit status is 1."""

    document: Literal["evaluate"] = "evaluate"
    model: str
    run: str | None
    weights_sha256: str
    data: EvaluatedData
    metrics: Metrics
    accuracy: float
    interval: tuple[float, float]
    """The 95 % confidence interval of the accuracy."""
    classes: list[ClassEntry]
    confusion: list[list[int]]
    """The number of images of each class (rows) by predicted class (columns)."""
    expected_calibration_error: float
    bounds: list[BoundEntry]
    """The bounds of `require`."""
    folder: str
    """The folder with the pictures and tables."""


class MemberEntry(Part):
    """A member of an ensemble, scored on the same images."""

    run: str
    path: str
    weights_sha256: str
    metrics: Metrics


class EnsembleDocument(Document):
    """Output of `ensemble`, and content of `ensemble.json`."""

    document: Literal["ensemble"] = "ensemble"
    model: str
    weights_sha256: str
    data: EvaluatedData
    metrics: Metrics
    """The metrics of the ensemble."""
    interval: tuple[float, float]
    """The 95 % confidence interval of its accuracy."""
    members: list[MemberEntry]
    shifts: list[tuple[int, int]] = Field(default=[(0, 0)])
    """The shifts of the images, down and to the right in pixels, over which the probabilities are averaged."""
    mean: Metrics
    """The means of the members' metrics."""
    best: str
    """The path of the member with the highest accuracy on these images."""
    largest_difference: float
    """The largest difference between the saved model's probabilities and the mean of the members'."""
    folder: str


class PredictionEntry(Part):
    """The two most probable classes of an image."""

    input: str | int
    name: str
    label: int
    """The index of the most probable class."""
    probability: float
    runner_up: str
    runner_up_probability: float
    warning: str = ""
    """Why the input might not show exactly one digit; empty if it seems to, or was not searched for digits."""
    box: tuple[int, int, int, int] | None = None
    """Left, top, right and bottom of the digit in the upright picture, in pixels; null for other inputs."""


class PredictDocument(Document):
    """Output of `predict`."""

    document: Literal["predict"] = "predict"
    model: str
    predictions: list[PredictionEntry]
    unreadable: list[str]
    """The problems of the inputs that `predict.skip_bad=true` skipped."""


class VerifyDocument(Document):
    """Output of `dataset verify`."""

    document: Literal["verify"] = "verify"
    data: str
    origin: str
    sha256: str
    shape: list[int]
    class_names: list[str]
    images: dict[str, list[int]]
    """The number of images of each class, by part."""
    remarks: list[str]


DOCUMENTS: Mapping[str, type[Document]] = {
    "train": TrainDocument,
    "sweep": SweepDocument,
    "lr_find": LrFindDocument,
    "tune": TuneDocument,
    "check": CheckDocument,
    "show": ShowDocument,
    "runs": RunsDocument,
    "diff": DiffDocument,
    "compare": CompareDocument,
    "report": ReportDocument,
    "evaluate": EvaluateDocument,
    "ensemble": EnsembleDocument,
    "predict": PredictDocument,
    "verify": VerifyDocument,
    "error": ErrorDocument,
}
"""The documents by the name that `schema output=…` takes."""


def failure_document(error: BaseException, exit_status: int, verb: str) -> Document:
    """Return the document of a command line that failed. `check` reports a wrong request as its result."""
    problems: Sequence[Problem] = error.problems if isinstance(error, RequestError) else ()
    message = str(error).strip() or type(error).__name__
    entries = [
        ProblemEntry(code=problem.code, place=problem.place, path=problem.path, message=problem.message)
        for problem in problems
    ]
    if isinstance(error, RequestError) and not entries:
        entries = [ProblemEntry(code=None, place="", path="", message=message)]
    if verb == "check" and entries:
        return CheckDocument(ok=False, problems=entries, models=[], data=[])
    return ErrorDocument(exit_status=exit_status, message=message, problems=entries)


def document_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of a document."""
    schema = DOCUMENTS[name].model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
