"""Print the architecture and the augmentation that a config describes."""

from __future__ import annotations

import dataclasses

import numpy as np

from mnist_exp.analysis.design_advice import advice
from mnist_exp.analysis.summary import FOOTNOTE, HEADS, RIGHT, LayerRow, card, format_rows
from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.engine.preparation import resolve_data
from mnist_exp.model.build import build
from mnist_exp.model.preprocessing import Statistics, count_parameters
from mnist_exp.report.documents import Axis, CheckedModel, LayerEntry, ShowDocument
from mnist_exp.report.tables import print_table
from mnist_exp.report.terminal_images import print_images
from mnist_exp.runs.log import say
from mnist_exp.training.augment import draw_samples

_EXAMPLES, _SAMPLES = 2, 8


def check_model(config: TrainConfig, job: str | None) -> CheckedModel:
    """Build the model of a config or of a sweep's job. Return its name, size and input shape."""
    parameters = count_parameters(build(config, Statistics(), "float32", compiled=False))
    return CheckedModel(job=job, model=config.model.name, parameters=parameters, shape=list(config.data.shape))


def show_model(config: TrainConfig) -> ShowDocument:
    """Print the summary card of the config's model, and design advice. Returns the same as a document."""
    model = build(config, Statistics(), "float32", compiled=False)
    say(f"model   {config.model.name} on {'×'.join(map(str, config.data.shape))}, {config.data.classes} classes")
    rows, remarks = card(model), advice(model)
    print_table(HEADS, format_rows(rows, config.training.batch_size), RIGHT)
    say(FOOTNOTE.format(batch_size=config.training.batch_size))
    for remark in remarks:
        say(f"remark  {remark}")
    return ShowDocument(
        model=config.model.name,
        shape=list(config.data.shape),
        classes=config.data.classes,
        parameters=sum(row.parameters for row in rows),
        multiply_adds=sum(row.multiply_adds for row in rows),
        layers=[_layer_entry(row) for row in rows],
        remarks=list(remarks),
        aug=config.aug.shown_name,
    )


def _layer_entry(row: LayerRow) -> LayerEntry:
    return LayerEntry(
        name=row.name,
        type=row.type,
        output=list(row.output),
        parameters=row.parameters,
        multiply_adds=row.multiply_adds,
        memory_bytes=row.memory,
        trainable=row.learns,
        rows=Axis(**dataclasses.asdict(row.rows)),
        columns=Axis(**dataclasses.asdict(row.columns)),
    )


def show_augmentation(request: Request, config: TrainConfig) -> None:
    """Print a few training images, each next to augmented copies."""
    _, config, source, _ = resolve_data(request, config)
    originals = source.train.images[:_EXAMPLES]
    drawn = draw_samples(config.aug, originals, config.seed, _SAMPLES)
    say(f"\naug     {config.aug.shown_name}: original images of {config.data.name} on the left")
    print_images(list(np.stack([originals, *drawn], axis=1)))
