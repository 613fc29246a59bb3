"""Progress where there is no terminal: a line every few seconds."""

from __future__ import annotations

import pytest

from mnist_exp.report import progress
from mnist_exp.report.progress import images_bar


def test_lines_report_progress(monkeypatch: pytest.MonkeyPatch):
    """At most one every few seconds; short tasks print nothing."""
    seconds = iter([0.0, 1.0, 6.0, 7.0, 12.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    lines: list[str] = []
    with images_bar("reading", 5000, lines.append) as advance:
        for _ in range(4):
            advance(1000)
    assert lines == ["reading: 2,000 of 5,000 images", "reading: 4,000 of 5,000 images"]
