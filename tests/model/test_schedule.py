"""Learning rates, step by step."""

from __future__ import annotations

import numpy as np
import pytest

from mnist_exp.config.schema import ScheduleConfig
from mnist_exp.model.schedule import learning_rates


def rates(kind: str, warmup: float = 0, final: float = 0, steps: int = 10, epochs: int = 4) -> np.ndarray:
    config = ScheduleConfig(type=kind, warmup_epochs=warmup, final_fraction=1.0 if kind == "constant" else final)  # type: ignore[arg-type]
    return learning_rates(config, 0.5, steps, epochs)


def test_a_constant_rate_is_constant():
    """One value per step."""
    np.testing.assert_array_equal(rates("constant"), np.full(40, 0.5, np.float32))


def test_cosine_falls_to_its_final_fraction():
    """Monotonically, halfway at half time, and ends with the last step."""
    found = rates("cosine", final=0.1)
    assert (np.diff(found) < 0).all()
    assert found[19] == pytest.approx(0.5 * (0.1 + 0.9 / 2))
    assert found[-1] == pytest.approx(0.05)


def test_warmup_rises_to_the_base_rate():
    """Linearly, reached with its last step; fractions of epochs count."""
    found = rates("cosine", warmup=0.5)
    np.testing.assert_allclose(found[:5], 0.5 * np.arange(1, 6) / 5, rtol=1e-6)
    assert found.argmax() == 4
    assert len(rates("constant", warmup=4)) == 40
    assert rates("constant", warmup=4)[-1] == 0.5
