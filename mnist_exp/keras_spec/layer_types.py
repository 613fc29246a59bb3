"""The layer types that configs may use, one row each, with the traits that the rest of the package relies on.

To support another type of `keras.layers`, add its row here; `tests/keras_spec/test_layer_types.py` compares each
row with the layer's behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mnist_exp import registrations

Reads = Literal[
    "position",  # the unit's own position in the input
    "window",  # a kernel or pooling window, placed by `strides`, `dilation_rate` and `padding`
    "transposed window",  # the input positions whose output window contains the unit
    "scaled",  # the position divided by `size`, as in upsampling
    "padded",  # the position shifted by `padding`
    "cropped",  # the position shifted by `cropping`
    "permuted",  # the position in another order of axes (`dims`)
    "features",  # the whole last axis, at the unit's own position along the others
    "axes",  # the whole of the layer's `axis`, at the unit's own position along the others
    "inputs",  # the unit's own position in several inputs
    "reshaped",  # the same values in row-major order under another shape
    "pooled",  # everything, reduced to one value per channel
    "everything",
]
"""The input values that a unit of a layer's output depends on."""

Kernel = Literal["convolution", "transposed", "depthwise", "separable", "dense", "einsum", "recurrent"]
"""How a layer's kernels are laid out and used."""


@dataclass(frozen=True, slots=True)
class Traits:
    """The traits of a layer type."""

    reads: Reads
    kernel: Kernel | None = None
    """None for a layer without a kernel."""
    listed: bool = True
    """Whether the layer may be an entry of a list of layers."""
    merges: bool = False
    """Whether the layer may merge the branches of a `Parallel`."""
    augments: bool = False
    """Whether the layer may be an entry of `aug.layers`: it changes images, but not their labels or size."""
    keeps_shape: bool = False
    """Whether the output has the shape of the input, for any arguments."""
    is_inert: bool = False
    """Whether the output at inference is the input, perhaps reshaped."""
    mixes_batch: bool = False
    """Whether the output for an image depends on the other images of the batch in training."""
    accepts_causal: bool = False
    """Whether `padding: causal` works (in Keras 3.15, other 1D convolutions document it but reject it)."""
    is_step: bool = True
    """Whether the layer is a design step of its own, rather than an addition to the previous layer."""

    @property
    def is_convolution(self) -> bool:
        """Whether the layer slides a kernel over positions."""
        return self.kernel in ("convolution", "transposed", "depthwise", "separable")

    @property
    def is_pooling(self) -> bool:
        """Whether the layer reduces windows without a kernel."""
        return self.reads == "window" and self.kernel is None


_POOLING = Traits("window")
_GLOBAL_POOLING = Traits("pooled")
_RECURRENT = Traits("everything", "recurrent")
_ACTIVATION = Traits("position", keeps_shape=True, is_step=False)
_NOISE = Traits("position", keeps_shape=True, is_inert=True, is_step=False)
_NORMALIZATION = Traits("axes", keeps_shape=True, is_step=False)
_MERGE = Traits("inputs", listed=False, merges=True)
_AUGMENTATION = Traits("everything", listed=False, augments=True, keeps_shape=True)

# Not in the table: layers that run or wrap external code, take several inputs (except the merges), or need text or
# `adapt`; adaptive pooling, which fails for some sizes or terminates the process (Keras 3.15); AugMix and
# Pipeline, which wrap other augmentation layers; and RandomElasticTransform, which displaces along one diagonal
# only and needs a known batch size (Keras 3.15; use `aug.elastic_alpha` instead).
TRAITS: Mapping[str, Traits] = {
    "Conv1D": Traits("window", "convolution", accepts_causal=True),
    "Conv2D": Traits("window", "convolution"),
    "Conv1DTranspose": Traits("transposed window", "transposed"),
    "Conv2DTranspose": Traits("transposed window", "transposed"),
    "DepthwiseConv1D": Traits("window", "depthwise"),
    "DepthwiseConv2D": Traits("window", "depthwise"),
    "SeparableConv1D": Traits("window", "separable"),
    "SeparableConv2D": Traits("window", "separable"),
    "Dense": Traits("features", "dense"),
    "EinsumDense": Traits("everything", "einsum"),
    "GRU": _RECURRENT,
    "LSTM": _RECURRENT,
    "SimpleRNN": _RECURRENT,
    "AveragePooling1D": _POOLING,
    "AveragePooling2D": _POOLING,
    "MaxPooling1D": _POOLING,
    "MaxPooling2D": _POOLING,
    "GlobalAveragePooling1D": _GLOBAL_POOLING,
    "GlobalAveragePooling2D": _GLOBAL_POOLING,
    "GlobalMaxPooling1D": _GLOBAL_POOLING,
    "GlobalMaxPooling2D": _GLOBAL_POOLING,
    "Activation": _ACTIVATION,
    "ELU": _ACTIVATION,
    "LeakyReLU": _ACTIVATION,
    "PReLU": _ACTIVATION,
    "ReLU": _ACTIVATION,
    "Softmax": Traits("axes", keeps_shape=True),
    "BatchNormalization": Traits("position", keeps_shape=True, mixes_batch=True, is_step=False),
    "GroupNormalization": Traits("everything", keeps_shape=True, is_step=False),
    "LayerNormalization": _NORMALIZATION,
    "RMSNormalization": _NORMALIZATION,
    "UnitNormalization": _NORMALIZATION,
    "ActivityRegularization": _NOISE,
    "AlphaDropout": _NOISE,
    "Dropout": _NOISE,
    "GaussianDropout": _NOISE,
    "GaussianNoise": Traits("position", augments=True, keeps_shape=True, is_inert=True, is_step=False),
    "SpatialDropout1D": _NOISE,
    "SpatialDropout2D": _NOISE,
    "Identity": _NOISE,
    "Rescaling": Traits("position", keeps_shape=True, is_step=False),
    "Flatten": Traits("reshaped", is_inert=True, is_step=False),
    "Reshape": Traits("reshaped", is_inert=True),
    "Permute": Traits("permuted"),
    "RepeatVector": Traits("everything"),
    "Cropping1D": Traits("cropped"),
    "Cropping2D": Traits("cropped"),
    "UpSampling1D": Traits("scaled"),
    "UpSampling2D": Traits("scaled"),
    "ZeroPadding1D": Traits("padded"),
    "ZeroPadding2D": Traits("padded"),
    "Add": _MERGE,
    "Average": _MERGE,
    "Concatenate": _MERGE,
    "Maximum": _MERGE,
    "Minimum": _MERGE,
    "Multiply": _MERGE,
    "AutoContrast": _AUGMENTATION,
    "Equalization": _AUGMENTATION,
    "RandAugment": _AUGMENTATION,
    "RandomBrightness": _AUGMENTATION,
    "RandomColorDegeneration": _AUGMENTATION,
    "RandomColorJitter": _AUGMENTATION,
    "RandomContrast": _AUGMENTATION,
    "RandomErasing": _AUGMENTATION,
    "RandomFlip": _AUGMENTATION,
    "RandomGaussianBlur": _AUGMENTATION,
    "RandomGrayscale": _AUGMENTATION,
    "RandomHue": _AUGMENTATION,
    "RandomInvert": _AUGMENTATION,
    "RandomPerspective": _AUGMENTATION,
    "RandomPosterization": _AUGMENTATION,
    "RandomRotation": _AUGMENTATION,
    "RandomSaturation": _AUGMENTATION,
    "RandomSharpness": _AUGMENTATION,
    "RandomShear": _AUGMENTATION,
    "RandomTranslation": _AUGMENTATION,
    "RandomZoom": _AUGMENTATION,
    "Solarization": _AUGMENTATION,
    # The first layer of every model, never an entry of a list.
    "InputLayer": Traits("position", listed=False, keeps_shape=True, is_inert=True, is_step=False),
}

# Conservative traits for any other layer; models that were not built from a config can contain one.
_UNKNOWN = Traits("everything", listed=False, mixes_batch=True)


def traits(layer: object) -> Traits:
    """Return the traits of a Keras layer, looked up by its class name."""
    return find_traits(type(layer).__name__) or _UNKNOWN


def find_traits(kind: str) -> Traits | None:
    """Return the traits of a layer type of Keras or of a plug-in; None if there is no such type."""
    if (own := registrations.find("layer", kind)) is not None:
        return Traits(**own.options)
    return _AUGMENTATION if registrations.find("augmentation", kind) else TRAITS.get(kind)
