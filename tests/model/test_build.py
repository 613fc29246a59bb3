"""From a layer list to a Keras model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.golden import Golden

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.engine.keras_check import check
from mnist_exp.errors import RequestError
from mnist_exp.model.build import build
from mnist_exp.model.preprocessing import Statistics, statistics

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 1), np.uint8)


def config(*overrides: str) -> TrainConfig:
    return compose_checked(Request("train", overrides), TrainConfig)[0]


def model(*overrides: str, precision: str = "float32", found: Statistics | None = None) -> Any:
    return build(config(*overrides), found or Statistics(), precision)


def problems(*overrides: str) -> list[str]:
    with pytest.raises(RequestError) as caught:
        check(*compose_checked(Request("train", overrides), TrainConfig))
    return [problem.message for problem in caught.value.problems]


@pytest.mark.parametrize(("name", "parameters"), [("linear", 7_850), ("pyramid", 8_858), ("lenet5x5", 179_882)])
def test_the_models_have_their_parameters(name: str, parameters: int):
    """Preprocessing adds no parameters."""
    assert model(f"model={name}").count_params() == parameters
    assert model(f"model={name}", "preprocess=standardize").count_params() == parameters


def test_the_pyramid_is_what_it_says():
    """It has strips, separable convolutions and no dense layer; all convolutions but the last have ReLU."""
    layers = model("model=pyramid").layers[2:]
    assert [type(layer).__name__ for layer in layers] == [
        "Conv2D", "Conv2D", "MaxPooling2D", "SeparableConv2D", "SeparableConv2D", "MaxPooling2D", "Conv2D",
        "GlobalAveragePooling2D", "Softmax",
    ]  # fmt: skip
    convolutions = [layer for layer in layers if "Conv" in type(layer).__name__]
    assert [layer.kernel_size for layer in convolutions] == [(7, 1), (1, 7), (3, 3), (3, 3), (1, 1)]
    assert [layer.activation.__name__ for layer in convolutions] == ["relu"] * 4 + ["linear"]


def test_a_null_entry_is_left_out():
    """The model is the same as without the entry."""
    assert len(model("model.layers.6=null").layers) == len(model().layers) - 1


def test_layers_are_named_as_in_a_fresh_process():
    """Names do not depend on models built before."""
    names = [layer.name for layer in model("model=pyramid").layers]
    assert names == [layer.name for layer in model("model=pyramid").layers]
    assert names[:5] == ["pixels", "preprocess", "conv2d", "conv2d_1", "max_pooling2d"]
    assert "separable_conv2d_1" in names


def test_the_model_takes_raw_pixels_of_any_type():
    """uint8, int32 and float32 pixels give bit-identical results."""
    net = model("model=pyramid")
    by_type = [net.predict_on_batch(IMAGES.astype(dtype)) for dtype in ("uint8", "int32", "float32")]
    assert np.array_equal(by_type[0], by_type[1])
    assert np.array_equal(by_type[0], by_type[2])


def test_initial_weights_follow_from_the_seed():
    """They do not depend on models built before."""
    first, again, other = model("seed=3"), model("seed=3"), model("seed=4")
    for a, b, c in zip(first.get_weights(), again.get_weights(), other.get_weights(), strict=True):
        assert np.array_equal(a, b)
        assert a.ndim == 1 or not np.array_equal(a, c)


def test_half_precision_keeps_weights_and_output_whole():
    """Computations are in bfloat16, weights and probabilities in float32."""
    net = model("model=pyramid", precision="bfloat16")
    assert {str(weight.dtype) for weight in net.weights} == {"float32"}
    assert net.layers[2].compute_dtype == "bfloat16"
    probabilities = net.predict_on_batch(IMAGES)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_statistics_are_those_of_all_pixels():
    """Mean and standard deviation equal NumPy's."""
    standardize = config("preprocess=standardize").preprocess
    found = statistics(np.concatenate([IMAGES] * 700), standardize)
    assert found.mean == pytest.approx(IMAGES.mean(), rel=1e-12)
    assert found.std == pytest.approx(IMAGES.std(), rel=1e-12)
    assert statistics(np.zeros((3, 2, 2, 1), np.uint8), standardize) == Statistics(0.0, 1.0)


def test_standardized_inputs_have_mean_0_and_variance_1():
    """The model's first layer standardizes them."""
    net = model("preprocess=standardize", found=statistics(IMAGES, config("preprocess=standardize").preprocess))
    values = np.asarray(net.get_layer("preprocess")(IMAGES.astype("float32")))
    assert values.mean() == pytest.approx(0, abs=1e-5)
    assert values.std() == pytest.approx(1, abs=1e-5)


def test_unit_inputs_are_0_to_1():
    """Black becomes 0 and white 1."""
    layer = model().get_layer("preprocess")
    values = np.asarray(layer(np.array([0, 255], "float32").reshape(1, 1, 2, 1)))
    np.testing.assert_allclose(values.ravel(), [0, 1], atol=1e-7)


@pytest.mark.parametrize(
    ("overrides", "places"),
    [
        (["+model.layers.0.fliters=3"], ["model.layers.0.fliters:"]),
        (["model.layers.1=MaxPoling2D"], ["model.layers.1.type:"]),
        (["model.layers.1={type:Conv2D,filters:3}"], ["model.layers.1:"]),
        (["model.layers.0=7"], ["model.layers.0:"]),
        (["model.layers.0.padding=sam"], ["model.layers.0.padding:"]),
        (["model.layers.0.activation=rleu"], ["model.layers.0.activation:"]),
        (["model.layers.1=Lambda"], ["model.layers.1.type:"]),
        (["model=pyramid", "model.layers.6.kernel_size=9"], ["model.layers.6:"]),
        (["model.layers.9.units=7"], ["model.layers:"]),
        (["model.layers.10=null"], ["model.layers:"]),
        (["model.layers.7=null"], ["model.layers:"]),
        (["optimizer.type=Adamm"], ["optimizer.type:"]),
        (["+optimizer.momentun=0.9", "optimizer=sgd"], ["optimizer.momentun:"]),
        (["training.loss=sparse_categorical_crossentropi"], ["training.loss:"]),
        (["training.metrics=[categorical_accuracy]"], ["training.metrics.0:"]),
        (["training.metrics=[precision]"], ["training.metrics.0:"]),
        (["training.loss=categorical_crossentropy", "training.metrics=[f1_score]"], ["training.metrics.0:"]),
        (["training.loss=categorical_crossentropy", "training.metrics=[accuracy]"], ["training.metrics.0:"]),
        (["+optimizer.beta_1=abc"], ["optimizer.beta_1:"]),
        (["+model.layers.0.name=out put"], ["model.layers.0.name:"]),
        (["model.layers.1=Bidirectional"], ["model.layers.1.type:"]),
        (["training.loss=ctc"], ["training.loss:"]),
        (["+optimizer.use_ema=true"], ["optimizer.use_ema:"]),
        (["+model.layers.0.name=same", "+model.layers.2.name=same"], ["model.layers:"]),
        (["training.metrics=[acuracy]"], ["training.metrics.0:"]),
        (["training.select.metric=val/f1"], ["training.select.metric:"]),
        (["+model.layers.0.fliters=3", "model.layers.1=MaxPoling2D", "optimizer.type=Adamm"], ["model.layers.0.fliters:", "model.layers.1.type:", "optimizer.type:"]),
    ],
)  # fmt: skip
def test_layers_and_objectives_are_checked_with_keras(overrides: list[str], places: list[str], golden: Golden):
    """Each problem is reported once, at the key that an override would change."""
    found = sorted(problems(*overrides))
    assert [f"{text.partition(':')[0]}:" for text in found] == sorted(places)
    golden("\n".join(found))


def test_a_right_model_passes():
    """The built-in models pass with all combinations of preprocessing and optimizer."""
    for name in ("linear", "pyramid", "lenet5x5"):
        for more in (["preprocess=standardize", "optimizer=sgd"], ["preprocess=unit", "optimizer=adam"]):
            check(*compose_checked(Request("train", (f"model={name}", *more)), TrainConfig))


@pytest.mark.parametrize("kind", ["Adam", "AdamW", "Muon"])
def test_no_weight_decay_is_none(kind: str):
    """`weight_decay: null` turns decay off for every optimizer, even if Keras' default is not 0."""
    made = model(f"optimizer.type={kind}", "optimizer.weight_decay=null").optimizer
    assert not made.weight_decay
    assert model(f"optimizer.type={kind}", "optimizer.weight_decay=0.01").optimizer.weight_decay == 0.01
