"""Each row of the traits table agrees with what Keras' layer does."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mnist_exp
from mnist_exp.keras_spec.layer_types import TRAITS, traits
from mnist_exp.keras_spec.signatures import class_arguments, classes
from mnist_exp.model import backend

backend.load()

import keras  # noqa: E402

# Layer types of Keras that configs cannot use, by the reason.
UNSUPPORTED = {
    *("Bidirectional", "Lambda", "Layer", "RNN", "TFSMLayer", "TimeDistributed", "TorchModuleWrapper", "Wrapper"),
    *("FlaxLayer", "JaxLayer", "Input", "InputSpec", "Pipeline", "AugMix"),
    *("ContrastLimitedAdaptiveHistogramEqualization",),
    *("CutMix", "MixUp", "RandomCrop", "CenterCrop", "Resizing", "RandomElasticTransform"),
    *("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "GRUCell", "LSTMCell", "SimpleRNNCell", "StackedRNNCells"),
    *("Conv3D", "Conv3DTranspose", "Cropping3D", "UpSampling3D", "ZeroPadding3D", "SpatialDropout3D"),
    *("AveragePooling3D", "MaxPooling3D", "GlobalAveragePooling3D", "GlobalMaxPooling3D"),
    *("AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D", "AdaptiveAveragePooling3D"),
    *("AdaptiveMaxPooling1D", "AdaptiveMaxPooling2D", "AdaptiveMaxPooling3D"),
    *("AdditiveAttention", "Attention", "MultiHeadAttention", "Dot", "Subtract"),
    *("CategoryEncoding", "Discretization", "Embedding", "Hashing", "HashedCrossing", "IntegerLookup"),
    *("MaxNumBoundingBoxes", "MelSpectrogram", "Normalization", "ReversibleEmbedding", "SpectralNormalization"),
    *("STFTSpectrogram", "StringLookup", "TextVectorization", "Masking"),
}  # fmt: skip

SMALL: dict[str, dict[str, Any]] = {
    "Activation": {"activation": "tanh"},
    "EinsumDense": {"equation": "abc,cd->abd", "output_shape": (6, 5)},
    "Permute": {"dims": (2, 1)},
    "Reshape": {"target_shape": (4, 6)},
    "RepeatVector": {"n": 3},
    "Cropping2D": {"cropping": 1},
    "Rescaling": {"scale": 2.0},
    "GaussianNoise": {"stddev": 1.0},
    "GroupNormalization": {"groups": 2},
}
VALUES = {"pool_size": 2, "filters": 3, "units": 3, "kernel_size": 2, "rate": 0.5}


def make(kind: str, **more: Any) -> keras.Layer:
    known = class_arguments("layers", kind)
    assert known is not None
    arguments = SMALL.get(kind) or {key: VALUES[key] for key in known.required}
    return getattr(keras.layers, kind)(**arguments, **more)


def inputs_of(kind: str, batch: int = 3) -> np.ndarray:
    """Return random values that the layer accepts: images, sequences (6 steps of 4 features) or vectors."""
    shape = (6, 8, 4) if "2D" in kind else (4,) if kind == "RepeatVector" else (6, 4)
    return np.random.default_rng(0).normal(size=(batch, *shape)).astype(np.float32)


LISTED = sorted(kind for kind, row in TRAITS.items() if row.listed)


def test_every_layer_of_keras_has_a_row_or_a_reason():
    """A layer type that a new version of Keras adds fails this test until someone decides whether to allow it."""
    layers = {name for name in classes("layers") if getattr(keras.layers, name).__name__ in (name, "function")}
    assert {name for name in layers if name not in TRAITS} == UNSUPPORTED
    assert set(TRAITS) <= layers


def test_layer_types_of_an_unknown_layer_are_the_cautious_ones():
    """A layer of a foreign model is treated as neither pointwise nor splittable."""
    unknown = traits(keras.layers.Conv3D(2, 1))
    assert (unknown.reads, unknown.mixes_batch, unknown.listed) == ("everything", True, False)
    assert traits(keras.layers.Dense(1)) is TRAITS["Dense"]


@pytest.mark.parametrize("kind", LISTED)
def test_shape_and_values_at_inference(kind: str):
    """`keeps_shape` and `is_inert` agree with the layer's output."""
    x = inputs_of(kind)
    layer = make(kind)
    y = keras.ops.convert_to_numpy(layer(x, training=False) if layer._call_has_training_arg else layer(x))
    row = TRAITS[kind]
    assert row.keeps_shape == (y.shape == x.shape)
    is_inert = y.size == x.size and np.array_equal(y.ravel(), x.ravel())
    assert row.is_inert == is_inert


@pytest.mark.parametrize("kind", LISTED)
def test_mixes_batch_in_training(kind: str):
    """Changing the second image changes the output for the first only if the table says so."""
    x, other = inputs_of(kind), inputs_of(kind)
    other[1] = other[1] * 3 + 1
    outputs = []
    for values in (x, other):
        keras.utils.set_random_seed(0)
        layer = make(kind)
        layer.build(values.shape)
        for weight in layer.trainable_weights:
            weight.assign(np.full(weight.shape, 0.1, np.float32))
        y = layer(values, training=True) if layer._call_has_training_arg else layer(values)
        outputs.append(keras.ops.convert_to_numpy(y)[0])
    assert TRAITS[kind].mixes_batch != np.array_equal(*outputs)


@pytest.mark.parametrize("kind", LISTED)
def test_layer_has_what_its_traits_need(kind: str):
    """The layer has the attributes that receptive fields and counts read, and no kernel is uncounted."""
    row, layer = TRAITS[kind], make(kind)
    layer(inputs_of(kind))
    needed = {
        "window": ["strides", "padding"], "transposed window": ["strides", "padding"], "scaled": ["size"],
        "padded": ["padding"], "cropped": ["cropping"], "permuted": ["dims"], "axes": ["axis"],
    }.get(row.reads, [])  # fmt: skip
    for attribute in needed:
        assert hasattr(layer, attribute)
    if "window" in row.reads:
        assert hasattr(layer, "pool_size" if row.is_pooling else "kernel_size")
    assert (row.kernel is not None) == any("kernel" in weight.name for weight in layer.weights)
    assert row.is_convolution == ("Conv" in kind)


@pytest.mark.parametrize("kind", LISTED)
def test_causal_padding(kind: str):
    """`padding: causal` is accepted exactly if the table says so."""
    if not TRAITS[kind].is_convolution:
        assert not TRAITS[kind].accepts_causal
        return
    try:
        shape = make(kind, padding="causal")(inputs_of(kind)).shape
    except (ValueError, TypeError):
        shape = None
    assert TRAITS[kind].accepts_causal == (shape is not None)


@pytest.mark.parametrize("kind", sorted(kind for kind, row in TRAITS.items() if row.merges))
def test_merges_take_several_inputs(kind: str):
    """Each merges two branches of equal shape."""
    x = inputs_of("2D")
    assert getattr(keras.layers, kind)()([x, x]).shape[:3] == x.shape[:3]


def test_no_other_module_keeps_a_set_of_layer_types():
    """No collection outside the table lists three or more layer types."""
    package = Path(mnist_exp.__file__).parent
    for path in package.rglob("*.py"):
        if path.name == "layer_types.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Set, ast.Tuple, ast.List)):
                names = [one.value for one in node.elts if isinstance(one, ast.Constant) and one.value in TRAITS]
                assert len(names) < 3, f"{path}:{node.lineno}"
