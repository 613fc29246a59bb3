"""Find a run by what a user calls it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mnist_exp.config.names import did_you_mean
from mnist_exp.errors import RequestError
from mnist_exp.runs.directory import RunSummary, list_runs, look_at


def find_run(wanted: str, outputs: Path) -> RunSummary:
    """A run by its path, `latest` (finished), `best` (by validation, on the newest finished run's data), or
    name. Raises `RequestError`; an ambiguous name lists the candidates.
    """
    path = Path(wanted).expanduser()
    if path.is_dir():
        for summary in look_at([path]):
            if summary.status == "damaged":
                raise RequestError(f"{path / 'result.json'}: damaged")
            return summary
        raise RequestError(f"{wanted}: not a run's directory: it has no result.json")
    runs = list_runs(outputs)
    finished = [run for run in runs if run.status == "finished"]
    if wanted in ("latest", "best"):
        if not finished:
            raise RequestError(f"{wanted}: there is no finished run in {outputs}")
        return finished[0] if wanted == "latest" else _best(finished)
    matches = [run for run in runs if wanted in (run.name, run.path.name)]
    matches = matches or [run for run in runs if run.name.startswith(wanted)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = "".join(f"\n  {run.name}" for run in matches)
        raise RequestError(f"{wanted}: {len(matches)} runs are called so:{names}")
    meant = did_you_mean(wanted, ["latest", "best", *(run.name for run in runs)])
    raise RequestError(f"{wanted}: there is no such run in {outputs}{meant}; 'mnist-exp runs' lists them")


def _best(finished: list[RunSummary]) -> RunSummary:
    data = finished[0].result["data"]["sha256"]
    same = [run for run in finished if run.result["data"]["sha256"] == data]
    return max(same, key=lambda run: run.result["best"].get("val/accuracy", float("-inf")))


def read_config(run: RunSummary) -> dict[str, Any]:
    """A run's resolved config. Raises `RequestError`."""
    file = run.path / "config.yaml"
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{file}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise RequestError(f"{file}: damaged: {error}") from error
    if not isinstance(values, dict):
        raise RequestError(f"{file}: damaged: expected a mapping")
    return values
