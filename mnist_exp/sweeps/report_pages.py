"""Write the report of a run, a sweep, a study, or a comparison of several runs. Imports Keras and Bokeh."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mnist_exp.config.command_schemas import CompareConfig, ReportConfig
from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.engine.report_file import refuse_unwritable, write_page
from mnist_exp.engine.report_subject import collect_subject
from mnist_exp.engine.run_report import run_page
from mnist_exp.report.documents import ReportDocument
from mnist_exp.runs.directory import RunSummary
from mnist_exp.runs.log import say
from mnist_exp.sweeps.groups_report import groups_page
from mnist_exp.sweeps.report_target import Target, find_target
from mnist_exp.sweeps.study_report import study_page
from mnist_exp.text import display_path

_WAIT = 10.0  # seconds for the tracker to take a report, unless a run's config says otherwise


def write_report(request: Request, config: ReportConfig, target: Target) -> ReportDocument:
    """Write a report, print its path, and return a document.

    Args:
        request: The command line; overrides of `data` and `device` apply to the configs of the runs.
        config: The config of the verb.
        target: The runs to report on.

    Raises:
        RequestError: The runs cannot be compared, or the file cannot be written.
        WorkError: The disk is full.
    """
    refuse_unwritable(config.output, target.directory)
    wait_seconds = _WAIT
    if target.kind == "run":
        subject = collect_subject(request, target.runs[0])
        page = run_page(subject)
        wait_seconds = subject.config.tracking.wait_seconds if subject.config else _WAIT
    elif target.kind == "study":
        page = study_page(request, target, config)
    else:
        page = groups_page(request, target, config)
    path = write_page(page, config.output, target.directory, Path(config.outputs), wait_seconds)
    say(f"report  {display_path(path)}")
    return ReportDocument(kind=target.kind, summary=page.summary, path=str(path.resolve()))


def report_ended(folder: Path, config: TrainConfig) -> None:
    """Write the report of a run, sweep or study that has ended."""
    select = config.training.select
    report = ReportConfig(
        outputs=config.outputs,
        run=(str(folder),),
        metric=select.metric,
        mode=select.mode,
        across_data=False,
        output=None,
    )
    write_report(Request("report"), report, find_target(report))


def report_comparison(config: CompareConfig, runs: Sequence[RunSummary]) -> None:
    """Write the report of a comparison, next to its plot if `output` names that."""
    report = ReportConfig(
        outputs=config.outputs,
        run=tuple(str(run.path) for run in runs),
        metric=config.metric,
        mode=config.mode,
        across_data=config.across_data,
        output=None if config.output is None else str(Path(config.output).with_suffix(".html")),
    )
    write_report(Request("report"), report, Target("comparison", tuple(runs)))
