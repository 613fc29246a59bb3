"""Every problem has a stable code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from pydantic import BaseModel, Field, ValidationError

import mnist_exp
from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import check_request, code_of
from mnist_exp.errors import CODES


def test_every_problem_is_built_with_a_listed_code():
    """The code is a listed constant, or a variable whose type mypy checks."""
    built = 0
    for file in Path(mnist_exp.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Problem":
                built += 1
                code = node.args[0]
                assert not isinstance(code, ast.Constant) or code.value in CODES, f"{file}:{node.lineno}"
                assert isinstance(code, (ast.Constant, ast.Name)), f"{file}:{node.lineno}"
    assert built > 30


@pytest.mark.parametrize(
    ("override", "code", "path"),
    [
        ("traning.epochs=1", "unknown-key", "traning.epochs"),
        ("model=linera", "unknown-option", "model"),
        ("training.epochs=-1", "out-of-range", "training.epochs"),
        ("training.epochs=x", "wrong-type", "training.epochs"),
        ("device.kind=tpu", "unknown-option", "device.kind"),
        ("model.layers.0={type: Dens}", "unknown-layer", "model.layers.0.type"),
        ("++model.layers.0.unit=3", "unknown-argument", "model.layers.0.unit"),
        ("model.layers.0={type: Dense}", "missing-value", "model.layers.0"),
        ("model.layers.0.filters=x", "wrong-type", "model.layers.0.filters"),
        ("++model.layers.0.activation=rleu", "unknown-option", "model.layers.0.activation"),
        ("model.layers.0=3", "invalid-entry", "model.layers.0"),
        ("model.layers.1={type: Repeat, times: -1, layers: []}", "out-of-range", "model.layers.1.times"),
        ("aug.layers=[{type: RandomFlip, seed: 1}]", "unknown-argument", "aug.layers.0.seed"),
        ("optimizer.type=Adamm", "unknown-option", "optimizer.type"),
        ("training.metrics=[accuracy]", "given-twice", "training.metrics.0"),
        ("training.select.metric=val/f1", "unknown-option", "training.select.metric"),
        ("schedule.warmup_epochs=500", "contradiction", "schedule.warmup_epochs"),
        ("training.epochs=${nope}", "invalid-interpolation", "training.epochs"),
        ("training.epochs=1,2", "several-values", "training.epochs"),
        ("a==b={", "invalid-override", ""),
    ],
)
def test_codes(override: str, code: str, path: str):
    """A typical mistake of each kind has this code and path."""
    problems = check_request(Request("train", (override,)), TrainConfig).problems
    assert (code, path) in [(problem.code, problem.path) for problem in problems]


def test_pydantics_error_types_have_codes():
    """Errors of range are not mistaken for wrong types."""

    class Model(BaseModel):
        number: int = Field(gt=0, le=3)
        text: str = Field(min_length=1)

    with pytest.raises(ValidationError) as caught:
        Model.model_validate({"number": 4, "text": ""})
    assert {code_of(details["type"]) for details in caught.value.errors()} == {"out-of-range"}
    assert code_of("int_parsing") == "wrong-type"


@pytest.mark.parametrize(("override", "needs_keras"), [("model=linera", False), ("traning.epochs=1", True)])
def test_keras_is_not_needed_if_the_model_cannot_be_composed(override: str, needs_keras: bool):
    """Keras would check a model other than the intended one."""
    assert check_request(Request("train", (override,)), TrainConfig).needs_keras == needs_keras
