"""Write the report of a run, a sweep, a study, or a comparison of several runs."""

from __future__ import annotations

from pathlib import Path

from mnist_exp.config.command_schemas import ReportConfig
from mnist_exp.config.overrides import Request
from mnist_exp.engine.report_file import refuse_unwritable, write_page
from mnist_exp.engine.report_subject import collect_subject
from mnist_exp.engine.run_report import run_page
from mnist_exp.runs.log import say
from mnist_exp.sweeps.groups_report import groups_page
from mnist_exp.sweeps.report_target import Target
from mnist_exp.sweeps.study_report import study_page
from mnist_exp.text import display_path

_WAIT = 10.0  # seconds for the tracker to take a report, unless a run's config says otherwise


def write_target(request: Request, config: ReportConfig, target: Target) -> Path:
    """Write a report, print its path, and return it. Takes and raises the same as `reports.write_report`."""
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
    return path
