"""Find the run that a path, a name, an id, `latest` or `best` refers to."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from glob import glob
from pathlib import Path
from typing import Any

import yaml

from mnist_exp.config.yaml_limits import MOST_BYTES, limit_exceeded
from mnist_exp.errors import RequestError, first_line
from mnist_exp.runs.directory import CLOCK_DRIFT, SWEEPS, RunSummary, list_runs, summarize_runs
from mnist_exp.runs.log import warn
from mnist_exp.runs.regular_files import first_irregular, read_text
from mnist_exp.runs.result import RESULT
from mnist_exp.suggest import did_you_mean
from mnist_exp.text import display_path

_STAMP = r"-\d{8}-\d{6}(-\d+)?"


class Ambiguous(RequestError):
    """Several runs match the name."""


def is_finished(run: RunSummary) -> bool:
    """Return whether a run has finished."""
    return run.status == "finished"


def find_run(wanted: str, outputs: Path, latest: Callable[[RunSummary], bool] = is_finished) -> RunSummary:
    """Find a run.

    Args:
        wanted: A run's directory, `latest`, `best`, an MLflow run id, or the beginning of a name. `best` has the
            highest validation accuracy of the finished runs on the newest one's data. Runs whose initial weights
            were trained on validation images are left out, unless there are no others.
        outputs: The output folder.
        latest: Returns whether `latest` may refer to a run.

    Raises:
        RequestError: There is no such run, or there are several (the message lists them), or its directory
            contains something other than regular files and folders.
    """
    run = _find_run(wanted, outputs, latest)
    refuse_irregular(run.path)
    return run


def refuse_irregular(run: Path) -> None:
    """Raise `RequestError` if a run's directory contains a symbolic link, a pipe, a socket or a device."""
    if (irregular := first_irregular(run)) is not None:
        kind = "a symbolic link" if irregular.is_symlink() else "a pipe, socket or device"
        where = display_path(irregular)
        raise RequestError(f"{where}: is {kind}; a run's directory must contain only regular files")


def _find_run(wanted: str, outputs: Path, latest: Callable[[RunSummary], bool]) -> RunSummary:
    if not wanted:
        raise RequestError("run=: must be a directory, a name, an MLflow run id, latest or best")
    path = Path(wanted).expanduser()
    if path.is_dir() and os.path.lexists(path / RESULT):
        return _read_run(path)
    runs = list_runs(outputs)
    if wanted == "latest":
        newest = _select_runs(latest, runs, wanted, outputs)[0]
        if newest.result.started > time.time() + CLOCK_DRIFT:
            warn(f"latest is {newest.name}, which started in the future: the clock was wrong or has been set back")
        return newest
    if wanted == "best":
        return _choose_best(_select_runs(is_finished, runs, wanted, outputs))
    matches = _match_runs(wanted, runs)
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = "".join(f"\n  {run.name}" for run in matches)
        raise Ambiguous(f"{wanted}: {len(matches)} runs match; give the whole name of one:{names}")
    raise _missing_run(wanted, runs, outputs)


def _missing_run(wanted: str, runs: Sequence[RunSummary], outputs: Path) -> RequestError:
    """Return the error for a `run` that matches nothing."""
    if Path(wanted).expanduser().is_dir():  # a folder that only shares a run's name does not hide the run
        return RequestError(f"{wanted}: not a run directory: it has no {RESULT}")
    if re.fullmatch("[0-9a-f]{32}", wanted):
        where = f"no run in {outputs.absolute()} has this MLflow run id"
        return RequestError(f"{wanted}: {where}; 'mnist-exp runs' lists the runs")
    names = {
        part for run in runs for part in (run.name, re.sub(f"{_STAMP}$", "", run.name), run.name.split("-")[0])
    }
    hint = did_you_mean(wanted, ["latest", "best", *sorted(names)])
    return RequestError(
        f"{wanted}: there is no such run in {outputs.absolute()}{hint}; 'mnist-exp runs' lists them"
    )


def _read_run(path: Path) -> RunSummary:
    """Return the run in a directory. Raises `RequestError` if its result is damaged."""
    for summary in summarize_runs([path]):
        if summary.status != "damaged":
            return summary
    raise RequestError(f"{path / RESULT}: damaged")


def _select_runs(
    meant: Callable[[RunSummary], bool], runs: Sequence[RunSummary], wanted: str, outputs: Path
) -> list[RunSummary]:
    """Return the runs that `latest` or `best` chooses from. Raises `RequestError` if there are none."""
    selected = [run for run in runs if meant(run)]
    if not selected:
        kind = "finished run" if meant is is_finished else "interrupted run"
        raise RequestError(f"{wanted}: there is no {kind} in {outputs}")
    return selected


def _match_runs(wanted: str, runs: Sequence[RunSummary]) -> list[RunSummary]:
    """Return the runs that match by MLflow run id or else by name, name without time stamp, or prefix."""
    ways: tuple[Callable[[RunSummary], bool], ...] = (
        lambda run: wanted == run.result.mlflow_run_id,
        lambda run: wanted in (run.name, run.path.name),
        lambda run: _has_name(run.name, wanted),
        lambda run: run.name.startswith(wanted),
    )
    return next((matches for way in ways if (matches := [run for run in runs if way(run)])), [])


def find_runs(wanted: str, outputs: Path) -> list[RunSummary]:
    """Find one or more runs, which may be unfinished or damaged.

    Args:
        wanted: Anything that `find_run` accepts, a sweep's directory or name, a folder of runs, or a pattern of
            paths or names such as `pyramid*`.
        outputs: The output folder.

    Raises:
        RequestError: Nothing matches, or the name is ambiguous.
    """
    path = Path(wanted).expanduser()
    if path.is_dir():
        if runs := _read_runs_in(path):
            return runs
        try:  # a folder that merely has the same name does not hide the runs
            return _find_named(wanted, outputs)
        except Ambiguous:
            raise
        except RequestError as error:
            raise RequestError(f"{wanted}: neither a run directory nor a folder of runs") from error
    if set("*?[") & set(wanted):
        folders = [Path(match) for match in sorted(glob(str(path))) if Path(match).is_dir()]
        runs = [run for folder in folders for run in _read_runs_in(folder)]
        runs = runs or [run for run in list_runs(outputs) if _matches_pattern(run, wanted)]
        if not runs:
            raise RequestError(f"{wanted}: matches no run in {outputs}")
        return runs
    return _find_named(wanted, outputs)


def _read_runs_in(folder: Path) -> list[RunSummary]:
    """Return the run in a directory, or else the runs in its subfolders, sorted by name."""
    return summarize_runs([folder]) or summarize_runs(sorted(folder.iterdir()))


def _find_named(wanted: str, outputs: Path) -> list[RunSummary]:
    """Return the run of this name, or the jobs of the sweep of this name. Raises `RequestError`."""
    sweeps = [folder for folder in sorted((outputs / SWEEPS).glob("*")) if _has_name(folder.name, wanted)]
    if not sweeps:
        try:
            return [find_run(wanted, outputs)]
        except Ambiguous as error:
            raise Ambiguous(f"{error}\n  to select all of them: '{wanted}*'") from error
        except RequestError as error:
            if hint := did_you_mean(wanted, [folder.name for folder in (outputs / SWEEPS).glob("*")]):
                raise RequestError(
                    f"{wanted}: there is no such run or sweep in {outputs.absolute()}{hint}"
                ) from error
            raise
    runs = [run.name for run in list_runs(outputs) if _has_name(run.name, wanted)]
    if len(sweeps) > 1 or runs:
        names = "".join(f"\n  {name}" for name in [*(str(folder) for folder in sweeps), *runs])
        raise Ambiguous(f"{wanted}: {len(sweeps) + len(runs)} sweeps or runs match; give the path of one:{names}")
    return summarize_runs(sorted(sweeps[0].iterdir()))


def _matches_pattern(run: RunSummary, pattern: str) -> bool:
    return fnmatchcase(run.name, pattern) or fnmatchcase(run.path.name, pattern)


def _has_name(name: str, wanted: str) -> bool:
    """Return whether a directory has the wanted name, or that name followed by a time stamp (as with `name=…`)."""
    return name == wanted or re.fullmatch(re.escape(wanted) + _STAMP, name) is not None


def _choose_best(finished: list[RunSummary]) -> RunSummary:
    data = finished[0].result.data.sha256
    same = [run for run in finished if run.result.data.sha256 == data]
    same = [run for run in same if not run.result.validation_images_seen] or same
    return max(same, key=lambda run: float("-inf") if (val := run.result.val_accuracy) is None else val)


def read_config(run: Path) -> dict[str, Any]:
    """Read a run's resolved config. Raises `RequestError`."""
    file = run / "config.yaml"
    try:
        text = read_text(file, MOST_BYTES)
        if excess := limit_exceeded(text):
            raise RequestError(f"{file}:{excess[0]}: {excess[1]}")
        if "${" in text:  # could reveal environment variables; saved configs contain none
            line = text[: text.index("${")].count("\n") + 1
            raise RequestError(
                f"{file}:{line}: contains an interpolation (${{…}}); a run's config must contain only values"
            )
        values = yaml.safe_load(text)
    except OSError as error:
        raise RequestError(f"{file}: cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RequestError(f"{file}:{line}: damaged: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # also invalid UTF-8 or dates (2024-13-01)
        raise RequestError(f"{file}: damaged: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise RequestError(f"{file}: damaged: expected a mapping")
    if "hydra" in values:
        raise RequestError(f"{file}: hydra: is not part of a run's config")
    return values
