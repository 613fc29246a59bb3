"""The plots of a training run: architecture, augmentation, metrics, and the mistakes on the test set."""

from __future__ import annotations

import keras

from mnist_exp.analysis.design_advice import advice
from mnist_exp.analysis.summary import HEADS, RIGHT, card, format_rows
from mnist_exp.config.schema import TrainConfig
from mnist_exp.data.dataset import Dataset, Part
from mnist_exp.inference.scoring import Scores
from mnist_exp.report import plots
from mnist_exp.runs.directory import PLOTS
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
    """Plot the architecture, augmented samples, metrics and learning rate."""
    folder, title = record.path / PLOTS, plot_title(record)
    folder.mkdir(exist_ok=True)
    rows = format_rows(card(model), config.training.batch_size)
    plots.architecture(
        HEADS, rows, RIGHT, advice(model), f"{config.model.name} · {title}", folder / "architecture.png"
    )
    for metric in ("accuracy", "loss"):
        plots.curve(progress.history, metric, f"{metric} · {title}", folder / f"{metric}.png", progress.best_epoch)
    steps = steps_per_epoch(len(data.train), config)
    rates = rates_with_history(progress.history, config, steps)
    plots.learning_rate(rates, steps, f"learning rate · {title}", folder / "learning_rate.png")
    originals = data.train.images[:8]
    augmented = draw_samples(config.aug, originals, config.seed, count=9)
    plots.augmentation_sheet(
        originals, augmented, f"aug {config.aug.shown_name} · {title}", folder / "augmentation.png"
    )


def draw_test(record: RunRecord, test: Part, names: tuple[str, ...], scores: Scores) -> None:
    """Plot the confusion matrix and misclassified images; `names` are the class names."""
    folder, title = record.path / PLOTS, plot_title(record)
    accuracy = f"test accuracy {scores.metrics['accuracy']:.2%}"
    plots.confusion_matrix(
        test.labels, scores.predicted, names, f"{accuracy} · {title}", folder / "confusion_matrix.png"
    )
    plots.misclassified(
        test.images, test.labels, scores.probabilities, names, f"misclassified test images · {title}",
        folder / "misclassified.png",
    )  # fmt: skip
