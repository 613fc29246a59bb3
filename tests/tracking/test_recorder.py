"""The records of runs, sweeps and searches in directories and journals."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.journals import of_type, write_run, write_sweep_run

from mnist_exp.config.schema import TrackingConfig
from mnist_exp.errors import Killed, Pruned, RequestError
from mnist_exp.report.sweep_progress import Watch
from mnist_exp.runs.directory import RunDirectory
from mnist_exp.runs.events import ArtifactEvent, EndEvent, Event, NoteEvent, ParamsEvent, ResumedEvent, RunEvent
from mnist_exp.runs.journal import IdempotentJournal, Journal, read
from mnist_exp.runs.result import DataRecord, ResumptionRecord, read_result
from mnist_exp.tracking.recorder import ReopenedRecording, RunRecording, add_artifacts
from mnist_exp.tracking.study_record import StudyRecord
from mnist_exp.tracking.sweep_record import SweepRecord, has_leaderboard

UNTRACKED = TrackingConfig.model_construct(enabled=False, experiment="e", uri=None, wait_seconds=1)
CONFIG = {"seed": 0, "model": {"name": "linear"}, "tracking": {"enabled": False}, "outputs": "outputs"}
ROWS = [
    {"epoch": 1, "train/loss": 2.0, "val/loss": 1.0, "val/accuracy": 0.5, "seconds": 0.25},
    {"epoch": 2, "train/loss": 1.0, "val/loss": 2.0, "val/accuracy": 0.25, "seconds": 0.5},
]
FOREIGN = b'{"kind": "confetti", "time": 1}\n'


def known() -> dict[str, Any]:
    data = DataRecord(name="digits", sha256="d" * 64, origin="here", shape=[8, 8, 1], images={"train": 9})
    return {"fingerprint": "f", "data": data, "overrides": ["seed=0"]}


def record_run(directory: RunDirectory, **more: Any) -> RunRecording:
    return RunRecording(directory, CONFIG, known(), UNTRACKED, **more)


def record_study(directory: Path) -> StudyRecord:
    (directory / ".claims").mkdir(exist_ok=True)  # as the study does
    return StudyRecord(directory, ["tune.trials=3"], UNTRACKED, {})


def kinds(folder: Path) -> list[str]:
    return [event.kind for event in read(folder)]


def test_a_preempted_job_is_not_a_failed_one(tmp_path: Path):
    """Submitit ends its worker with `SystemExit`, and starts the job again."""
    watch = Watch(tmp_path, 1, 0)
    with (
        pytest.raises(SystemExit),
        RunDirectory.create(tmp_path, "run") as directory,
        record_run(directory),
    ):
        raise SystemExit(144)
    result = read_result(directory.path)
    assert result is not None
    assert (result.status, result.reason) == ("interrupted", "preempted, queued again")
    [end] = of_type(EndEvent, read(directory.path))
    assert end.status == "KILLED"
    [line] = watch.list_ended()
    assert line == "run  preempted, queued again"


def test_a_run_is_recorded_from_start_to_end(tmp_path: Path):
    """Each epoch is in history, result and journal; the journal has no settings of trackers and folders."""
    with RunDirectory.create(tmp_path, "run") as directory:
        with record_run(directory) as record:
            record.epoch(ROWS[:1], 1)
            record.epoch(ROWS, 1)
            record.best(ROWS[0])
            record.test({"accuracy": 0.75})
            record.artifact("history.csv")
            record.seconds({"total": 3.0})
        path = directory.path
    written = [event.model_dump(exclude={"time", "key", "tags"}) for event in read(path)]
    assert written == [
        {"kind": "run", "name": "run", "experiment": "e", "enabled": False, "uri": None, "parent": None},
        {"kind": "params", "values": {"seed": "0", "model.name": "linear"}},
        {"kind": "dataset", "name": "digits", "sha256": "d" * 64, "source": "here", "shape": [8, 8, 1],
         "images": {"train": 9}},
        {"kind": "metrics", "step": 1, "values": {"train/loss": 2.0, "val/loss": 1.0, "val/accuracy": 0.5,
                                                  "time/epoch": 0.25}},
        {"kind": "metrics", "step": 2, "values": {"train/loss": 1.0, "val/loss": 2.0, "val/accuracy": 0.25,
                                                  "time/epoch": 0.5}},
        {"kind": "metrics", "step": 1, "values": {"best/epoch": 1, "best/val/loss": 1.0, "best/val/accuracy": 0.5}},
        {"kind": "metrics", "step": 1, "values": {"test/accuracy": 0.75}},
        {"kind": "artifact", "file": "history.csv", "folder": None},
        {"kind": "metrics", "step": 2, "values": {"time/total": 3.0}},
        {"kind": "artifact", "file": "result.json", "folder": None},
        {"kind": "artifact", "file": "run.log", "folder": None},
        {"kind": "end", "status": "FINISHED"},
    ]  # fmt: skip
    result = read_result(path)
    assert result is not None
    assert (result.status, result.epochs, result.test) == ("finished", 2, {"accuracy": 0.75})
    assert result.best == {"epoch": 1, "val/loss": 1.0, "val/accuracy": 0.5}
    assert len((path / "history.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("error", "status", "ends"),
    [
        (KeyboardInterrupt(), "interrupted", ["KILLED"]),
        (Killed(15), "killed", ["KILLED"]),
        (Pruned("behind"), "pruned", ["KILLED"]),
        (ValueError("no"), "failed", ["FAILED"]),
    ],
    ids=lambda value: str(getattr(value, "args", value)),
)
def test_how_a_run_ends_is_recorded(tmp_path: Path, error: BaseException, status: str, ends: list[str]):
    """The status depends on the exception that ends the block; a pruned run has a tag."""
    with RunDirectory.create(tmp_path, "run") as directory:
        with pytest.raises(type(error)), record_run(directory):
            raise error
        path = directory.path
    assert [event.status for event in of_type(EndEvent, read(path))] == ends
    assert ("tags" in kinds(path)) == (status == "pruned")
    result = read_result(path)
    assert result is not None
    assert result.status == status


def test_the_result_is_final_when_its_delivery_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The uploader may read it at once; the log then has the error's traceback."""
    seen = []
    write = IdempotentJournal.write

    def look(journal: IdempotentJournal, event: Event) -> None:
        if isinstance(event, ArtifactEvent):
            content = (tmp_path / "run" / event.file).read_text()
            seen.append((event.file, '"status": "failed"' in content, "ZeroDivisionError" in content))
        write(journal, event)

    monkeypatch.setattr(IdempotentJournal, "write", look)
    with (
        pytest.raises(ZeroDivisionError),
        RunDirectory.create(tmp_path, "run") as directory,
        record_run(directory),
    ):
        raise ZeroDivisionError("no")
    assert seen == [("result.json", True, False), ("run.log", False, True)]


def test_the_seconds_of_all_processes_are_kept(tmp_path: Path):
    """After each epoch, so that a killed process has recorded most of its own; idle time is not among them."""

    def seconds(path: Path) -> float | None:
        result = read_result(path)
        assert result is not None
        return result.training_seconds

    total = iter([1.0, 4.0, 5.0, 0.5, 8.0])
    clock = lambda: {"start": 0.5, "total": next(total)}  # noqa: E731
    with RunDirectory.create(tmp_path, "run") as directory:
        path = directory.path
        recording = record_run(directory, clock=clock)
        recording.__enter__().epoch(ROWS[:1], 1)
        assert seconds(path) == 3.5
        recording.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        for total_seconds in (4.5, 12.0):
            earlier = directory.read_result().as_resumed(ResumptionRecord())
            record_run(directory, earlier=earlier, clock=clock)
            assert seconds(path) == total_seconds


def test_a_resumed_run_continues_its_journal(tmp_path: Path):
    """Only the resumption and new events follow its end."""
    with RunDirectory.create(tmp_path, "run") as directory:
        with record_run(directory) as record:
            record.epoch(ROWS[:1], 1)
        before = kinds(directory.path)
        earlier = read_result(directory.path)
        assert earlier is not None
        entry = ResumptionRecord(at=5.0, epochs=1, steps=2, overrides=[], exact=True)
        earlier = earlier.model_copy(update={"resumed": [entry], "exact": False})
        with record_run(directory, earlier=earlier) as record:
            record.catch_up(ROWS[:1], 1)
            record.epoch(ROWS, 1)
        path = directory.path
    assert kinds(path) == [*before, "resumed", "metrics", "artifact", "artifact", "end"]
    [resumed] = of_type(ResumedEvent, read(path))
    assert resumed.model_dump(exclude={"kind", "time"}) == {
        "status": "RUNNING", "fingerprint": "f", "at": 5.0, "epochs": 1, "steps": 2, "overrides": [], "exact": False,
    }  # fmt: skip


def test_a_trial_gets_its_test_metrics_later(tmp_path: Path):
    """They follow its end, whose time is kept; if scoring fails, only the drawn files are added."""
    run = write_run(tmp_path / "trial", enabled=False)
    result = {
        "status": "finished", "started": 1, "ended": 2.5, "data": {}, "withholds_test": True,
        "best": {"epoch": 3}, "epochs": 3,
    }  # fmt: skip
    (run / "result.json").write_text(json.dumps(result))
    before = read(run)
    with RunDirectory.open(run) as directory:
        with pytest.raises(ValueError, match="no"), ReopenedRecording(directory):
            raise ValueError("no")
        assert read(run) == before
        with ReopenedRecording(directory) as record:
            record.test({"loss": 0.5})
            record.artifact("plots/confusion_matrix.png", "plots")
    added = [event.model_dump(exclude_unset=True) for event in read(run)[len(before) :]]
    assert [event.get("values") for event in added] == [{"test/loss": 0.5}, None, None, None]
    assert [event.get("file") for event in added] == [None, "plots/confusion_matrix.png", "result.json", None]
    assert added[-1] == {"time": 2500, "status": "FINISHED"} | {"kind": "end"}
    scored = json.loads((run / "result.json").read_text())
    assert (scored["test"], scored["withholds_test"]) == ({"loss": 0.5}, False)


def test_artifacts_are_added_before_the_end(tmp_path: Path):
    """The last `end` is repeated with its time and unknown keys; an open run gets no end."""
    ended, open_run = write_run(tmp_path / "a", enabled=False), write_run(tmp_path / "b", enabled=False, end=False)
    end = b'{"kind": "end", "time": 12, "status": "FAILED", "reason": "x"}\n'
    with (ended / "journal.jsonl").open("ab") as file:
        file.write(end)
    for run in (ended, open_run):
        before = (run / "journal.jsonl").read_bytes()
        with RunDirectory.open(run) as directory:
            add_artifacts(directory, ["plots/visualize/x.png"], wait_seconds=1)
        added = (run / "journal.jsonl").read_bytes().removeprefix(before).splitlines(keepends=True)
        assert json.loads(added[0]) | {"time": 0} == {
            "kind": "artifact", "time": 0, "file": "plots/visualize/x.png", "folder": "plots/visualize",
        }  # fmt: skip
        assert added[1:] == ([end] if run == ended else [])


def test_a_sweep_is_recorded_and_continued(tmp_path: Path):
    """It is started once and resumed afterwards; a finished record with the same table is recognized."""
    for _ in range(2):
        with SweepRecord(tmp_path, ["seed=0,1"], UNTRACKED, {"seed": "0,1"}) as record:
            record.leaderboard("a,b\n", "| a | b |", 0.5)
    body = ["artifact", "note", "metrics", "end"]
    assert kinds(tmp_path) == ["run", "params", *body, "resumed", *body]
    [params] = of_type(ParamsEvent, read(tmp_path))
    assert params.values == {"seed": "0,1"}
    [run] = of_type(RunEvent, read(tmp_path))
    assert (run.tags["overrides"], run.tags["directory"]) == ("seed=0,1", str(tmp_path))
    assert has_leaderboard(tmp_path, "a,b\n")
    assert not has_leaderboard(tmp_path, "a,b,c\n")
    with pytest.raises(KeyboardInterrupt), SweepRecord(tmp_path, [], UNTRACKED, {}):
        raise KeyboardInterrupt
    assert not has_leaderboard(tmp_path, "a,b\n")


@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe", "folder"])
def test_an_irregular_journal_of_a_sweep_is_refused(tmp_path: Path, kind: str):
    """Before a job is trained; what a link points to is neither read nor written."""
    sweep, other = tmp_path / "sweep", tmp_path / "other.txt"
    sweep.mkdir()
    journal = sweep / "journal.jsonl"
    if kind == "pipe":
        os.mkfifo(journal)
    elif kind == "folder":
        journal.mkdir()
    else:
        journal.symlink_to(other)
    if kind == "link":
        other.touch()
    with pytest.raises(RequestError) as raised:
        SweepRecord(sweep, [], UNTRACKED, {})
    assert str(raised.value).startswith(f"{journal}: ")
    assert not has_leaderboard(sweep, "a,b\n")
    assert not other.exists() or not other.read_bytes()


def test_a_pipe_in_place_of_a_leaderboard_is_not_read(tmp_path: Path):
    """Reading it would never end."""
    with SweepRecord(tmp_path, [], UNTRACKED, {}) as record:
        record.leaderboard("a,b\n", "| a | b |", 0.5)
    (tmp_path / "leaderboard.csv").unlink()
    os.mkfifo(tmp_path / "leaderboard.csv")
    assert not has_leaderboard(tmp_path, "a,b\n")


def test_a_sweep_is_described_by_its_first_picture_and_its_table(tmp_path: Path):
    """The tracker gets all pictures, and the description shows the first one above the table."""
    with SweepRecord(tmp_path, [], UNTRACKED, {}) as record:
        record.leaderboard(
            "a,b\n", "| a | b |", 0.5, [tmp_path / "plots" / name for name in ("jobs.png", "x.png")]
        )
    assert [event.file for event in of_type(ArtifactEvent, read(tmp_path))] == [
        "plots/jobs.png", "plots/x.png", "leaderboard.csv",
    ]  # fmt: skip
    [note] = of_type(NoteEvent, read(tmp_path))
    picture, _, table = note.text.partition("\n\n")
    assert "get-artifact?path=plots/jobs.png&run_uuid=" in picture
    assert table == "| a | b |"


def test_a_search_is_recorded_by_the_process_that_has_the_lock(tmp_path: Path):
    """Another process reads its key, but writes nothing meanwhile."""
    with (
        record_study(tmp_path) as first,
        record_study(tmp_path) as second,
    ):
        assert first.take()
        assert not second.take()
        assert first.key == second.key
        first.artifact("trials.csv")
        first.note("| trial |")
        first.metrics({"best/val/loss": 0.5}, step=3)
    assert kinds(tmp_path) == ["run", "artifact", "note", "metrics", "end"]
    with record_study(tmp_path) as third:
        assert third.take()
    assert kinds(tmp_path)[5:] == ["resumed", "end"]
    assert not (tmp_path / ".lock").exists()


def test_a_foreign_line_is_a_request_error(tmp_path: Path):
    """This holds for sweeps, searches and trials to be scored; for added pictures, it is only a warning."""
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    write_sweep_run(sweep, None).close()
    run = write_run(sweep / "trial", enabled=False)
    for folder in (sweep, run):
        with (folder / "journal.jsonl").open("ab") as file:
            file.write(FOREIGN)
    with pytest.raises(RequestError, match="journal.jsonl:2: unknown event"):
        SweepRecord(sweep, [], UNTRACKED, {})
    with pytest.raises(RequestError, match="journal.jsonl:2: unknown event"):
        record_study(sweep)
    with RunDirectory.open(run) as directory:
        with pytest.raises(RequestError, match="journal.jsonl:15: unknown event"):
            ReopenedRecording(directory)
        with pytest.raises(ValueError, match="journal.jsonl:15: unknown event"):
            add_artifacts(directory, ["x.png"], 1)


def test_a_search_needs_the_event_that_names_it(tmp_path: Path):
    """Its key distinguishes its trials from those of other searches."""
    journal = Journal(tmp_path)
    journal.write(ArtifactEvent(file="x"))
    with pytest.raises(RequestError, match="journal.jsonl:1: damaged: it does not begin with a run"):
        record_study(tmp_path)
