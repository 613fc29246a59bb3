"""Labels of classes in pictures."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from mnist_exp.report import class_labels as module
from mnist_exp.report import fonts
from mnist_exp.report.class_labels import class_labels, wrap_columns

COLOURS = ("red", "blue", "green", "yellow", "black", "white")


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        ([f"{colour}-bird-of-a-common-subspecies" for colour in COLOURS], 12),
        ([f"subspecies-of-a-common-{colour}" for colour in COLOURS], 12),
        ([f"subspecies-of-a-common-{colour}-bird-with-a-long-name" for colour in COLOURS], 12),
        (["x" * 50 + "a" + "y" * 50, "x" * 50 + "b" + "y" * 50], 14),
        (["ax" + "y" * 50 + "c", "ax" + "z" * 50 + "c", "bx" + "y" * 50 + "c", "bx" + "z" * 50 + "d"], 9),
        (["a_rather_long_class_name_x", "another_long_class_name_y"], 28),
        (["シマリス科の小さな動物", "シマリス科の大きな動物", "犬"], 10),
        (["a\x1b\n", "b"], 10),
    ],
)
def test_labels_are_short_and_distinct(names: list[str], columns: int, monkeypatch: pytest.MonkeyPatch):
    """No two classes have the same label, however long their names are and wherever they differ."""
    monkeypatch.setattr(module, "has_glyphs", lambda text: True)
    labels = class_labels(names, columns)
    assert len(set(labels)) == len(labels) == len(names)
    assert max(map(cell_len, labels)) <= columns
    assert all(label.isprintable() for label in labels)


def test_short_names_are_unchanged():
    """Only names that are too long are cut."""
    assert class_labels(["0", "cat", "größe"], 5) == ("0", "cat", "größe")


def test_without_a_font_classes_are_numbered(monkeypatch: pytest.MonkeyPatch):
    """A name with a character that no font has becomes its class number, with one warning."""
    warnings: list[str] = []
    monkeypatch.setattr(fonts, "warn", warnings.append)
    monkeypatch.setattr(fonts, "_installed_fonts", dict)
    for cached in (fonts.font_with, fonts._warn_of_missing_fonts):
        cached.cache_clear()
    try:
        assert class_labels(["犬", "cat", "猫"]) == ("class 0", "cat", "class 2")
        assert fonts.drawable("title 犬") == "title \\u72ac"
        assert len(warnings) == 1
    finally:
        for cached in (fonts.font_with, fonts._warn_of_missing_fonts):
            cached.cache_clear()


def test_wide_characters_take_two_columns():
    """Lines are as wide on paper as they are meant to be."""
    assert wrap_columns("犬猫犬猫ab", 4) == "犬猫\n犬猫\nab"
    assert wrap_columns("abc\nd", 2) == "ab\nc\nd"
