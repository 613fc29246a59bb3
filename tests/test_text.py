"""Figures in messages."""

from __future__ import annotations

import ast
import json
import logging
import math
import re
from pathlib import Path

import numpy as np
import pytest

import mnist_exp
from mnist_exp.data.dataset import Part
from mnist_exp.engine.accuracy_warnings import report_guessing, report_imprecise
from mnist_exp.report.progress import format_epoch
from mnist_exp.sweeps.comparison import _format_number
from mnist_exp.text import as_json, format_loss


@pytest.mark.parametrize(
    ("loss", "text"),
    [(0.05123, "0.0512"), (-0.5, "-0.5000"), (1234.5678, "1234.57"), (1e20, "1e+20"), (3.40282e38, "3.40282e+38"),
     (math.inf, "inf"), (math.nan, "nan")],
)  # fmt: skip
def test_large_losses_are_in_scientific_notation(loss: float, text: str):
    """Wherever one is printed: 1e20 would fill a line with digits that mean nothing."""
    assert format_loss(loss) == text
    row = {"epoch": 1, "train/loss": loss, "train/accuracy": 0.5, "val/loss": loss, "val/accuracy": 0.5,
           "learning_rate": 0.1, "seconds": 1}  # fmt: skip
    assert f"train {text} 50.00 %  val {text} 50.00 %" in format_epoch(row, 1, True)
    assert _format_number(loss, "val/loss") == text


@pytest.mark.parametrize(
    ("accuracy", "images", "warned"), [(0.0, 1, True), (1.0, 1, True), (1.0, 20, False), (0.5, 92, True), (0.5, 93, False)]
)  # fmt: skip
def test_an_accuracy_of_very_few_images_carries_a_warning(
    caplog: pytest.LogCaptureFixture, accuracy: float, images: int, warned: bool
):
    """If half its 95 % interval is wider than 10 points, so that not even its first digit is certain."""
    report_imprecise(accuracy, images)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warned
    assert "data.limit" not in caplog.text
    report_imprecise(accuracy, images, epochs=9, limited=True)
    assert ("data.limit" in caplog.text) == ("best of 9 epochs" in caplog.text) == warned


@pytest.mark.parametrize(("right", "warns"), [(0, True), (20, True), (27, True), (28, False), (40, False)])
def test_a_model_that_may_as_well_guess_is_reported(caplog: pytest.LogCaptureFixture, right: int, warns: bool):
    """Its accuracy says little if always predicting the most frequent class is in its 95 % interval (by hand: Wilson's
    lower bound of 27 of 60 is 33.1 %, and that of 28 of 60 is 34.6 %)."""
    part = Part(np.zeros((60, 1, 1, 1), np.uint8), np.repeat([1, 0, 2], 20))
    with caplog.at_level(logging.WARNING):
        report_guessing(float(np.float32(right / 60)), part, ("leaf", "shell", "stone"))
    assert ("predicting the same class, which would give a validation accuracy of 33.33 %" in caplog.text) == warns


@pytest.mark.parametrize(("right", "warns"), [(30, True), (32, False)])
def test_the_best_of_many_epochs_must_be_better(caplog: pytest.LogCaptureFixture, right: int, warns: bool):
    """With 20 epochs, the bound at a level of 99.75 % counts (by hand: 31.8 % for 30 of 60, 34.7 % for 32 of 60)."""
    part = Part(np.zeros((60, 1, 1, 1), np.uint8), np.repeat([1, 0, 2], 20))
    report_guessing(right / 60, part, ("leaf", "shell", "stone"), [{"train/accuracy": 0.5}] * 20)
    assert bool(caplog.records) == warns


def test_a_model_that_is_worse_than_guessing_is_reported(caplog: pytest.LogCaptureFixture):
    """This holds even if, after that many epochs, a perfect model would not be clearly better."""
    part = Part(np.zeros((50, 1, 1, 1), np.uint8), np.repeat([0, 1], [45, 5]))
    report_guessing(0.3, part, ("leaf", "shell"), [{"train/accuracy": 0.3}] * 50)
    assert "always predicting leaf" in caplog.text


@pytest.mark.parametrize(
    ("trained", "advice"), [(0.94, "rose to 94.00 %, it needs more images"), (0.5, "more steps (")]
)
def test_the_advice_depends_on_the_training_accuracy(
    caplog: pytest.LogCaptureFixture, trained: float, advice: str
):
    """More steps do not help a model that has learnt its training images by heart."""
    part = Part(np.zeros((60, 1, 1, 1), np.uint8), np.repeat([1, 0, 2], 20))
    report_guessing(
        1 / 3, part, ("leaf", "shell", "stone"), [{"train/accuracy": 0.4}, {"train/accuracy": trained}]
    )
    assert advice in caplog.text
    assert "another model, such as mini_vgg" in caplog.text


@pytest.mark.parametrize(
    ("losses", "advice"),
    [([0.9], "more steps ("), ([1.1, 1.0, 0.9], "more steps ("), ([1.0, 0.9, 1.1], "more images"),
     ([*[1.0] * 8, 0.9, 1.0], "more steps ("), ([*[1.0] * 7, 0.9, 1.0, 1.0], "more images")],
)  # fmt: skip
def test_a_model_that_still_improves_needs_more_steps(
    caplog: pytest.LogCaptureFixture, losses: list[float], advice: str
):
    """Then a high training accuracy is no sign of overfitting. A model is not recommended instead of itself."""
    part = Part(np.zeros((60, 1, 1, 1), np.uint8), np.repeat([1, 0, 2], 20))
    history = [{"train/accuracy": 0.9, "val/loss": loss} for loss in losses]
    report_guessing(1 / 3, part, ("leaf", "shell", "stone"), history, "mini_vgg")
    assert advice in caplog.text
    assert "another model" in caplog.text
    assert "such as mini_vgg" not in caplog.text


@pytest.mark.parametrize(("labels", "accuracy"), [([0] * 27 + [1] * 3, 1.0), ([0] * 5, 1.0), ([0] * 5, 0.2)])
def test_too_few_images_to_tell_are_not_blamed_on_the_model(
    caplog: pytest.LogCaptureFixture, labels: list[int], accuracy: float
):
    """Here, even a perfect model is not clearly better than always predicting the most frequent class."""
    part = Part(np.zeros((len(labels), 1, 1, 1), np.uint8), np.array(labels))
    report_guessing(accuracy, part, ("leaf", "shell"))
    assert not caplog.records


def message_texts(file: Path) -> list[str]:
    """Return the texts in a module, without docstrings; in f-strings, a 0 replaces each expression."""
    texts = []

    class Reader(ast.NodeVisitor):
        def visit_Expr(self, node: ast.Expr) -> None:
            if not isinstance(node.value, ast.Constant):
                self.generic_visit(node)

        def visit_Constant(self, node: ast.Constant) -> None:
            texts.append(str(node.value))

        def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
            texts.append(
                "".join(str(part.value) if isinstance(part, ast.Constant) else "0" for part in node.values)
            )

    Reader().visit(ast.parse(file.read_text(encoding="utf-8")))
    return texts


def test_overrides_with_brackets_in_messages_are_quoted():
    """As for a shell such as zsh, which takes bare brackets for a pattern."""
    package = Path(mnist_exp.__file__).parent
    values = {package / "api.py", package / "tracking" / "run_description.py"}  # an argument; a comment in Python
    bare = re.compile(r"(?:^|(?<=[\s(;`]))\+*[a-z_]+(?:\.[a-z_]+)*=[\[{(]")
    texts = [text for file in package.rglob("*.py") if file not in values for text in message_texts(file)]
    texts += [file.read_text(encoding="utf-8") for file in Path("conf/hydra/help").glob("*.yaml")]
    assert not [text for text in texts if bare.search(text)]


def test_percentages_have_a_space_before_the_sign():
    """Everywhere, as in `98.90 %`."""
    texts = [text for file in Path(mnist_exp.__file__).parent.rglob("*.py") for text in message_texts(file)]
    assert not [text for text in texts if re.search(r"[0-9]%(?:$|[\s,;:.)])", text)]


def test_the_page_on_figures_names_tests_that_exist():
    """`docs/figures.md` names a test for each figure."""
    tests = Path(__file__).parent
    rows = (tests.parent / "docs/figures.md").read_text(encoding="utf-8").split("|---|")[-1].splitlines()[1:]
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, name in named:
            assert f"def {name}(" in (tests / file).read_text(encoding="utf-8"), name


def test_json_has_no_control_characters():
    """They are escaped in a way that JSON can read back, also those that reverse text."""
    values = {"a\u202eb": "\x1b[31m\x85\u2066é"}
    text = as_json(values)
    assert json.loads(text) == values
    assert not set(text) & set("\x1b\x85\u202e\u2066")
    assert "é" in text
