"""Configure TensorFlow once, before any of these tests computes something."""

from support.device import set_up_tensorflow

set_up_tensorflow()
