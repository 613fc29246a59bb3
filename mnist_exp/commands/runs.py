"""`mnist-exp runs`: list the runs of an output folder."""

from __future__ import annotations

from pathlib import Path

from mnist_exp.config.command_schemas import RunsConfig
from mnist_exp.config.overrides import Request
from mnist_exp.config.validation import compose_checked
from mnist_exp.report.tables import print_runs
from mnist_exp.runs.directory import find_fault, list_runs
from mnist_exp.text import printable


def runs(request: Request, started: float) -> None:
    """Print the newest runs as a table."""
    config, _ = compose_checked(request, RunsConfig)
    summaries = list_runs(Path(config.outputs))
    if not summaries:
        print(f"There are no runs in {config.outputs}. 'mnist-exp' trains one.")
        return
    shown = summaries[: config.limit]
    print_runs(shown)
    for run in shown:
        if fault := find_fault(run):
            print(printable(fault))
    if config.limit is not None and len(summaries) > config.limit:
        print(f"{len(summaries) - config.limit} older runs: limit=null shows them.")
