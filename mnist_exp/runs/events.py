"""Journal events: everything that the tracker receives about a run, each as a line of JSON.

`parse_event` turns a line into one of the types of `Event`; `format_event` turns it back into the same bytes.
"""

from __future__ import annotations

import json
import time
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mnist_exp.text import masked_values

EndStatus = Literal["FINISHED", "FAILED", "KILLED"]
# MLflow's names for the statuses of `result.json`.
END_STATUS: dict[str, EndStatus] = {
    "finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "killed": "KILLED", "pruned": "KILLED",
}  # fmt: skip
_EXCERPT = 30  # bytes of a damaged line that a message quotes


def _now() -> int:
    return time.time_ns() // 1_000_000


class JournalEvent(BaseModel):
    """An event. Keys of later versions are kept, and only the fields that were set are written."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    kind: str
    time: int = Field(default_factory=_now)
    """Milliseconds since 1970."""

    @property
    def subject(self) -> tuple[object, ...] | None:
        """Identifies an event that a journal contains at most once; None if events of this kind may repeat."""
        return None


class SingleEvent(JournalEvent):
    """An event of a kind that a journal contains at most once."""

    @property
    def subject(self) -> tuple[object, ...]:
        """The event's kind."""
        return (self.kind,)


class RunEvent(SingleEvent):
    """The first event: the run, sweep or search, and its store."""

    kind: Literal["run"] = "run"
    name: str
    key: Annotated[str, Field(pattern=r"^[^'`\\\x00-\x1f]+$")]
    """A key that is unique even among runs with the same name. It becomes part of a search in MLflow."""
    experiment: str
    tags: dict[str, str]
    enabled: bool = False
    """Whether the run is tracked."""
    uri: str | None = None
    """The store; None for the output folder's own."""
    parent: str | None = None
    """The directory of the run's sweep or search."""


class ParamsEvent(SingleEvent):
    """The run's parameters, which cannot be changed in MLflow."""

    kind: Literal["params"] = "params"
    values: dict[str, str]


class DatasetEvent(SingleEvent):
    """The run's data."""

    kind: Literal["dataset"] = "dataset"
    name: str
    sha256: str
    source: str
    """The folder, address or library that the data came from."""
    shape: list[int]
    images: dict[str, int]
    """Number of images in each part."""


class MetricsEvent(JournalEvent):
    """Metrics of a step; for a run, the step is the epoch."""

    kind: Literal["metrics"] = "metrics"
    step: int
    values: dict[str, int | float]

    @property
    def subject(self) -> tuple[object, ...]:
        """The metrics' names and the step, as a resumed run may record the same metrics again."""
        return (self.kind, self.step, *sorted(self.values))


RUN_ID = "{mlflow_run_id}"
"""In a note, the place of the id of the MLflow run, which is known only at delivery."""


class NoteEvent(JournalEvent):
    """The run's description, in Markdown. It replaces an earlier one."""

    kind: Literal["note"] = "note"
    text: str

    @property
    def subject(self) -> tuple[object, ...]:
        """The text, which changes when the run finishes."""
        return (self.kind, self.text)


class TagsEvent(JournalEvent):
    """Additional tags of the run."""

    kind: Literal["tags"] = "tags"
    values: dict[str, str]


class ArtifactEvent(JournalEvent):
    """A file in the run's directory that was written or changed."""

    kind: Literal["artifact"] = "artifact"
    file: str
    """The file's path in the directory."""
    folder: str | None = None
    """The folder in the artifact store; None for the top level."""


class ImageEvent(JournalEvent):
    """A picture of a series with one picture per step, which MLflow shows next to the metrics' charts."""

    kind: Literal["image"] = "image"
    file: str
    """The PNG file's path in the directory."""
    key: str
    """The series."""
    step: int

    @property
    def subject(self) -> tuple[object, ...]:
        """The series and the step, as a resumed run draws the same picture again."""
        return (self.kind, self.key, self.step)


class ModelEvent(JournalEvent):
    """The saved model, to be served by MLflow."""

    kind: Literal["model"] = "model"
    file: str
    shape: Annotated[list[int], Field(min_length=3, max_length=3)]
    """Height, width and channels of an image."""
    classes: int
    requirements: list[str]
    weights_sha256: str | None = None

    @property
    def subject(self) -> tuple[object, ...]:
        """The model's weights, which change if the run is trained further."""
        return (self.kind, self.weights_sha256)


class EndEvent(JournalEvent):
    """The run's process ended, or was found dead."""

    kind: Literal["end"] = "end"
    status: EndStatus


class ResumedEvent(JournalEvent):
    """The run is resumed. For a sweep or search, only the status is set."""

    kind: Literal["resumed"] = "resumed"
    status: Literal["RUNNING"] = "RUNNING"
    fingerprint: str | None = None
    at: float | None = None
    """Seconds since 1970."""
    epochs: int | None = None
    steps: int | None = None
    """The number of finished epochs and, in `steps`, of finished steps in the next one."""
    overrides: list[str] | None = None
    exact: bool | None = None
    """Whether the weights are bit-identical to those of an uninterrupted run."""


Event = Annotated[
    RunEvent
    | ParamsEvent
    | DatasetEvent
    | MetricsEvent
    | NoteEvent
    | TagsEvent
    | ArtifactEvent
    | ImageEvent
    | ModelEvent
    | EndEvent
    | ResumedEvent,
    Field(discriminator="kind"),
]
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def parse_event(line: bytes) -> Event:
    """Parse a journal line, including lines written by earlier versions. Raises `ValueError` for other lines."""
    excerpt = repr(line[:_EXCERPT].decode(errors="replace"))
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested too deeply
        raise ValueError(f"damaged: {excerpt}") from error
    if not isinstance(values, dict) or "time" not in values:
        raise ValueError(f"not an event: {excerpt}")
    try:
        return _EVENT.validate_python(values)
    except ValidationError as error:
        place = error.errors()[0]["loc"][:2]  # the kind and the field
        problem = f"{'.'.join(map(str, place))} is missing or invalid" if place else "unknown event"
        raise ValueError(f"{problem}: {excerpt}") from error


def format_event(event: Event) -> bytes:
    """Return the journal line for an event, without passwords and with a trailing newline."""
    content = masked_values(event.model_dump(exclude_unset=True, exclude={"kind", "time"}))
    values = {"kind": event.kind, "time": event.time, **content}
    return json.dumps(values, ensure_ascii=False).encode() + b"\n"
