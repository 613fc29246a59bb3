"""TensorFlow is set up once, as a command would, before any of these tests computes something."""

from mnist_exp.config.schema import DeviceConfig
from mnist_exp.model import backend

backend.load()

from mnist_exp.training import device  # noqa: E402

device.resolve(DeviceConfig(kind="auto", precision="auto", threads="auto", deterministic=True))
