"""`result.json`: read from today's and earlier versions, and written without losing anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mnist_exp.runs.result import (
    RESULT,
    SCHEMA_VERSION,
    DataRecord,
    RunResult,
    parse_result,
    read_result,
    write_result,
)

SAMPLES = sorted((Path(__file__).parents[1] / "samples" / "outputs").glob("*/**/result.json"))


@pytest.mark.parametrize("file", SAMPLES, ids=lambda file: file.parent.name)
def test_results_of_earlier_versions_are_read_and_rewritten_whole(file: Path, tmp_path: Path):
    """Every key and value is kept when a file without a schema version is written again."""
    result = read_result(file.parent)
    assert result is not None
    assert result.schema_version == 0
    write_result(tmp_path, result)
    assert (tmp_path / RESULT).read_text() == file.read_text()


def test_a_result_is_written_with_its_version_and_what_is_known(tmp_path: Path):
    """Unknown fields are left out, and assigned ones are written."""
    result = RunResult(schema_version=SCHEMA_VERSION, started=1.5, status="running", data=DataRecord(name="mnist"))
    result.epochs = 2
    write_result(tmp_path, result)
    assert json.loads((tmp_path / RESULT).read_text()) == {
        "schema_version": SCHEMA_VERSION, "started": 1.5, "status": "running", "data": {"name": "mnist"}, "epochs": 2,
    }  # fmt: skip
    assert read_result(tmp_path) == result


def test_keys_of_later_versions_are_kept(tmp_path: Path):
    """A later version may have written the file."""
    values = {"schema_version": 99, "started": 1, "status": "finished", "data": {"colour": "grey"}, "new": [1]}
    (tmp_path / RESULT).write_text(json.dumps(values))
    result = read_result(tmp_path)
    assert result is not None
    result.ended = 2.0
    write_result(tmp_path, result)
    assert json.loads((tmp_path / RESULT).read_text()) == {**values, "ended": 2.0}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"started": 1, "status": 3, "data": {}}', '{"started": 1, "status": "finished", "data": 1}',
     '{"started": 1, "status": "finished", "data": {}, "epochs": "two"}'],
)  # fmt: skip
def test_a_damaged_result_is_an_error_with_its_path(tmp_path: Path, text: str):
    """Truncated files and values of the wrong type are refused."""
    (tmp_path / RESULT).write_text(text)
    with pytest.raises(ValueError, match=f"{RESULT}: damaged"):
        read_result(tmp_path)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"seconds": {}}, None),  # was killed at once, or is of a version that recorded them at the end only
        ({"seconds": {"start": 5.0, "data": 2.0, "training": 3.0, "total": 11.0}}, 4.0),
        ({"seconds": {"total": 11.0}, "resumed": [{}], "earlier_seconds": 4.0}, 15.0),
        ({"seconds": {"total": 11.0}, "resumed": [{}], "earlier_seconds": None}, None),
    ],
)
def test_seconds_are_the_sum_of_what_processes_measured(fields: dict[str, Any], expected: float | None):
    """Without start-up and reading data, whatever the system's clock says: it was set back here."""
    result = parse_result({"started": 1000, "ended": 900.0, "status": "finished", "data": {}, **fields})
    assert result.training_seconds == expected


def test_no_file_is_no_result(tmp_path: Path):
    """A sweep's directory has no result."""
    assert read_result(tmp_path) is None


@pytest.mark.parametrize(
    ("record", "title"),
    [
        (DataRecord(name="mnist"), "mnist"),
        (DataRecord(name="digits", stands_in_for="mnist"), "digits, the fallback for mnist"),
        (DataRecord(), "unknown data"),
        (DataRecord(stands_in_for="mnist"), "unknown data, the fallback for mnist"),
    ],
)
def test_data_has_a_title(record: DataRecord, title: str):
    """This holds for data whose name a damaged result has lost."""
    assert record.title == title
