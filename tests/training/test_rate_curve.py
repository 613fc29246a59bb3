"""The learning rate range test: its steps, its end, and its proposal."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.data.dataset import Dataset
from mnist_exp.data.formats import find, prepare
from mnist_exp.model.build import build
from mnist_exp.model.preprocessing import statistics
from mnist_exp.training.distillation import load_teacher
from mnist_exp.training.loop import Snapshot, fit
from mnist_exp.training.rate_curve import RateCurve, Values, propose_rate, record_curve, rising_rates

# All settings that change what a step computes.
NET = (
    "data=digits", "data.limit=300", "training.batch_size=64", "aug=rotate45", "aug.mixup=0.3", "optimizer=adamw",
    "training.loss=categorical_crossentropy", "training.label_smoothing=0.1", "training.class_weight={3:5.0}",
    "model=linear", "model.layers=[{type: Dropout, rate: 0.3}, Flatten, {type: Dense, units: 8, activation: relu},"
    " BatchNormalization, {type: Dense, units: 10, kernel_regularizer: l2}, Softmax]",
)  # fmt: skip
RATES = rising_rates(1e-6, 1, 100)


def setting(*overrides: str) -> tuple[TrainConfig, Dataset]:
    config, _ = compose_checked(Request("train", overrides), TrainConfig)
    return config, prepare(find(config.data, print), config.data)


def fresh(config: TrainConfig, data: Dataset) -> object:
    return build(config, statistics(data.train.images, config.preprocess), "float32")


def record(rates: Values, *overrides: str) -> RateCurve:
    config, data = setting(*overrides)
    return record_curve(fresh(config, data), data, config, rates)


def falling(middle: float, *, width: float = 0.4, from_: float = 2.3, to: float = 0.3) -> Values:
    """Return losses over `RATES` that fall along a sigmoid, most steeply at the rate `middle`; without noise."""
    decades = np.log10(RATES / middle)
    return to + (from_ - to) / (1 + np.exp(decades / width))


def noisy(losses: Values, seed: int = 0) -> Values:
    return losses + np.random.default_rng(seed).normal(0, 0.05, len(losses))


@pytest.mark.parametrize("more", [(), ("aug.until=0.5",), ("debug.max_steps=3",), ("teacher=teacher.keras",)])
def test_the_steps_are_those_of_training(more: tuple[str, ...]):
    """At a constant rate, the weights and the optimizer's state are those of a training, bit for bit.

    With `debug.max_steps`, an epoch has fewer steps. `aug.until` concerns the end of a training, so it is ignored.
    """
    layers = [keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    keras.Sequential(layers).save("teacher.keras")
    config, data = setting(*NET, *more, "optimizer.learning_rate=0.003", "training.epochs=2")
    teacher = load_teacher(config, "float32")
    plain = config.model_copy(update={"aug": config.aug.model_copy(update={"until": None})})
    trained, tested = fresh(config, data), fresh(config, data)
    steps = 2 * (3 if config.debug.max_steps else math.ceil(len(data.train) / 64))
    fit(trained, data, plain, teacher=teacher)
    curve = record_curve(tested, data, config, np.full(steps, 0.003), teacher=teacher)
    assert len(curve.losses) == steps > 4
    ours, theirs = Snapshot.of(tested), Snapshot.of(trained)
    for array, expected in zip([*ours.model, *ours.optimizer], [*theirs.model, *theirs.optimizer], strict=True):
        np.testing.assert_array_equal(array, expected)


def test_each_step_has_its_rate_and_its_loss():
    """The first loss is that of the initial weights, and a step at a negligible rate changes nothing."""
    rates = np.array([1e-12, 1e-12, 0.1, 1e-12])
    config, data = setting(
        "data=digits", "data.limit=30", "training.batch_size=64", "model=linear", "optimizer=sgd"
    )
    curve = record_curve(fresh(config, data), data, config, rates)
    assert curve.losses[0] == pytest.approx(curve.losses[1], abs=1e-6)
    assert curve.losses[1] == pytest.approx(curve.losses[2], abs=1e-6)
    assert curve.losses[3] < curve.losses[2] - 0.01


def test_the_test_ends_when_the_loss_diverges():
    """The steps at higher rates are not taken."""
    steps: list[None] = []
    config, data = setting("data=digits", "data.limit=300", "model=mlp")
    curve = record_curve(fresh(config, data), data, config, rising_rates(1e-4, 10, 50), lambda: steps.append(None))
    assert curve.ending == "diverged"
    assert len(steps) == len(curve.losses) < 45
    assert curve.losses[-1] > 4 * curve.smoothed.min()
    calm = record(rising_rates(1e-6, 1e-5, 20), "data=digits", "data.limit=300", "model=mlp")
    assert (calm.ending, len(calm.losses)) == ("completed", 20)


def test_the_test_ends_when_the_loss_is_not_a_number():
    """The curve has only finite losses."""
    layers = (
        "model.layers=[Flatten, {type: Dense, units: 10, kernel_initializer: zeros}, {type: Rescaling, scale: 1e30},"
        " Softmax]"
    )
    curve = record(RATES, "data=digits", "data.limit=300", "model=linear", "optimizer=sgd", layers)
    assert curve.ending == "not_finite"
    assert curve.losses == pytest.approx([math.log(10)])


def test_a_negative_loss_does_not_count_as_divergence():
    """A loss that falls from −0.3 to −0.9 is lower than four times its minimum at each step."""
    words = ("data=digits", "data.limit=300", "model=linear", "training.loss=cosine_similarity")
    curve = record(rising_rates(1e-5, 0.1, 40), *words)
    assert curve.ending == "completed"
    assert curve.losses[-1] < -0.5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("middle", [1e-4, 1e-3, 1e-2])
def test_the_rate_of_the_steepest_fall_is_proposed(middle: float, seed: int):
    """Smoothing neither shifts it nor lets noise decide, and the rise at higher rates does not matter."""
    losses = noisy(falling(middle), seed)
    losses[90:] = np.geomspace(0.3, 1e9, 10)
    proposal = propose_rate(RateCurve(RATES, losses, "diverged"))
    assert proposal.rate == pytest.approx(middle, rel=0.5)
    assert proposal.rate == float(f"{proposal.rate:.2g}")
    assert proposal.tenth_of_lowest is not None
    assert middle / 10 < proposal.tenth_of_lowest <= 0.03
    assert proposal.reason == ""


def test_a_huge_loss_after_the_fall_does_not_hide_it():
    """Losses after the lowest are capped before they are smoothed."""
    losses = noisy(falling(1e-2, width=0.2))
    losses[74:] = 1e6
    assert propose_rate(RateCurve(RATES, losses, "diverged")).rate == pytest.approx(1e-2, rel=0.3)


@pytest.mark.parametrize("steps", [30, 100])
def test_noise_is_not_taken_for_a_fall(steps: int):
    """Of 200 curves of noise, at most two have a proposal."""
    rates = rising_rates(1e-6, 1, steps)
    curves = [RateCurve(rates, noisy(np.full(steps, 2.3), seed), "completed") for seed in range(200)]
    assert sum(propose_rate(curve).rate is not None for curve in curves) <= 2


@pytest.mark.parametrize(
    ("losses", "ending", "advice"),
    [
        (np.full(100, 2.3), "completed", "find.high"),  # constant
        (noisy(np.full(100, 2.3)), "completed", "debug=overfit"),  # only noise
        (noisy(falling(1e-3, to=2.25)), "completed", "debug=overfit"),  # a fall within the noise
        (np.geomspace(2.3, 30, 10), "diverged", "lower find.low"),
        (np.array([2.3]), "not_finite", "lower find.low"),
        # it diverged only after many steps, so lower rates would not help
        (np.append(noisy(np.full(60, 2.3)), 20.0), "diverged", "raise find.steps or training.batch_size"),
        (noisy(falling(1e-6)), "completed", "lower find.low"),
        (noisy(falling(3.0)), "completed", "raise find.high"),
        (noisy(falling(0.3)), "completed", "raise find.high"),
        (falling(1e-2)[:67], "not_finite", "raise find.steps"),
    ],
)
def test_without_a_clear_fall_there_is_no_proposal(losses: Values, ending: str, advice: str):
    """The reason says which settings to change."""
    proposal = propose_rate(RateCurve(RATES, losses, ending))  # type: ignore[arg-type]
    assert proposal.rate is None
    assert proposal.tenth_of_lowest is None
    assert advice in proposal.reason
