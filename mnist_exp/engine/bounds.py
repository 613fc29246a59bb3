"""Bounds on a model's metrics (`evaluate require=…`)."""

from __future__ import annotations

from collections.abc import Mapping

from mnist_exp.config.command_schemas import EvaluateConfig
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.engine.saved_model import Saved
from mnist_exp.errors import Problem, RequestError, WorkError
from mnist_exp.inference.metrics import Assessment
from mnist_exp.inference.scoring import Scores
from mnist_exp.report.documents import BoundEntry, EvaluateDocument
from mnist_exp.runs.log import say
from mnist_exp.suggest import near_or_all


def measured_values(saved: Saved, part: str, scores: Scores, assessment: Assessment) -> dict[str, float]:
    """Return the metrics that bounds can refer to: those of `part`, and those that the run recorded earlier."""
    result = saved.result
    values = {f"test/{name}": value for name, value in ((result and result.test) or {}).items()}
    values |= {name: value for name, value in ((result and result.best) or {}).items() if "/" in name}
    values |= {f"{part}/{name}": value for name, value in scores.metrics.items()}
    for name in ("precision", "recall", "f1"):
        values[f"{part}/{name}"] = assessment.macro(name) or 0.0
    values[f"{part}/expected_calibration_error"] = assessment.calibration.error
    return values


def check_bounds(config: EvaluateConfig, values: Mapping[str, float]) -> list[BoundEntry]:
    """Return, for each bound of `require`, its metrics and whether it holds.

    Raises `RequestError` for unknown metrics.
    """
    bounds = config.require or ()
    unknown = [name for bound in bounds for name in bound.names if name not in values]
    if unknown:
        raise RequestError(
            [
                Problem(
                    "unknown-key",
                    COMMAND_LINE,
                    f"require: {name} is not a metric of this model{near_or_all(name, values)}",
                    "require",
                )
                for name in unknown
            ],
            "this request",
        )
    return [
        BoundEntry(
            bound=bound.text,
            holds=bound.holds(values.get),
            values={name: values[name] for name in bound.names},
        )
        for bound in bounds
    ]


def refuse_missed(document: EvaluateDocument) -> None:
    """Print the bounds that hold. Raises a `WorkError` that lists the others, if there are any."""
    missed = []
    for entry in document.bounds:
        values = ", ".join(f"{name} is {value:.6g}" for name, value in entry.values.items() if value is not None)
        if entry.holds:
            say(f"holds   {entry.bound}: {values}")
        else:
            missed.append(f"  {entry.bound}: {values}")
    if missed:
        count = f"{len(missed)} of {len(document.bounds)} requirement{'s' * (len(document.bounds) > 1)}"
        error = WorkError(f"{count} {'is' if len(missed) == 1 else 'are'} not met\n" + "\n".join(missed))
        error.document = document
        raise error
