"""Record a sweep as an MLflow run with the leaderboard: the parent of its jobs' runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from mnist_exp.config.schema import TrackingConfig
from mnist_exp.runs.atomic import write_text
from mnist_exp.runs.directory import PLOTS
from mnist_exp.runs.events import END_STATUS, EndEvent
from mnist_exp.runs.journal import read
from mnist_exp.runs.regular_files import read_text
from mnist_exp.tracking.parent_record import ParentRecord, begin_parent
from mnist_exp.tracking.recorder import run_status
from mnist_exp.tracking.run_description import embed_picture
from mnist_exp.tracking.upload_process import Upload

LEADERBOARD = "leaderboard.csv"


class SweepRecord:
    """Records a sweep. A context manager; a resumed sweep continues its record.

    The caller holds the directory's lock.
    """

    def __init__(
        self, directory: Path, overrides: Sequence[str], tracking: TrackingConfig, parameters: Mapping[str, str]
    ) -> None:
        """Raise `RequestError` if the sweep's journal cannot be read."""
        self._directory = directory
        self.failed = False
        """Whether a job failed, so that the sweep is not recorded as finished."""
        is_new = begin_parent(directory, overrides, tracking, parameters)
        self._parent = ParentRecord(directory, resumed=not is_new)
        self._upload = Upload(directory, tracking.wait_seconds, enabled=tracking.enabled, uri=tracking.uri)

    def leaderboard(self, table: str, note: str, best: float | None, pictures: Sequence[Path] = ()) -> None:
        """Write the table of jobs as CSV, and in Markdown with the first picture as the MLflow run's description.

        `pictures` are files in the folder `plots` of the sweep's directory.
        """
        for picture in pictures:
            self._parent.artifact(f"{PLOTS}/{picture.name}", PLOTS)
        if pictures:
            note = embed_picture(f"{PLOTS}/{pictures[0].name}", "The jobs by validation accuracy") + f"\n\n{note}"
        write_text(self._directory / LEADERBOARD, table)
        self._parent.artifact(LEADERBOARD)
        self._parent.note(note)
        if best is not None:
            self._parent.metrics({"best/val/accuracy": best}, step=0)

    def __enter__(self) -> SweepRecord:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parent.end("failed" if error is None and self.failed else run_status(error))
        self._upload.finish()


def has_leaderboard(directory: Path, table: str) -> bool:
    """Return whether the sweep's record is finished and has this table."""
    try:
        last = read(directory)[-1:]
        finished = any(isinstance(event, EndEvent) and event.status == END_STATUS["finished"] for event in last)
        return finished and read_text(directory / LEADERBOARD) == table
    except (OSError, ValueError):
        return False
