"""Save, score and plot a trained model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mnist_exp.config.schema import TrainConfig
from mnist_exp.runs.log import say
from mnist_exp.runs.stopwatch import Stopwatch

if TYPE_CHECKING:
    import keras

    from mnist_exp.data.dataset import Dataset, Part
    from mnist_exp.inference.scoring import Scores
    from mnist_exp.tracking.recorder import RunRecord
    from mnist_exp.training.loop import Progress


PLOTS = "plots"
"""The folder of a run's pictures."""


def save_best(
    model: keras.Model, progress: Progress, record: RunRecord, config: TrainConfig, final: bool
) -> keras.Model:
    """Save the best epoch in all formats, in float32. Returns the model as plain Keras loads it.

    Args:
        model: A float32 twin of the trained model.
        progress: Holds the best epoch's weights.
        record: The run's record.
        config: The run's config.
        final: Whether the training is complete, so that the tracker gets the model.
    """
    from mnist_exp.inference.scoring import load
    from mnist_exp.model.saving import hdf5_takes, save_model, weights_sha256
    from mnist_exp.training.step import build_state

    assert progress.best is not None
    assert progress.best_epoch is not None
    build_state(model)
    progress.best.restore(model)
    record.result.weights_sha256 = weights_sha256(model)
    if not hdf5_takes(model.optimizer):
        say(f"note    model.h5 is without {config.optimizer.type}'s state: Keras has no way to restore it")
    save_model(model, record.path)
    record.artifact("history.csv")
    record.artifact("architecture.yaml")
    if final:
        record.best(progress.history[progress.best_epoch - 1])
        record.model("model.keras", config.data.shape, config.data.classes)
    return load(record.path / "model.keras")


def score_and_draw(
    saved: keras.Model,
    test: Part | None,
    record: RunRecord,
    config: TrainConfig,
    data: Dataset,
    progress: Progress,
    stopwatch: Stopwatch,
) -> None:
    """Score the saved model on the test set, if there is one, while the other plots are drawn."""
    scoring = ThreadPoolExecutor(1)
    try:
        scores = scoring.submit(score_test, saved, test, config, stopwatch) if test is not None else None
        with stopwatch.phase("plots"):
            draw_training(record, config, data, saved, progress)
        if test is not None and scores is not None:
            record.test(scores.result().metrics)
            with stopwatch.phase("plots"):
                draw_test(record, test, data.class_names, scores.result())
    finally:
        scoring.shutdown(wait=False)  # don't wait: SIGKILL may follow SIGTERM


def score_test(saved: keras.Model, test: Part, config: TrainConfig, stopwatch: Stopwatch) -> Scores:
    """Score the saved model on the test set: once, unless a finished run is trained longer."""
    from mnist_exp.inference.scoring import score

    with stopwatch.phase("test"):
        return score(saved, test, config.training)


def title_of(record: RunRecord) -> str:
    """Return the title that all plots of a run share."""
    return f"{record.directory.name} · {record.result.data.title}"


def draw_training(
    record: RunRecord, config: TrainConfig, data: Dataset, model: keras.Model, progress: Progress
) -> None:
    """Plot the architecture, augmented samples, metrics and learning rate."""
    from mnist_exp.analysis.design_advice import advice
    from mnist_exp.analysis.summary import HEADS, RIGHT, as_rows, card
    from mnist_exp.report import plots
    from mnist_exp.training.augment import samples
    from mnist_exp.training.early_stopping import rates_with_history
    from mnist_exp.training.loop import steps_per_epoch

    folder, title = record.path / PLOTS, title_of(record)
    folder.mkdir(exist_ok=True)
    rows = as_rows(card(model), config.training.batch_size)
    plots.architecture(
        HEADS, rows, RIGHT, advice(model), f"{config.model.name} · {title}", folder / "architecture.png"
    )
    for metric in ("accuracy", "loss"):
        plots.curve(progress.history, metric, f"{metric} · {title}", folder / f"{metric}.png", progress.best_epoch)
    steps = steps_per_epoch(len(data.train), config)
    rates = rates_with_history(progress.history, config, steps)
    plots.learning_rate(rates, steps, f"learning rate · {title}", folder / "learning_rate.png")
    originals = data.train.images[:8]
    augmented = samples(config.aug, originals, config.seed, count=9)
    plots.augmentation_sheet(
        originals, augmented, f"aug {config.aug.shown_name} · {title}", folder / "augmentation.png"
    )


def draw_test(record: RunRecord, test: Part, names: tuple[str, ...], scores: Scores) -> None:
    """Plot the confusion matrix and misclassified images; `names` are those of the classes."""
    from mnist_exp.report import plots

    folder, title = record.path / PLOTS, title_of(record)
    accuracy = f"test accuracy {scores.metrics['accuracy']:.2%}"
    plots.confusion_matrix(
        test.labels, scores.predicted, names, f"{accuracy} · {title}", folder / "confusion_matrix.png"
    )
    plots.misclassified(
        test.images, test.labels, scores.probabilities, names, f"misclassified test images · {title}",
        folder / "misclassified.png",
    )  # fmt: skip
