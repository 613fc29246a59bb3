"""`mnist-exp dataset fetch|verify|convert`: manage data sets."""

from __future__ import annotations

from mnist_exp.config.command_schemas import DatasetConfig
from mnist_exp.config.overrides import Request, key_of
from mnist_exp.config.validation import compose_checked
from mnist_exp.engine.preparation import complete_data
from mnist_exp.errors import RequestError
from mnist_exp.report.documents import VerifyDocument

# Keys of `data` that only affect training, and further keys that an action does not use.
_OF_A_TRAINING = ("data.val_fraction", "data.fallback", "data.balance")
_WITHOUT_USE = {"fetch": (*_OF_A_TRAINING, "data.dir", "data.limit", "data.split_seed")}


def dataset(request: Request, started: float) -> VerifyDocument | None:
    """Fetch, verify or convert a data set. Raises `RequestError` or `WorkError`."""
    config, _ = compose_checked(request, DatasetConfig, complete_data)
    if config.action is None:
        raise RequestError("action: must be fetch, verify or convert")
    for key in map(key_of, request.overrides):
        if key in _WITHOUT_USE.get(config.action, _OF_A_TRAINING):
            raise RequestError(f"{key}: has no effect on 'dataset {config.action}'")
    from mnist_exp.engine.dataset_actions import convert_images, fetch, verify  # NumPy

    if config.action == "verify":
        return verify(config)
    {"fetch": fetch, "convert": convert_images}[config.action](config, started)
    return None
