"""Learning rates of each step."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import ScheduleConfig, TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.data.formats import find, prepare
from mnist_exp.errors import RequestError
from mnist_exp.model.build import build
from mnist_exp.model.preprocessing import statistics
from mnist_exp.training.loop import fit
from mnist_exp.training.schedule import learning_rates

STEPS, EPOCHS, BASE = 10, 4, 0.5


def schedule(kind: str, *overrides: str) -> ScheduleConfig:
    request = Request("train", ("data=digits", f"schedule={kind}", *overrides))
    return compose_checked(request, TrainConfig)[0].schedule


def rates(kind: str, *overrides: str, steps: int = STEPS, epochs: int = EPOCHS) -> np.ndarray:
    return learning_rates(schedule(kind, *overrides), BASE, steps, epochs)


@pytest.mark.parametrize("kind", ["constant", "reduce_on_plateau"])
def test_a_constant_rate_is_constant(kind: str):
    """There is one value per step; plateau reductions are not known in advance."""
    np.testing.assert_array_equal(rates(kind), np.full(STEPS * EPOCHS, BASE, np.float32))


@pytest.mark.parametrize(
    ("kind", "halfway"), [("cosine", 0.1 + 0.9 / 2), ("linear", 0.1 + 0.9 / 2), ("exponential", 0.1**0.5)]
)
def test_decaying_rates_end_at_the_final_fraction(kind: str, halfway: float):
    """They start at the base rate and reach the final fraction one step after the last."""
    found = rates(kind, "schedule.final_fraction=0.1")
    assert len(found) == STEPS * EPOCHS
    assert found[0] == BASE
    assert (np.diff(found) < 0).all()
    assert found[STEPS * EPOCHS // 2] == pytest.approx(BASE * halfway)
    more = rates(kind, "schedule.final_fraction=0.1", steps=STEPS * EPOCHS * 1000, epochs=1)
    assert more[-1] == pytest.approx(BASE * 0.1, rel=1e-3)


@pytest.mark.parametrize("kind", ["constant", "cosine", "linear", "exponential", "one_cycle"])
def test_every_step_learns(kind: str):
    """This includes the first, the last and the only step, for rates that rise from 0 or fall to 0."""
    config = schedule(kind)
    final = 0.0 if kind in ("cosine", "linear", "one_cycle") else config.final_fraction
    for warmup in (0.0, 0.5, 1.0):
        changes = {"warmup_fraction": warmup, "initial_fraction": 0.0, "final_fraction": final}
        for steps in (1, 2, 3, 40, 100_000):
            found = learning_rates(config.model_copy(update=changes), BASE, steps, 1)
            assert len(found) == steps
            assert (found > 0).all()
            assert found.max() == pytest.approx(BASE)


@pytest.mark.parametrize("final", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["cosine", "linear", "exponential"])
def test_schedules_without_warmup_are_those_of_keras(kind: str, final: float):
    """They equal `CosineDecay`, `PolynomialDecay` and `ExponentialDecay` at the number of earlier steps."""
    total, final = STEPS * EPOCHS, final or (0.01 if kind == "exponential" else 0.0)
    of_keras = {
        "cosine": keras.optimizers.schedules.CosineDecay(BASE, total, alpha=final),
        "linear": keras.optimizers.schedules.PolynomialDecay(BASE, total, end_learning_rate=BASE * final),
        "exponential": keras.optimizers.schedules.ExponentialDecay(BASE, total, final),
    }[kind]
    expected = [float(of_keras(step)) for step in range(total)]
    np.testing.assert_allclose(
        rates(kind, f"schedule.final_fraction={final}"), expected, rtol=1e-5, atol=1e-6 * BASE
    )  # Keras computes in float32


def test_a_run_of_one_step_learns():
    """This includes schedules that end at 0."""
    config, _ = compose_checked(
        Request("train", ("data=digits", "data.limit=100", "model=linear", "schedule=cosine", "training.epochs=1",
                          "debug=one_batch")), TrainConfig,
    )  # fmt: skip
    data = prepare(find(config.data, print), config.data)
    model = build(config, statistics(data.train.images, config.preprocess), "float32")
    before = model.get_weights()
    fit(model, data, config)
    assert not any(np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True))


def test_their_shapes_differ():
    """A line lies on its chord, half a cosine at first above it, an exponential below."""
    chord = BASE * (1 - 0.9 * np.arange(40) / 40)
    np.testing.assert_allclose(rates("linear", "schedule.final_fraction=0.1"), chord, rtol=1e-6)
    assert (rates("cosine", "schedule.final_fraction=0.1")[1:19] > chord[1:19]).all()
    assert (rates("exponential", "schedule.final_fraction=0.1")[1:] < chord[1:]).all()


def test_warmup_rises_to_the_base_rate():
    """It rises linearly to its last step; its length may be in fractional epochs or a fraction of all steps."""
    found = rates("cosine", "schedule.warmup_epochs=0.5")
    np.testing.assert_allclose(found[:5], BASE * np.arange(1, 6) / 5, rtol=1e-6)
    assert found.argmax() == 4
    np.testing.assert_array_equal(found, rates("cosine", "schedule.warmup_fraction=0.125"))
    assert rates("constant", "schedule.warmup_epochs=4")[-1] == BASE
    begun = rates("constant", "schedule.warmup_epochs=4", "schedule.initial_fraction=0.2")
    assert begun[0] == pytest.approx(BASE * (0.2 + 0.8 / 40))


def test_one_cycle_goes_up_and_down():
    """It rises smoothly to the base rate in three tenths of the steps, then falls to almost 0."""
    found = rates("one_cycle")
    assert found.argmax() == 11
    assert found[11] == pytest.approx(BASE)
    assert (np.diff(found[:12]) > 0).all()
    assert (np.diff(found[11:]) < 0).all()
    assert found[-1] == pytest.approx(
        BASE * (1e-4 + (1 - 1e-4) * np.sin(np.pi / 58) ** 2)
    )  # of 29 steps down to 1e-4
    # Half a cosine: slow at both ends.
    rise = np.diff(found[:12])
    assert rise[0] < rise[5] > rise[-1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["schedule.warmup_epochs=1", "schedule.warmup_fraction=0.1"], "warmup_epochs=1 and warmup_fraction=0.1"),
        (["schedule=exponential", "schedule.final_fraction=0"], "final_fraction"),
        (["schedule=constant", "schedule.final_fraction=0.5"], "final_fraction: 1.0"),
        (["schedule=reduce_on_plateau", "schedule.plateau=null"], "plateau .*reduce_on_plateau"),
        (["schedule.type=reduce_on_plateau"], "plateau .*reduce_on_plateau"),
        (["schedule=reduce_on_plateau", "data.val_fraction=0"], "data.val_fraction is 0"),
        (["training.early_stopping.patience=2", "data.val_fraction=0"], "data.val_fraction is 0"),
    ],
)
def test_contradictory_schedules_are_refused(overrides: list[str], message: str):
    """The message names the keys that exclude each other."""
    with pytest.raises(RequestError, match=message):
        compose_checked(Request("train", ("data=digits", *overrides)), TrainConfig)
