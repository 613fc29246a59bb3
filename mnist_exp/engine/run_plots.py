"""The plots of a training run: architecture, augmentation, metrics, and the mistakes on the test set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import keras

from mnist_exp.analysis.design_advice import advice
from mnist_exp.analysis.summary import HEADS, RIGHT, card, format_rows
from mnist_exp.config.schema import Plot, TrainConfig
from mnist_exp.data.dataset import Dataset, Part
from mnist_exp.inference.scoring import Scores
from mnist_exp.report import plots
from mnist_exp.report.figure import resolution
from mnist_exp.runs.directory import PLOTS
from mnist_exp.text import format_percent
from mnist_exp.tracking.recorder import RunRecord
from mnist_exp.training.augment import draw_samples
from mnist_exp.training.early_stopping import rates_with_history
from mnist_exp.training.loop import Progress, steps_per_epoch


def plot_title(record: RunRecord) -> str:
    """Return the title that all plots of a run share."""
    return f"{record.directory.name} · {record.result.data.title}"


def draw_training(
    record: RunRecord, config: TrainConfig, data: Dataset, model: keras.Model, progress: Progress
) -> None:
    """Plot the architecture, augmented samples, metrics and, unless it is constant, the learning rate."""
    folder, title = record.path / PLOTS, plot_title(record)
    folder.mkdir(exist_ok=True)

    def draw_architecture(path: Path) -> None:
        rows = format_rows(card(model), config.training.batch_size)
        plots.architecture(HEADS, rows, RIGHT, advice(model), f"{config.model.name} · {title}", path)

    def draw_curve(metric: str, path: Path) -> None:
        plots.curve(progress.history, metric, f"{metric} · {title}", path, progress.best_epoch)

    def draw_learning_rate(path: Path) -> None:
        steps = steps_per_epoch(len(data.train), config)
        rates = rates_with_history(progress.history, config, steps)
        if rates.min() < rates.max():  # a constant rate needs no picture
            plots.learning_rate(rates, steps, f"learning rate · {title}", path)

    def draw_augmentation(path: Path) -> None:
        originals = data.train.images[:8]
        augmented = draw_samples(config.aug, originals, config.seed, count=9)
        plots.augmentation_sheet(originals, augmented, f"aug {config.aug.shown_name} · {title}", path)

    pictures: dict[Plot, Callable[[Path], None]] = {
        "architecture": draw_architecture,
        "accuracy": partial(draw_curve, "accuracy"),
        "loss": partial(draw_curve, "loss"),
        "learning_rate": draw_learning_rate,
        "augmentation": draw_augmentation,
    }
    _draw(pictures, config, folder)


def draw_test(
    record: RunRecord, config: TrainConfig, test: Part, names: tuple[str, ...], scores: Scores
) -> list[str]:
    """Plot the confusion matrix and misclassified images; return their names. `names` are the class names."""
    title = plot_title(record)

    def draw_confusion_matrix(path: Path) -> None:
        accuracy = f"test accuracy {format_percent(scores.metrics['accuracy'])}"
        plots.confusion_matrix(test.labels, scores.predicted, names, f"{accuracy} · {title}", path)

    def draw_misclassified(path: Path) -> None:
        what = f"misclassified test images · {title}"
        plots.misclassified(test.images, test.labels, scores.probabilities, names, what, path)

    pictures: dict[Plot, Callable[[Path], None]] = {
        "confusion_matrix": draw_confusion_matrix,
        "misclassified": draw_misclassified,
    }
    return _draw(pictures, config, record.path / PLOTS)


def _draw(pictures: Mapping[Plot, Callable[[Path], None]], config: TrainConfig, folder: Path) -> list[str]:
    """Draw those of the pictures that the config selects, in its resolution; return their names."""
    drawn: list[str] = [name for name in pictures if name in config.drawn_plots]
    with resolution(config.plots.dpi):
        for name, draw in pictures.items():
            if name in drawn:
                draw(folder / f"{name}.png")
    return drawn
