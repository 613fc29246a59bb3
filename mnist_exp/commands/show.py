"""`mnist-exp show`: print the architecture and augmentation of a config or a run."""

from __future__ import annotations

from mnist_exp.config.overrides import Request
from mnist_exp.engine.preparation import check_config, load_base_run
from mnist_exp.report.documents import ShowDocument


def show(request: Request, started: float) -> ShowDocument:
    """Print the summary card, design advice, and augmented samples. Raises `RequestError`."""
    request = load_base_run(request)
    request, config, _ = check_config(request)
    from mnist_exp.engine.model_description import show_augmentation, show_model  # Keras

    document = show_model(config)
    if not config.aug.is_identity:
        show_augmentation(request, config)
    return document
