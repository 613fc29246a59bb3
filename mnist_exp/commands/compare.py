"""`mnist-exp compare`: compare runs and sweeps."""

from __future__ import annotations

from pathlib import Path

from mnist_exp.config.command_schemas import CompareConfig
from mnist_exp.config.overrides import Request
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.config.validation import compose_checked
from mnist_exp.errors import Problem, RequestError
from mnist_exp.report.documents import CompareDocument
from mnist_exp.runs.directory import RunSummary, list_runs
from mnist_exp.runs.lookup import find_runs, is_finished
from mnist_exp.sweeps.comparable_runs import direction_by, refuse_different_data, refuse_too_few, select_comparable
from mnist_exp.sweeps.reports import add_comparison_report


def compare(request: Request, started: float) -> CompareDocument:
    """Print the results of groups of runs and which groups differ, and plot their curves.

    Raises `RequestError`.
    """
    config, _ = compose_checked(request, CompareConfig)
    chosen, remark = choose_runs(config)
    runs, left_out = select_comparable(chosen, config.metric)
    refuse_too_few(runs, left_out)
    direction = direction_by(config.metric, config.mode)
    refuse_different_data(runs, across_data=config.across_data)
    from mnist_exp.sweeps.comparison_report import report_comparison  # SciPy, Matplotlib

    document = report_comparison(config, direction, runs, chosen, left_out, remark)
    add_comparison_report(config, chosen)
    return document


def choose_runs(config: CompareConfig) -> tuple[list[RunSummary], str]:
    """Find the requested runs; without `run=`, all finished or diverged runs on the same data as the newest run.

    Returns:
        The runs, and a remark on the runs left out (empty if there are none).

    Raises:
        RequestError: Names match no run, or the picture would overwrite a file; the error lists all problems.
    """
    problems: list[Problem] = []
    outputs = Path(config.outputs)
    if config.output is not None and Path(config.output).expanduser().exists():
        message = f"output={config.output}: already exists; give a new file"
        problems.append(Problem("unusable", COMMAND_LINE, message, "output"))
    runs: dict[Path, RunSummary] = {}
    for wanted in config.run or ():
        try:
            runs |= {run.path.resolve(): run for run in find_runs(wanted, outputs)}
        except RequestError as error:
            problems.append(Problem("not-found", COMMAND_LINE, f"run={error}", "run"))
    if problems:
        raise RequestError(problems, "this comparison")
    return _choose_newest(outputs, config.across_data) if config.run is None else (list(runs.values()), "")


def _choose_newest(outputs: Path, across_data: bool) -> tuple[list[RunSummary], str]:
    """Return the finished or diverged runs, and a remark on those left out.

    Unless `across_data` is set, the runs must be on the same data as the newest finished run.
    """
    runs = list_runs(outputs)
    finished = [run for run in runs if is_finished(run)]
    if not finished:
        raise RequestError(f"no finished run in {outputs.absolute()}; 'mnist-exp' trains one")
    counted = [run for run in runs if is_finished(run) or run.result.diverged]
    if across_data:
        return counted, ""
    data = finished[0].result.data.sha256
    others = sum(run.result.data.sha256 != data for run in finished)
    number = f"{others} run{'s' * (others > 1)}"
    remark = f"left out: {number} on data other than the newest run's; run=… selects runs"
    return [run for run in counted if run.result.data.sha256 == data], remark if others else ""
