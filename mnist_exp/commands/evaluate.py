"""`mnist-exp evaluate`: score a saved model on its own data set or another."""

from __future__ import annotations

from pathlib import Path

from mnist_exp.config.command_schemas import EvaluateConfig
from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.engine.preparation import set_up
from mnist_exp.engine.saved_model import Saved, resolve_saved
from mnist_exp.errors import RequestError
from mnist_exp.report.documents import EvaluateDocument
from mnist_exp.runs.atomic import refuse_existing


def evaluate(request: Request, started: float) -> EvaluateDocument:
    """Score a saved model; print, write and plot the metrics. Raises `RequestError` or `WorkError`."""
    config, saved, run_config = resolve_saved(request, EvaluateConfig)
    if config.output is not None:
        refuse_existing(Path(config.output).expanduser())
    refuse_withheld(saved, config)
    refuse_unconverted(config, run_config)
    device = set_up(run_config)
    from mnist_exp.engine.evaluation import evaluate_model  # Keras

    return evaluate_model(request, config, saved, run_config, device)


def refuse_unconverted(config: EvaluateConfig, run_config: TrainConfig) -> None:
    """Raise `RequestError` if `normalize` is given for data that is not converted."""
    if config.normalize and run_config.data.source != "folder":
        raise RequestError(
            f"normalize: must be false for {run_config.data.name}; only image files (data=folder) are converted"
        )
    if config.normalize and config.part == "val":
        raise RequestError("normalize: photographs are not split; part must be test or train")


def refuse_withheld(saved: Saved, config: EvaluateConfig) -> None:
    """Raise `RequestError` for scoring a trial on the test set: a search does so only for its best trial."""
    if config.part in (None, "test") and saved.result and saved.result.withholds_test:
        raise RequestError(
            f"{saved.name}: a trial of a search, which scores only its best trial on the test set; "
            "part=val scores it on the validation set"
        )
