"""Save and score a trained model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import keras

from mnist_exp.config.schema import TrainConfig
from mnist_exp.data.dataset import Dataset, Part
from mnist_exp.inference.scoring import Scores, load, score
from mnist_exp.model.saving import fits_hdf5, save_model, weights_sha256
from mnist_exp.runs.log import say
from mnist_exp.runs.stopwatch import Stopwatch
from mnist_exp.tracking.recorder import RunRecord
from mnist_exp.training.loop import Progress
from mnist_exp.training.step import build_state


def save_best(
    model: keras.Model, progress: Progress, record: RunRecord, config: TrainConfig, *, final: bool, is_logged: bool
) -> keras.Model:
    """Save the model of the best epoch in `model.keras` and the configured formats, in float32.

    Returns the model as plain Keras loads it.

    Args:
        model: A float32 model with the same architecture as the trained one.
        progress: Holds the best epoch's weights.
        record: The run's record.
        config: The run's config.
        final: Whether the training is complete.
        is_logged: Whether the tracker gets the model of a complete training.
    """
    assert progress.best is not None
    assert progress.best_epoch is not None
    build_state(model)
    progress.best.restore(model)
    record.result.weights_sha256 = weights_sha256(model)
    if "h5" in config.save and not fits_hdf5(model.optimizer):
        say(f"note    model.h5 lacks {config.optimizer.type}'s state, which Keras cannot restore from HDF5")
    save_model(model, record.path, config.save)
    record.artifact("history.csv")
    if "yaml" in config.save:
        record.artifact("architecture.yaml")
    if final:
        record.best(progress.history[progress.best_epoch - 1])
        if is_logged:
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
    """Score the saved model on the test set, if there is one, while drawing the plots that need no scores.

    Plots are drawn only if they are to be kept.
    """
    scoring = ThreadPoolExecutor(1)
    try:
        scores = scoring.submit(score_test, saved, test, config, stopwatch) if test is not None else None
        if config.drawn_plots:
            with stopwatch.phase("plots"):
                from mnist_exp.engine.run_plots import draw_test, draw_training  # Matplotlib

                draw_training(record, config, data, saved, progress)
        if test is not None and scores is not None:
            record.test(scores.result().metrics)
            if config.drawn_plots:
                with stopwatch.phase("plots"):
                    draw_test(record, config, test, data.class_names, scores.result())
    finally:
        scoring.shutdown(wait=False)  # don't wait: SIGKILL may follow SIGTERM


def score_test(saved: keras.Model, test: Part, config: TrainConfig, stopwatch: Stopwatch) -> Scores:
    """Score the saved model on the test set. This is done only once, unless a finished run is trained further."""
    with stopwatch.phase("test"):
        return score(saved, test, config.training)
