"""Find what a report is about: a run, a sweep, a study, or several runs to compare."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.errors import Problem, RequestError
from mnist_exp.runs.directory import SWEEPS, RunSummary, summarize_runs
from mnist_exp.runs.lookup import find_runs, refuse_irregular

if TYPE_CHECKING:
    from mnist_exp.config.command_schemas import ReportConfig

TABLE = "trials.csv"
"""The file of the table of all trials, in a study's directory."""
IMPORTANCES = "importances.csv"
"""The file with the importance of each searched key, in a study's directory."""


@dataclass(frozen=True)
class Target:
    """The runs to report on and, for a sweep or study, its directory."""

    kind: Literal["run", "sweep", "study", "comparison"]
    runs: tuple[RunSummary, ...]
    folder: Path | None = None

    @property
    def directory(self) -> Path | None:
        """The directory that the report belongs to; None for a comparison."""
        return self.runs[0].path if self.kind == "run" else self.folder


def find_target(config: ReportConfig) -> Target:
    """Return what a request is about. Raises `RequestError` listing the names without a run."""
    problems: list[Problem] = []
    runs: dict[Path, RunSummary] = {}
    for wanted in config.run or ():
        try:
            runs |= {run.path.resolve(): run for run in find_runs(wanted, Path(config.outputs))}
        except RequestError as error:
            problems.append(Problem("not-found", COMMAND_LINE, f"run={error}", "run"))
    if problems:
        raise RequestError(problems, "this request")
    return target_of(tuple(runs.values()))


def target_of(runs: tuple[RunSummary, ...]) -> Target:
    """Return runs as a target: all runs of one folder are a sweep or a study. Raises `RequestError`."""
    for run in runs:
        refuse_irregular(run.path)
    if len(runs) == 1:
        return Target("run", runs)
    folders = {run.path.resolve().parent for run in runs}
    for folder in folders if len(folders) == 1 else ():
        if folder.parent.name == SWEEPS and len(runs) == len(summarize_runs(sorted(folder.iterdir()))):
            is_study = (folder / ".claims").is_dir() or (folder / TABLE).is_file()
            return Target("study" if is_study else "sweep", runs, folder)
    return Target("comparison", runs)
