"""Conditions on runs and metrics: Python's syntax without its execution."""

from __future__ import annotations

import pytest

from mnist_exp.config.conditions import Condition

VALUES = {
    "val/accuracy": 0.995,
    "test/loss": 0.05,
    "model": "pyramid",
    "model.name": "pyramid",
    "data.from": "a",
    "tags": ["good", "old"],
    "training.ema": None,
    "debug.check_finite": True,
    "aug.layers.0.factor": 0.1,
    "aug.layers": [],
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("val/accuracy>0.99 and model.name=='pyramid'", True),
        ("val/accuracy>0.999 or test/loss<0.1", True),
        ("0.99 < val/accuracy < 0.999", True),
        ("not (val/accuracy>=0.99)", False),
        ('model=="mlp"', False),
        ("model in ['mlp', 'pyramid']", True),
        ("'good' in tags and 'new' not in tags", True),
        ("training.ema == null", True),
        ("debug.check_finite == true", True),
        ("data.from == 'a'", True),
        ("aug.layers[0].factor == 0.1", True),
        ("test/loss > -1", True),
        ("missing > 1", False),
        ("missing != 1", True),
        ("model > 1", False),
        ("1 in val/accuracy", False),
    ],
)
def test_a_condition_is_evaluated(text: str, holds: bool):
    """A missing value, or one of another type, satisfies only `!=`."""
    assert Condition.parse(text).holds(VALUES.get) is holds


@pytest.mark.parametrize(
    "text",
    [
        "", "val/accuracy>", "a = 1", "__import__('os').system('x')", "a.b()", "[x for x in a]", "lambda: 1", "a + 1 > 2",
        "a if b else c", "f'{a}' == 'b'", "a[b] > 1", "(a := 1)", "1/2 > 0", "a is b", "a > 1j", "b'x' == a",
        "(" * 300 + "a" + ")" * 300, "not " * 100 + "a", "a>0 and " * 70 + "a>0", "a" * 1001, "a > 1\nb",
    ],
)  # fmt: skip
def test_anything_else_is_refused(text: str):
    """Calls, arithmetic, and conditions that are too long or too deep do not reach the evaluation."""
    with pytest.raises(ValueError, match="^must "):
        Condition.parse(text)


def test_bounds_are_told_apart():
    """A top-level `and` joins several bounds, each with its text and metrics."""
    bounds = Condition.parse("val/accuracy>=0.99 and (test/loss<0.1 or test/f1>0.9)").conjuncts()
    assert [bound.text for bound in bounds] == ["val/accuracy >= 0.99", "test/loss < 0.1 or test/f1 > 0.9"]
    assert bounds[1].names == ["test/loss", "test/f1"]
