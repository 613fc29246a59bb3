"""A good Keras script: what an engineer who knows TensorFlow writes for a small data set.

Images stay in memory as bytes; `tf.data` gathers a batch by index and augments it as a whole, in one resampling, in
parallel with training. Mixed bfloat16 where the processor has it, several steps per call. Its arguments are those
of `opponent.py`.
"""

import math

import keras
import keras_models
import opponent
import tensorflow as tf

CENTRE = 13.5  # of 28 pixels


def augment(images):
    """Rotate, shift and zoom each image, in one bilinear resampling."""
    turn, shift_x, shift_y, zoom_x, zoom_y = tf.unstack(tf.random.uniform([5, tf.shape(images)[0]], -1.0, 1.0))
    cos, sin = (function(turn * math.radians(opponent.DEGREES)) for function in (tf.cos, tf.sin))
    shift_x, shift_y = shift_x * opponent.SHIFT * 28, shift_y * opponent.SHIFT * 28
    zoom_x, zoom_y = 1 + opponent.ZOOM * zoom_x, 1 + opponent.ZOOM * zoom_y
    rows = []
    for first, second in ((cos, -sin), (sin, cos)):
        along_x, along_y = first * zoom_x, second * zoom_y
        rows += [along_x, along_y, first * shift_x + second * shift_y + CENTRE * (1 - along_x - along_y)]
    nothing = tf.zeros_like(cos)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images, transforms=tf.stack([*rows, nothing, nothing], 1), output_shape=[28, 28], fill_value=0.0,
        interpolation="BILINEAR", fill_mode="CONSTANT",
    )  # fmt: skip


def batches(x, y, aug):
    """Batches of an epoch, in a new order each time."""
    images, labels = tf.constant(x), tf.constant(y, tf.int32)

    def gather(rows):
        batch = tf.cast(tf.gather(images, rows), tf.float32)
        if aug != "none":
            batch = augment(batch)
        return tf.ensure_shape(batch, [None, 28, 28, 1]), tf.gather(labels, rows)

    order = tf.data.Dataset.range(len(x)).shuffle(len(x)).batch(opponent.BATCH)
    return order.map(gather, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def main():
    args = opponent.arguments()
    (x, y), val, test = opponent.load(args)
    if args.precision == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    model = keras_models.build(args.model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # jit_compile="auto" chooses XLA, which is slower than oneDNN's convolutions on processors.
    model.compile("adam", loss, metrics=["accuracy"], steps_per_execution=opponent.PER_CALL, jit_compile=False)
    held_out, scored = (
        tf.data.Dataset.from_tensor_slices(part)
        .batch(opponent.VALIDATION_BATCH)
        .cache()
        .prefetch(tf.data.AUTOTUNE)
        for part in (val, test)
    )
    turns = keras_models.Turns(len(x))
    model.fit(
        batches(x, y, args.aug), epochs=args.epochs, validation_data=held_out, callbacks=[turns], shuffle=False,
        verbose=0,
    )  # fmt: skip
    model.evaluate(scored, verbose=0)


if __name__ == "__main__":
    main()
