"""Write reports at the end of other commands, if their config asks for it. Cheap to import."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_exp.errors import first_line
from mnist_exp.model import backend
from mnist_exp.runs.log import warn

if TYPE_CHECKING:
    from mnist_exp.config.command_schemas import CompareConfig
    from mnist_exp.config.schema import TrainConfig
    from mnist_exp.runs.directory import RunSummary


def add_report(folder: Path, config: TrainConfig) -> None:
    """Write the report of a run, sweep or study that has ended, if its config asks for it.

    A failure is only a warning.
    """
    if config.report:
        with _failure_as_warning():
            from mnist_exp.sweeps.report_pages import report_ended

            report_ended(folder, config)


def add_comparison_report(config: CompareConfig, runs: Sequence[RunSummary]) -> None:
    """Write the report of a comparison, if its config asks for it. A failure is only a warning."""
    if config.report:
        with _failure_as_warning():
            from mnist_exp.sweeps.report_pages import report_comparison

            report_comparison(config, runs)


@contextmanager
def _failure_as_warning() -> Iterator[None]:
    """Load Keras, and warn if the block fails: the command has ended well, whatever happens to its report."""
    try:
        backend.load()
        yield
    except Exception as error:
        warn(f"no report: {first_line(error)}")
