"""Print or write predicted classes as a table, CSV, JSON lines or a Kaggle submission."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mnist_exp.config.command_schemas import PredictConfig
from mnist_exp.errors import WorkError
from mnist_exp.inference.digit_finder import Box
from mnist_exp.report.documents import PredictDocument, PredictionEntry
from mnist_exp.report.tables import print_table
from mnist_exp.runs.atomic import write_text
from mnist_exp.text import as_json, display_path, escape_controls, format_percent

COLUMNS = ("class", "probability", "runner_up", "runner_up_probability")


@dataclass(frozen=True)
class Prediction:
    """The two most probable classes of an image, by name."""

    input: str | int
    label: int
    """The index of the most probable class."""
    name: str
    """The name of that class."""
    probability: float
    runner_up: str
    runner_up_probability: float
    warning: str = ""
    """Why the image might not show exactly one digit; empty if it seems to."""
    box: Box | None = None
    """The digit's place in its picture, in pixels; None for other inputs."""

    @property
    def cells(self) -> tuple[str, ...]:
        """The values of `COLUMNS` as text."""
        return self.name, f"{self.probability:.6f}", self.runner_up, f"{self.runner_up_probability:.6f}"


def top_two(
    names: Sequence[str | int], probabilities: npt.NDArray[np.float32], class_names: Sequence[str]
) -> list[Prediction]:
    """Return the two most probable classes of each image; ties go to the lower class index.

    Args:
        names: The name or number of each image.
        probabilities: Class probabilities, shape (n, classes).
        class_names: The class names, in label order.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]
    return [
        Prediction(
            name, int(first), class_names[first], float(row[first]), class_names[second], float(row[second])
        )
        for name, (first, second), row in zip(names, order, probabilities, strict=True)
    ]


def print_predictions(predictions: Sequence[Prediction], *, boxes: bool) -> None:
    """Print predictions as a table, with warnings if there are any."""
    warned = any(prediction.warning for prediction in predictions)
    rows = []
    for one in predictions:
        row = [str(one.input), one.name, format_percent(one.probability), one.runner_up]
        row.append(format_percent(one.runner_up_probability))
        rows.append([*row, *[" ".join(map(str, one.box or ()))] * boxes, *[one.warning] * warned])
    heads = ["input", "class", "probability", "runner-up", "its probability"]
    heads += ["box"] * boxes + ["warning"] * warned
    print_table(heads, rows, right=("probability", "its probability"))


def as_csv(predictions: Sequence[Prediction], *, boxes: bool) -> str:
    """Format predictions as CSV, a row per image: its name, `COLUMNS`, its warning and, with `boxes`, its box."""
    rows = [(prediction.input, *prediction.cells, prediction.warning) for prediction in predictions]
    header = ("input", *COLUMNS, "warning")
    if not boxes:
        return as_table(header, rows)
    sides = [prediction.box or (None,) * 4 for prediction in predictions]
    return as_table(
        (*header, "left", "top", "right", "bottom"), [(*row, *box) for row, box in zip(rows, sides, strict=True)]
    )


def as_json_lines(predictions: Sequence[Prediction]) -> str:
    """Format predictions as JSON lines, one object per image, including the class index."""
    lines = [
        {
            "input": prediction.input,
            "class": prediction.name,
            "class_index": prediction.label,
            "probability": round(prediction.probability, 6),
            "runner_up": prediction.runner_up,
            "runner_up_probability": round(prediction.runner_up_probability, 6),
            "warning": prediction.warning,
            "box": prediction.box,
        }
        for prediction in predictions
    ]
    return "".join(f"{as_json(line)}\n" for line in lines)


def as_submission(predictions: Sequence[Prediction]) -> str:
    """Format predictions as a submission to Kaggle's Digit Recognizer, with images numbered from 1 in order."""
    return as_table(
        ("ImageId", "Label"), list(enumerate((prediction.label for prediction in predictions), start=1))
    )


def as_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format rows as CSV with a header; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[_harmless(cell) for cell in row] for row in rows])
    return text.getvalue()


def _harmless(cell: object) -> object:
    """Return a cell that spreadsheets do not evaluate as a formula: file names may look like one."""
    if not isinstance(cell, str):
        return cell
    cell = cell.replace("\r", "\\r")  # a carriage return would end the row
    formula = cell[:1] in tuple("=+-@\t") and not re.fullmatch(r"[+-]?[\d.]+(?:e[+-]?\d+)?", cell)
    return f"'{cell}" if formula else cell


def write_predictions(
    predictions: Sequence[Prediction], config: PredictConfig, tell: Callable[[str], None]
) -> None:
    """Write the predictions in the requested format. Raises `WorkError` if the file cannot be written."""
    if config.written_format is None:
        print_predictions(predictions, boxes=config.predict.many)
        return
    if config.written_format == "csv":
        text = as_csv(predictions, boxes=config.predict.many)
    else:
        text = {"jsonl": as_json_lines, "kaggle": as_submission}[config.written_format](predictions)
    if config.output is None:
        # Names are escaped for a terminal, but left unchanged for a program.
        print(escape_controls(text) if sys.stdout.isatty() else text, end="", flush=True)
        return
    file = Path(config.output).expanduser()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except OSError as error:
        raise WorkError(f"{error.filename or file}: cannot be written: {error.strerror}") from error
    tell(f"written {display_path(file)}: {len(predictions):,} images")


def predict_document(model: Path, predictions: Sequence[Prediction], unreadable: list[str]) -> PredictDocument:
    """Return the predictions of a model's file as a document, with the messages about unreadable inputs."""
    entries = [PredictionEntry(**asdict(prediction)) for prediction in predictions]
    return PredictDocument(model=str(model.resolve()), predictions=entries, unreadable=unreadable)
