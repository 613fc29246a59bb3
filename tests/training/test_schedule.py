"""Learning rates, step by step."""

from __future__ import annotations

import numpy as np
import pytest

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.errors import RequestError
from mnist_exp.training.schedule import learning_rates

STEPS, EPOCHS, BASE = 10, 4, 0.5


def rates(kind: str, *overrides: str) -> np.ndarray:
    request = Request("train", ("data=digits", f"schedule={kind}", *overrides))
    return learning_rates(compose_checked(request, TrainConfig)[0].schedule, BASE, STEPS, EPOCHS)


@pytest.mark.parametrize("kind", ["constant", "reduce_on_plateau"])
def test_a_constant_rate_is_constant(kind: str):
    """One value per step; what a plateau changes is not known beforehand."""
    np.testing.assert_array_equal(rates(kind), np.full(STEPS * EPOCHS, BASE, np.float32))


@pytest.mark.parametrize(
    ("kind", "halfway"), [("cosine", 0.1 + 0.9 / 2), ("linear", 0.1 + 0.9 / 2), ("exponential", 0.1**0.5)]
)
def test_what_falls_ends_at_its_final_fraction(kind: str, halfway: float):
    """Monotonically, as far as it should be at half time, and there with the last step."""
    found = rates(kind, "schedule.final_fraction=0.1")
    assert len(found) == STEPS * EPOCHS
    assert (np.diff(found) < 0).all()
    assert found[STEPS * EPOCHS // 2 - 1] == pytest.approx(BASE * halfway)
    assert found[-1] == pytest.approx(BASE * 0.1)


def test_their_shapes_differ():
    """A line lies on its chord, half a cosine above it at first, an exponential below."""
    chord = BASE * (1 - 0.9 * np.arange(1, 41) / 40)
    np.testing.assert_allclose(rates("linear", "schedule.final_fraction=0.1"), chord, rtol=1e-6)
    assert (rates("cosine", "schedule.final_fraction=0.1")[:18] > chord[:18]).all()
    assert (rates("exponential", "schedule.final_fraction=0.1")[:-1] < chord[:-1]).all()


def test_warmup_rises_to_the_base_rate():
    """Linearly, reached with its last step; fractions of epochs count, and shares of the training."""
    found = rates("cosine", "schedule.warmup_epochs=0.5")
    np.testing.assert_allclose(found[:5], BASE * np.arange(1, 6) / 5, rtol=1e-6)
    assert found.argmax() == 4
    np.testing.assert_array_equal(found, rates("cosine", "schedule.warmup_fraction=0.125"))
    assert rates("constant", "schedule.warmup_epochs=4")[-1] == BASE
    begun = rates("constant", "schedule.warmup_epochs=4", "schedule.initial_fraction=0.2")
    assert begun[0] == pytest.approx(BASE * (0.2 + 0.8 / 40))


def test_one_cycle_goes_up_and_down():
    """From a fraction to the base rate in three tenths of the training, smoothly, then down to almost nothing."""
    found = rates("one_cycle")
    assert found.argmax() == 11
    assert found[11] == pytest.approx(BASE)
    assert (np.diff(found[:12]) > 0).all()
    assert (np.diff(found[11:]) < 0).all()
    assert found[-1] == pytest.approx(BASE * 1e-4)
    # Half a cosine: slow at both ends.
    rise = np.diff(found[:12])
    assert rise[0] < rise[5] > rise[-1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["schedule.warmup_epochs=1", "schedule.warmup_fraction=0.1"], "both say how long the rate rises"),
        (["schedule=exponential", "schedule.final_fraction=0"], "never reaches 0"),
        (["schedule=constant", "schedule.final_fraction=0.5"], "a constant schedule has final_fraction: 1.0"),
        (["schedule=reduce_on_plateau", "schedule.plateau=null"], "plateau belongs to reduce_on_plateau"),
        (["schedule.type=reduce_on_plateau"], "plateau belongs to reduce_on_plateau"),
        (["schedule=reduce_on_plateau", "data.val_fraction=0"], "needs validation data"),
        (["training.early_stopping.patience=2", "data.val_fraction=0"], "needs validation data"),
    ],
)
def test_a_schedule_that_contradicts_itself_is_told(overrides: list[str], message: str):
    """Before anything is done."""
    with pytest.raises(RequestError, match=message):
        compose_checked(Request("train", ("data=digits", *overrides)), TrainConfig)
