"""The classes of images as CSV, JSON lines, or a submission to Kaggle."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mnist_exp.report.tables import percent, print_table

COLUMNS = ("class", "probability", "runner_up", "runner_up_probability")


@dataclass(frozen=True)
class Prediction:
    """The two most probable classes of an image, by name."""

    input: str | int
    label: int
    """The number of the class."""
    name: str
    """Its name."""
    probability: float
    runner_up: str
    runner_up_probability: float

    @property
    def cells(self) -> tuple[str, ...]:
        """As `COLUMNS` say."""
        return self.name, f"{self.probability:.6f}", self.runner_up, f"{self.runner_up_probability:.6f}"


def two_best(
    names: Sequence[str | int], probabilities: npt.NDArray[np.float32], class_names: Sequence[str]
) -> list[Prediction]:
    """The predictions for images of these names; probabilities (n, classes). Of equal ones the first counts."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]
    return [
        Prediction(
            name, int(first), class_names[first], float(row[first]), class_names[second], float(row[second])
        )
        for name, (first, second), row in zip(names, order, probabilities, strict=True)
    ]


def print_predictions(predictions: Sequence[Prediction]) -> None:
    """Print a table for people."""
    rows = [
        [str(of.input), of.name, percent(of.probability), of.runner_up, percent(of.runner_up_probability)]
        for of in predictions
    ]
    heads = ["input", "class", "probability", "runner-up", "its probability"]
    print_table(heads, rows, right=("probability", "its probability"))


def as_csv(predictions: Sequence[Prediction]) -> str:
    """A row per image: its name, and `COLUMNS`."""
    return as_table(("input", *COLUMNS), [(of.input, *of.cells) for of in predictions])


def as_json_lines(predictions: Sequence[Prediction]) -> str:
    """An object per image and line, with the class's number too."""
    lines = [
        {
            "input": of.input,
            "class": of.name,
            "class_index": of.label,
            "probability": round(of.probability, 6),
            "runner_up": of.runner_up,
            "runner_up_probability": round(of.runner_up_probability, 6),
        }
        for of in predictions
    ]
    return "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)


def as_submission(predictions: Sequence[Prediction]) -> str:
    """As Kaggle's Digit Recognizer takes it: the images are numbered from 1 in their order."""
    return as_table(("ImageId", "Label"), list(enumerate((of.label for of in predictions), start=1)))


def as_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """CSV with a header; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
