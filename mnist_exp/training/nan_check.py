"""Find the layer where NaN or infinity first appears."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from mnist_exp.text import format_percent


def first_not_finite(model: keras.Model, batch: Any) -> str:
    """Return a sentence that names the first layer whose weights or outputs are not finite for a batch."""
    for layer in model.layers:
        for weight in layer.weights:
            if not np.isfinite(keras.ops.convert_to_numpy(weight)).all():
                return f"The weights '{weight.path}' were already non-finite before this step."
    outputs = keras.Model(model.inputs, [layer.output for layer in model.layers])(batch, training=True)
    for layer, output in zip(model.layers, outputs, strict=True):
        values = keras.ops.convert_to_numpy(keras.ops.cast(output, "float32"))
        if not np.isfinite(values).all():
            share = 1 - np.isfinite(values).mean()
            return f"The output of layer '{layer.name}' is not finite ({format_percent(share, 1)} of its values)."
    return "Every layer's weights and outputs are finite for this batch; the loss or the gradients are not."
