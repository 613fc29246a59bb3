"""`mnist-exp ensemble`: average the probabilities of finished runs, or of shifted images, in one saved model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mnist_exp.config.command_schemas import EnsembleConfig
from mnist_exp.config.overrides import Request
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.config.validation import compose_checked
from mnist_exp.engine.plugins import require, warn_of_changes
from mnist_exp.engine.preparation import set_up
from mnist_exp.engine.saved_model import Saved, compose_run_config, find_run_model, split_overrides
from mnist_exp.errors import Code, Problem, RequestError
from mnist_exp.report.documents import EnsembleDocument
from mnist_exp.runs.atomic import refuse_existing
from mnist_exp.runs.directory import RunSummary, add_timestamp, free_path
from mnist_exp.runs.lookup import find_runs, is_finished, refuse_irregular
from mnist_exp.text import display_path, format_shape

ENSEMBLES = "ensembles"


def ensemble(request: Request, started: float) -> EnsembleDocument:
    """Write the mean of the members as one model, verify and score it. Raises `RequestError` or `WorkError`."""
    own, over_run = split_overrides(request)
    config, _ = compose_checked(own, EnsembleConfig)
    members = find_members(config)
    name = add_timestamp(f"ensemble-of-{len(members)}")
    target = (
        Path(config.output).expanduser() if config.output else free_path(Path(config.outputs) / ENSEMBLES, name)
    )
    run_config = compose_run_config(members[0], request, over_run)
    for member in members[1:]:
        assert member.result is not None
        require(member.result, str(display_path(member.file.parent)))
        warn_of_changes(member.result)
    device = set_up(run_config)
    from mnist_exp.engine.ensembling import EnsembleWriter  # Keras

    return EnsembleWriter(request, members, run_config, config.shifts).write(target.resolve(), device)


def find_members(config: EnsembleConfig) -> list[Saved]:
    """Return the models of the requested runs. Raises `RequestError` with all problems, also that of `output`."""
    problems: list[Problem] = []

    def report(code: Code, message: str, key: str = "run") -> None:
        problems.append(Problem(code, COMMAND_LINE, message, key))

    try:
        if config.output is not None:
            refuse_existing(Path(config.output).expanduser())
    except RequestError as error:
        report("unusable", str(error), "output")
    runs: dict[Path, RunSummary] = {}
    for wanted in config.run or ():
        try:
            runs |= {run.path.resolve(): run for run in find_runs(wanted, Path(config.outputs))}
        except RequestError as error:
            report("not-found", f"run={error}")
    members: list[Saved] = []
    for run in runs.values():
        try:
            members.append(_find_member(run))
        except RequestError as error:
            report("unusable", f"run: {error}")
    for difference in find_differences(members):
        report("contradiction", f"run: {difference}")
    problems += find_too_large_shifts(config.shifts, members)
    if problems:
        raise RequestError(problems, "this ensemble")
    if max(len(runs), len(config.shifts)) < 2:
        found = f"run: an ensemble needs at least two different runs, or one and several shifts, found {len(runs)}"
        raise RequestError([Problem("out-of-range", COMMAND_LINE, found, "run")], "this ensemble")
    return members


def _find_member(run: RunSummary) -> Saved:
    """Return the model of a run. Raises `RequestError` if the run is unfinished, or its files are unusable."""
    if not is_finished(run):
        raise RequestError(f"{display_path(run.path)}: is {run.status}; members must be finished runs")
    refuse_irregular(run.path)
    return find_run_model(run)


def find_differences(members: Sequence[Saved]) -> list[str]:
    """Return why models cannot be averaged: they were trained on other shapes or other classes than the first."""
    differences = []
    for other in members[1:]:
        first = members[0]
        assert first.result is not None
        assert other.result is not None
        ours, theirs = first.result.data, other.result.data
        if ours.shape != theirs.shape:
            takes, instead = (format_shape(shape or ()) for shape in (theirs.shape, ours.shape))
            differences.append(f"{other.name} takes images of {takes}, but {first.name} those of {instead}")
        if ours.class_names != theirs.class_names:
            has, instead = (", ".join(names) for names in (theirs.class_names, ours.class_names))
            differences.append(f"{other.name} has the classes {has}, but {first.name} has {instead}")
    return differences


def find_too_large_shifts(shifts: Sequence[tuple[int, int]], members: Sequence[Saved]) -> list[Problem]:
    """Return a problem for each shift that moves images out of their frame."""
    result = members[0].result if members else None
    if result is None or result.data.shape is None:
        return []
    height, width = result.data.shape[:2]
    message = f"shifts: must be smaller than the images of {height}×{width} pixels, found"
    return [
        Problem("out-of-range", COMMAND_LINE, f"{message} {[down, right]}", "shifts")
        for down, right in shifts
        if abs(down) >= height or abs(right) >= width
    ]
