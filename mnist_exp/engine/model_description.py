"""Print the architecture and the augmentation that a config describes."""

from __future__ import annotations

import numpy as np

from mnist_exp.analysis.design_advice import advice
from mnist_exp.analysis.summary import FOOTNOTE, HEADS, RIGHT, card, format_rows
from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.engine.preparation import resolve_data
from mnist_exp.model.build import build
from mnist_exp.model.preprocessing import Statistics, count_parameters
from mnist_exp.report.tables import print_table
from mnist_exp.report.terminal_images import print_images
from mnist_exp.runs.log import say
from mnist_exp.training.augment import draw_samples

_EXAMPLES, _SAMPLES = 2, 8


def describe_model(config: TrainConfig) -> str:
    """Return the name, the size and the input shape of the config's model."""
    parameters = count_parameters(build(config, Statistics(), "float32", compiled=False))
    return f"model {config.model.name}, {parameters:,} parameters, for {'×'.join(map(str, config.data.shape))}"


def show_model(config: TrainConfig) -> None:
    """Print the summary card of the config's model, and design advice."""
    model = build(config, Statistics(), "float32", compiled=False)
    say(f"model   {config.model.name} on {'×'.join(map(str, config.data.shape))}, {config.data.classes} classes")
    print_table(HEADS, format_rows(card(model), config.training.batch_size), RIGHT)
    say(FOOTNOTE.format(batch_size=config.training.batch_size))
    for remark in advice(model):
        say(f"remark  {remark}")


def show_augmentation(request: Request, config: TrainConfig) -> None:
    """Print a few training images, each next to augmented copies."""
    _, config, source, _ = resolve_data(request, config)
    originals = source.train.images[:_EXAMPLES]
    drawn = draw_samples(config.aug, originals, config.seed, _SAMPLES)
    say(f"\naug     {config.aug.shown_name}: original images of {config.data.name} on the left")
    print_images(list(np.stack([originals, *drawn], axis=1)))
