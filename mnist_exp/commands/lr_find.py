"""`mnist-exp lr_find`: train a few steps at rising learning rates, and propose one."""

from __future__ import annotations

from mnist_exp.config.overrides import Request
from mnist_exp.engine.preparation import resolve_data
from mnist_exp.engine.range_request import check_range_test
from mnist_exp.report.lr_find_document import LrFindDocument


def lr_find(request: Request, started: float) -> LrFindDocument:
    """Propose a learning rate for a request to train.

    Raises:
        RequestError: The request is wrong; nothing was created.
        WorkError: No rate can be proposed, or the disk is full.
    """
    request, settings, config, computer = check_range_test(request)
    request, config, source, stands_in_for = resolve_data(request, config)
    from mnist_exp.engine.rate_finding import find_rate  # Keras, Matplotlib

    return find_rate(config, settings, computer, source, stands_in_for)
