"""Find a learning rate for a config with a range test, and write its curve. Creates no run."""

from __future__ import annotations

from pathlib import Path

import keras

from mnist_exp.config.command_schemas import LrFindConfig
from mnist_exp.config.schema import TrainConfig
from mnist_exp.data.dataset import Dataset, Source
from mnist_exp.data.formats import prepare
from mnist_exp.engine.run import load_initial_weights
from mnist_exp.errors import WorkError
from mnist_exp.model.build import build
from mnist_exp.model.preprocessing import count_parameters, statistics
from mnist_exp.report.figure import resolution
from mnist_exp.report.lr_find_document import LrFindDocument, RatePoint
from mnist_exp.report.plots import rate_curve
from mnist_exp.report.predictions import as_table
from mnist_exp.report.progress import images_bar
from mnist_exp.runs import signals
from mnist_exp.runs.atomic import cannot_write, new_folder, write_text
from mnist_exp.runs.directory import add_timestamp, free_path
from mnist_exp.runs.log import say, warn
from mnist_exp.text import display_path
from mnist_exp.training.device import Device
from mnist_exp.training.distillation import load_teacher
from mnist_exp.training.rate_curve import (
    DIVERGENCE,
    Ending,
    Proposal,
    RateCurve,
    propose_rate,
    record_curve,
    rising_rates,
)

FOLDER = "lr_find"
_ENDINGS: dict[Ending, str] = {
    "completed": "",
    "diverged": f": stopped, as the smoothed loss exceeded {DIVERGENCE} times its lowest value",
    "not_finite": ": stopped, as the loss was no longer a number",
}


def find_rate(
    config: TrainConfig, settings: LrFindConfig, computer: Device, source: Source, stands_in_for: str | None
) -> LrFindDocument:
    """Run the test, print the proposal, and write the curve.

    Raises:
        RequestError: The folder cannot be written.
        WorkError: No rate can be proposed (the curve is written nevertheless), or the disk is full.
    """
    with signals.raised():
        keras.utils.clear_session()
        data = prepare(source, config.data)
        model = build(config, statistics(data.train.images, config.preprocess), computer.precision)
        load_initial_weights(model, config, source)
        _announce(config, data, model, computer)
        curve = _run_test(model, data, config, settings, load_teacher(config, computer.precision))
        proposal = propose_rate(curve)
        _print_proposal(proposal, config)
        folder = _write(curve, proposal, config, settings)
    say(f"files   {display_path(folder)}")
    if stands_in_for:
        warn(f"this learning rate is for {config.data.name}, the fallback for {stands_in_for}")
    document = _as_document(curve, proposal, config, folder, stands_in_for)
    if proposal.rate is None:
        failure = WorkError(document.message)
        failure.document = document
        raise failure
    return document


def _announce(config: TrainConfig, data: Dataset, model: keras.Model, computer: Device) -> None:
    """Print what is trained."""
    say(f"data    {config.data.name} from {data.origin}: {len(data.train):,} train")
    say(f"model   {config.model.name}, {count_parameters(model):,} parameters; aug {config.aug.shown_name}")
    say(f"device  {computer}")


def _run_test(
    model: keras.Model, data: Dataset, config: TrainConfig, settings: LrFindConfig, teacher: keras.Model | None
) -> RateCurve:
    """Return the curve of the test. Raises `WorkError` if not even the first loss is a number."""
    find, batch_size = settings.find, config.training.batch_size
    rates = rising_rates(find.low, find.high, find.steps)
    with images_bar("training at rising rates", find.steps * batch_size) as advance:

        def on_step() -> None:
            signals.check()
            advance(batch_size)

        curve = record_curve(model, data, config, rates, on_step, teacher)
    steps = len(curve.losses)
    if not steps:
        raise WorkError("the loss of the first step is not a number; debug=nan_check names the layer")
    ending = _ENDINGS[curve.ending]
    say(f"steps   {steps} of {find.steps}, at rates from {rates[0]:.2g} to {rates[steps - 1]:.2g}{ending}")
    return curve


def _print_proposal(proposal: Proposal, config: TrainConfig) -> None:
    """Print the proposed rate and its override, if there is one."""
    if proposal.rate is None:
        return
    say(
        f"rate    {proposal.rate:g}, at which the smoothed loss falls most steeply "
        f"(a tenth of the rate at its minimum: {proposal.tenth_of_lowest:g})"
    )
    if config.schedule.type != "constant":
        say(f"        this is the peak of the {config.schedule.type} schedule")
    say(f"use     {_override(proposal.rate)}")


def _override(rate: float) -> str:
    return f"optimizer.learning_rate={rate:g}"


def _write(curve: RateCurve, proposal: Proposal, config: TrainConfig, settings: LrFindConfig) -> Path:
    """Write the curve as a table and a picture into a new folder, and return its path.

    Raises `RequestError`, or `WorkError` if the disk is full.
    """
    name = f"{config.model.name}-{config.aug.shown_name}"
    if settings.output is not None:
        target = Path(settings.output).expanduser()
    else:
        target = free_path(Path(config.outputs) / FOLDER, add_timestamp(config.name or name))
    title = f"learning rate range test: {config.model.name}, {config.optimizer.type}, {config.data.name}"
    points = [point.model_dump() for point in _points(curve)]
    try:
        with new_folder(target) as folder, resolution(config.plots.dpi):
            write_text(folder / "lr_find.csv", as_table(tuple(points[0]), [tuple(p.values()) for p in points]))
            marks = (proposal.rate, proposal.tenth_of_lowest)
            rate_curve(curve.rates, curve.losses, curve.smoothed, marks, title, folder / "lr_find.png")
    except OSError as error:
        raise cannot_write(error, settings.output) from error
    return target


def _points(curve: RateCurve) -> list[RatePoint]:
    """Return the curve, point by point."""
    return [
        RatePoint(step=step, learning_rate=float(rate), loss=float(loss), smoothed_loss=float(smoothed))
        for step, (rate, loss, smoothed) in enumerate(
            zip(curve.rates, curve.losses, curve.smoothed, strict=True), 1
        )
    ]


def _as_document(
    curve: RateCurve, proposal: Proposal, config: TrainConfig, folder: Path, stands_in_for: str | None
) -> LrFindDocument:
    return LrFindDocument(
        learning_rate=proposal.rate,
        override=None if proposal.rate is None else _override(proposal.rate),
        tenth_of_lowest=proposal.tenth_of_lowest,
        message="" if proposal.rate else f"no learning rate can be proposed: {proposal.reason}",
        ending=curve.ending,
        planned_steps=len(curve.planned),
        curve=_points(curve),
        model=config.model.name,
        data=config.data.name,
        fallback_for=stands_in_for,
        folder=str(folder.resolve()),
    )
