"""Runs are deleted in MLflow only if they are those of the directory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from support.journals import write_run

from mnist_exp.runs.journal import first_run, read
from mnist_exp.tracking import removal


def test_a_result_cannot_name_another_run_for_deletion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A directory from elsewhere may have the id of another run of this user."""
    folder = write_run(tmp_path / "outputs/runs/shared", None)
    own = first_run(read(folder))
    assert own is not None
    runs = {"mine": "another key", "shared": own.key}
    deleted: list[str] = []
    client = SimpleNamespace(
        get_run=lambda number: SimpleNamespace(data=SimpleNamespace(tags={"mnist_exp.key": runs[number]})),
        delete_run=deleted.append,
    )
    monkeypatch.setattr(removal, "connect", lambda uri: client)
    with pytest.raises(ValueError, match="mine"):
        removal.delete_run(folder, "mine")
    assert deleted == []
    removal.delete_run(folder, "shared")
    assert deleted == ["shared"]
