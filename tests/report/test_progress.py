"""Progress bars in a terminal; without one, a line every few seconds."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mnist_exp.report import progress
from mnist_exp.report.progress import TrainingDisplay, images_bar


def test_the_bar_says_that_the_graph_is_being_built(monkeypatch: pytest.MonkeyPatch):
    """Until the first steps are done, there is no count; then the epoch and the steps are shown."""
    file = io.StringIO()
    console = Console(file=file, width=120, force_terminal=True, color_system=None)
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    with TrainingDisplay(epochs=3) as display:
        display._bar.refresh()
        before = file.getvalue()
        display.on_steps(1, 20, 47, {"loss": 0.5, "accuracy": 0.9})
        display._bar.refresh()
    assert "building the graph" in before
    assert "0/?" not in file.getvalue()
    assert "epoch 1/3" in file.getvalue().removeprefix(before)
    assert "20/47" in file.getvalue()


def test_lines_report_progress(monkeypatch: pytest.MonkeyPatch):
    """At most one every few seconds; short tasks print nothing."""
    seconds = iter([0.0, 1.0, 6.0, 7.0, 12.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    lines: list[str] = []
    with images_bar("reading", 5000, lines.append) as advance:
        for _ in range(4):
            advance(1000)
    assert lines == ["reading: 2,000 of 5,000 images", "reading: 4,000 of 5,000 images"]
