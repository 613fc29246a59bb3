"""Labels of classes and groups: distinct, of limited length and, in pictures, in characters that can be drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.cells import cell_len

from mnist_exp.report.fonts import has_glyphs
from mnist_exp.text import escape_controls

LONGEST = 28
"""The default maximum width of a label, in columns: a Latin letter takes one, a Chinese character two."""


def class_labels(names: Sequence[str], columns: int = LONGEST) -> tuple[str, ...]:
    """Return a label of at most `columns` columns for each class name, in label order, as `cut_labels` does.

    Names with characters that no installed font has become `class 3`.
    """
    return cut_labels(
        [name if has_glyphs(name) else f"class {number}" for number, name in enumerate(names)], columns
    )


def cut_labels(names: Sequence[str], columns: int) -> tuple[str, ...]:
    """Return a label of at most `columns` columns for each name, with control characters escaped.

    Long names are cut at the end or at the start, or lose the start that all share, whichever keeps them distinct;
    otherwise their labels begin with the number of the name.
    """
    texts = [escape_controls(name, one_line=True) for name in names]
    prefix = next((at for at, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1), 0)
    cuts: tuple[Callable[[str, int], str], ...] = (
        _keep_start,
        _keep_end,
        lambda text, columns: _keep_start(f"…{text[prefix:]}", columns),
    )
    for cut in cuts:
        labels = tuple(cut(text, columns) for text in texts)
        if len(set(labels)) == len(set(texts)):
            return labels
    return tuple(
        text if cell_len(text) <= columns else _keep_start(f"{number}: {text}", columns)
        for number, text in enumerate(texts)
    )


def wrap_columns(text: str, columns: int) -> str:
    """Wrap a text at any character so that no line is wider than `columns` columns."""
    lines = [""]
    for character in text:
        if character == "\n" or cell_len(lines[-1] + character) > columns:
            lines.append("")
        lines[-1] += character.strip("\n")
    return "\n".join(lines)


def _keep_start(text: str, columns: int) -> str:
    if cell_len(text) <= columns:
        return text
    kept = text[:columns]
    while cell_len(kept) > columns - 1:
        kept = kept[:-1]
    return f"{kept}…"


def _keep_end(text: str, columns: int) -> str:
    if cell_len(text) <= columns:
        return text
    kept = text[-columns:]
    while cell_len(kept) > columns - 1:
        kept = kept[1:]
    return f"…{kept}"
