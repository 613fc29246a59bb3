"""Write reports, on request or at the end of other commands. Cheap to import."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mnist_exp.config.command_schemas import CompareConfig, ReportConfig
from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.errors import first_line
from mnist_exp.model import backend
from mnist_exp.runs.directory import RunSummary
from mnist_exp.runs.log import warn
from mnist_exp.sweeps.report_target import Target, find_target


def write_report(request: Request, config: ReportConfig, target: Target) -> Path:
    """Write a report, print its path, and return it.

    Args:
        request: The command line; overrides of `data` and `device` apply to the configs of the runs.
        config: The config of the verb.
        target: The runs to report on.

    Raises:
        RequestError: The runs cannot be compared, or the file cannot be written.
        WorkError: The disk is full.
    """
    backend.load()
    from mnist_exp.sweeps.report_pages import write_target  # Keras, Matplotlib, Bokeh

    return write_target(request, config, target)


def add_report(folder: Path, config: TrainConfig) -> None:
    """Write the report of a run, sweep or study that has ended, if its config asks for it.

    A failure is only a warning.
    """
    if not config.report:
        return
    select = config.training.select
    report = ReportConfig(
        outputs=config.outputs,
        run=(str(folder),),
        metric=select.metric,
        mode=select.mode,
        across_data=False,
        output=None,
    )
    try:
        write_report(Request("report"), report, find_target(report))
    except Exception as error:  # the run has ended well, whatever happens to its report
        warn(f"no report: {first_line(error)}")


def add_comparison_report(config: CompareConfig, runs: Sequence[RunSummary]) -> None:
    """Write the report of a comparison, if its config asks for it. A failure is only a warning."""
    if not config.report:
        return
    report = ReportConfig(
        outputs=config.outputs,
        run=tuple(str(run.path) for run in runs),
        metric=config.metric,
        mode=config.mode,
        across_data=config.across_data,
        output=None if config.output is None else str(Path(config.output).with_suffix(".html")),
    )
    try:
        write_report(Request("report"), report, Target("comparison", tuple(runs)))
    except Exception as error:  # the comparison is printed, whatever happens to its report
        warn(f"no report: {first_line(error)}")
