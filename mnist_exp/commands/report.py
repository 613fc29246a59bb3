"""`mnist-exp report`: write one HTML file about a run, a sweep, a study, or a comparison."""

from __future__ import annotations

from mnist_exp.config.command_schemas import ReportConfig
from mnist_exp.config.overrides import Request
from mnist_exp.config.validation import compose_checked
from mnist_exp.engine.saved_model import split_overrides
from mnist_exp.model import backend
from mnist_exp.report.documents import ReportDocument
from mnist_exp.sweeps.report_target import find_target


def report(request: Request, started: float) -> ReportDocument:
    """Find what to report on, and write the report. Raises `RequestError`, or `WorkError` if the disk is full."""
    own, _ = split_overrides(request)
    config, _ = compose_checked(own, ReportConfig)
    target = find_target(config)
    backend.load()
    from mnist_exp.sweeps.report_pages import write_report  # Keras, Matplotlib, Bokeh

    return write_report(request, config, target)
