"""The plain Keras script: `ImageDataGenerator`, `fit`, float32, as most tutorials write it.

Its arguments are those of `opponent.py`; the precision is ignored.
"""

import keras
import keras_models
import numpy as np
import opponent
from keras.src.legacy.preprocessing.image import ImageDataGenerator


def main():
    args = opponent.arguments()
    parts = opponent.load(args)
    (x, y), val, test = [(images.astype(np.float32), labels) for images, labels in parts]
    model = keras_models.build(args.model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    common = {
        "epochs": args.epochs,
        "validation_data": val,
        "callbacks": [keras_models.Turns(len(x))],
        "verbose": 0,
    }
    if args.aug == "none":
        model.fit(x, y, batch_size=opponent.BATCH, **common)
    else:
        generator = ImageDataGenerator(
            rotation_range=opponent.DEGREES, width_shift_range=opponent.SHIFT, height_shift_range=opponent.SHIFT,
            zoom_range=opponent.ZOOM, fill_mode="constant",
        )  # fmt: skip
        model.fit(generator.flow(x, y, batch_size=opponent.BATCH), **common)
    model.evaluate(*test, batch_size=opponent.VALIDATION_BATCH, verbose=0)


if __name__ == "__main__":
    main()
