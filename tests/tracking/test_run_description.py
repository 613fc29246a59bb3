"""The description of a run in MLflow."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from support.journals import of_type, write_run

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.runs.directory import RunDirectory
from mnist_exp.runs.events import RUN_ID, NoteEvent
from mnist_exp.runs.journal import read
from mnist_exp.runs.result import RunResult, read_result
from mnist_exp.tracking.mlflow_upload import Delivery
from mnist_exp.tracking.recorder import annotate
from mnist_exp.tracking.run_description import describe_run


def described(run: Path, *overrides: str) -> str:
    """Write what a finished run leaves, and return its description."""
    (run / "plots").mkdir(parents=True, exist_ok=True)
    (run / "plots" / "accuracy.png").write_bytes(b"")
    (run / "architecture.md").write_text("| the card |")
    result = {
        "status": "finished", "started": 1, "epochs": 3, "data": {}, "test": {"accuracy": 0.915},
        "best": {"epoch": 2, "val/accuracy": 0.9667}, "seconds": {"total": 12.34},
    }  # fmt: skip
    (run / "result.json").write_text(json.dumps(result))
    found = read_result(run)
    assert isinstance(found, RunResult)
    request = Request("train", ("data=digits", "model=linear", *overrides))
    return describe_run(run, found, compose_checked(request, TrainConfig)[0])


def test_a_finished_run_is_described():
    """The description has the result in one line, the command that repeats the run, its curve and the model summary."""
    run = Path.cwd() / "outputs/runs/it's"
    lines = described(run).splitlines()
    assert lines[0] == (
        "**test accuracy 91.50 %**, validation accuracy 96.67 %, 12.3 s, epoch 2 of 3, model linear"
    )
    [command] = [line for line in lines if line.startswith("mnist-exp")]
    done = subprocess.run(["sh", "-c", f"printf %s, {command}"], capture_output=True, text=True, check=True)
    assert done.stdout == "mnist-exp,from=outputs/runs/it's,"
    assert f"![Accuracy by epoch](get-artifact?path=plots/accuracy.png&run_uuid={RUN_ID})" in lines
    assert lines[-1] == "| the card |"


@pytest.mark.parametrize(
    ("override", "file"),
    [("save=[keras]", "model.keras"), ("save=[h5]", "model.h5"), ("save=[yaml]", "model.weights.h5"),
     ("save=[]", None), ("sweep.keep_models=best", None)],
)  # fmt: skip
def test_the_lines_that_load_the_model_name_a_file_that_is_kept(override: str, file: str | None):
    """They are valid Python."""
    text = described(Path.cwd() / "outputs/runs/a", override)
    code = text.split("```python\n")[1].split("```")[0]
    compile(code, "description", "exec")
    assert (f"outputs/runs/a/{file}" in code) == (file is not None)
    assert ("import" in code) == (file is not None)


def test_the_users_note_and_the_description_coexist(tmp_path: Path):
    """A new note replaces the earlier note only."""
    run = write_run(tmp_path / "run", enabled=False)
    for note, text in (("mine", "mine\n\na card"), ("other", "other\n\na card"), ("", "a card")):
        with RunDirectory.open(run) as directory:
            annotate(directory, None, note, wait_seconds=1)
        assert of_type(NoteEvent, read(run))[-1].text == text


def test_a_description_gets_its_runs_id(tmp_path: Path):
    """It is known at delivery."""
    delivery = Delivery(write_run(tmp_path / "run", enabled=False))
    delivery._client = MagicMock()
    delivery._deliver(NoteEvent(text=f"?run_uuid={RUN_ID}"), "abc")
    delivery._client.set_tag.assert_called_with("abc", "mlflow.note.content", "?run_uuid=abc")
