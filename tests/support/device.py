"""Set up TensorFlow for tests that compute without the command line."""

from __future__ import annotations

from mnist_exp.config.schema import DeviceConfig
from mnist_exp.model import backend


def set_up_tensorflow() -> None:
    """Configure TensorFlow as a command would, before its first operation fixes the number of threads."""
    backend.load()
    from mnist_exp.training import device

    device.resolve(DeviceConfig(kind="auto", precision="auto", threads="auto", deterministic=True))
