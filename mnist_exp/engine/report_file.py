"""Write reports: in a run's directory, in a file that the user names, or next to the runs."""

from __future__ import annotations

from pathlib import Path

from mnist_exp.errors import RequestError
from mnist_exp.report.html_page import Page, render
from mnist_exp.runs.atomic import cannot_write, write_text
from mnist_exp.runs.directory import add_timestamp, make_directory
from mnist_exp.runs.locks import is_locked
from mnist_exp.text import display_path
from mnist_exp.tracking.recorder import added_artifacts

REPORT = "report.html"
FOLDER = "report"
_ADVICE = "use output=<file.html>"


def refuse_unwritable(output: str | None, run: Path | None) -> None:
    """Raise `RequestError` if the report's file exists, or another process works in the run that it belongs to."""
    if output is None:
        if run is not None and is_locked(run):
            raise RequestError(f"{display_path(run)}: in use by another process; {_ADVICE}")
        return
    path = Path(output).expanduser()
    if path.exists() or path.is_symlink():
        raise RequestError(f"output={output}: already exists; give a new file")


def write_page(page: Page, output: str | None, run: Path | None, outputs: Path, wait_seconds: float) -> Path:
    """Write a report, and return its path. The tracker receives that of a run.

    Args:
        page: The report.
        output: The file; None for the default.
        run: The directory of the run, sweep or study that the report belongs to, if any.
        outputs: The output folder.
        wait_seconds: How long to wait for the tracker.

    Raises:
        RequestError: The file cannot be written.
        WorkError: The disk is full.
    """
    text = render(page)
    try:
        if output is None and run is not None:
            with added_artifacts(run, [REPORT], wait_seconds, _ADVICE) as directory:
                write_text(directory / REPORT, text)
            return directory / REPORT
        if output is None:
            path = make_directory(outputs / FOLDER, add_timestamp(page.title)) / REPORT
        else:
            path = Path(output).expanduser()
            path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
        return path
    except OSError as error:
        raise cannot_write(error, output) from error
