"""Each event arrives once, wherever the delivery dies and however often it is restarted."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.journals import MODEL, expected, held, write_epoch, write_run

from mnist_exp.runs.events import EndEvent, MetricsEvent, ResumedEvent
from mnist_exp.runs.journal import Journal
from mnist_exp.tracking import mlflow_upload
from mnist_exp.tracking.mlflow_upload import Delivery
from mnist_exp.tracking.store import connect


class Died(BaseException):
    """Raised in place of SIGKILL."""


class Mortal:
    """A client whose last call is carried out without the caller learning of it."""

    def __init__(self, client: Any, calls: int) -> None:
        self._client, self._calls = client, calls

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*words: Any, **named: Any) -> Any:
            answer = getattr(self._client, name)(*words, **named)
            self._calls -= 1
            if self._calls < 0:
                raise Died
            return answer

        return call


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def die_after(
    calls: int, folder: Path, uri: str, monkeypatch: pytest.MonkeyPatch, *, lose_note: bool = False
) -> bool:
    """Deliver until a number of calls to MLflow, then again to the end. Returns whether it died."""
    client = connect(uri)
    with monkeypatch.context() as patched:
        patched.setattr(mlflow_upload, "connect", lambda uri: Mortal(client, calls))
        try:
            Delivery(folder).pending()
            return False
        except Died:
            if lose_note:
                (folder / "delivery.json").unlink(missing_ok=True)
            patched.setattr(mlflow_upload, "connect", lambda uri: client)
            Delivery(folder).pending()
            return True


@pytest.mark.slow
@pytest.mark.parametrize("noted", [True, False])
def test_events_arrive_once_wherever_delivery_dies(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch, noted: bool
):
    """Delivery dies after each call in turn, also if the recorded progress is lost."""
    for calls in count():
        folder = write_run(tmp_path / f"run-{calls}", uri, epochs=1)
        died = die_after(calls, folder, uri, monkeypatch, lose_note=not noted)
        assert held(folder, uri, tmp_path / "fetched") == expected(folder), f"it died after {calls} calls"
        if not died:
            break
    assert calls > 15


def unfound_runs(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(Delivery, "_runs", lambda self, experiment, key: [])


def unfound_models(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(Delivery, "_models", lambda self, experiment, run_id: [])


def times_of_its_own(patched: pytest.MonkeyPatch) -> None:
    real, later = Delivery._deliver_metrics, count()

    def shifted(self: Delivery, run_id: str, event: MetricsEvent) -> None:
        real(self, run_id, event.model_copy(update={"time": event.time + next(later)}))

    patched.setattr(Delivery, "_deliver_metrics", shifted)


@pytest.mark.slow
@pytest.mark.parametrize("break_it", [unfound_runs, unfound_models, times_of_its_own])
def test_duplicates_would_be_detected(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch, break_it: Callable[[pytest.MonkeyPatch], None]
):
    """As a control, duplicates appear without looking up runs and models or without the journal's times."""
    break_it(monkeypatch)
    for calls in count():
        folder = write_run(tmp_path / f"run-{calls}", uri, epochs=1)
        assert die_after(calls, folder, uri, monkeypatch), "it was never seen"
        try:
            assert held(folder, uri, tmp_path / "fetched") == expected(folder)
        except AssertionError:
            break


def test_a_journal_that_lost_lines(tmp_path: Path, uri: str):
    """Lines lost in a power cut after delivery are not confused with the new lines."""
    folder = write_run(tmp_path / "run", uri)
    Delivery(folder).pending()
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal.jsonl").write_bytes(b"".join(lines[:-3]))
    Journal(folder).write(EndEvent(status="KILLED"))
    Delivery(folder).pending()
    found = held(folder, uri, tmp_path / "fetched")
    assert (found["runs"], found["status"]) == (1, "KILLED")
    assert found["metrics"] == expected(folder)["metrics"]


def test_a_request_that_is_carried_out_late(tmp_path: Path, uri: str):
    """The duplicates that a frozen server creates later are removed."""
    folder = write_run(tmp_path / "run", uri, end=False)
    Delivery(folder).pending()
    client = connect(uri)
    [run] = client.search_runs([client.get_experiment_by_name("mnist-exp").experiment_id])
    late = client.create_run(run.info.experiment_id, run.info.start_time, run.data.tags, run.info.run_name)
    client.create_logged_model(run.info.experiment_id, name="model", source_run_id=run.info.run_id)
    Journal(folder).write(EndEvent(status="FINISHED"))
    Delivery(folder).pending()
    assert late.info.run_id != run.info.run_id
    assert held(folder, uri, tmp_path / "fetched") == expected(folder)


def test_a_resumed_run_continues_its_mlflow_run(tmp_path: Path, uri: str):
    """Repeated epochs and the best epoch appear once; the model is the last one."""
    folder = write_run(tmp_path / "run", uri, epochs=3)
    once = {key: [row[0] for row in rows] for key, rows in expected(folder)["metrics"].items()}
    follower = Delivery(folder)
    assert not follower.pending()
    lines = Journal(folder)
    lines.write(ResumedEvent(epochs=1, exact=False, fingerprint="f"))
    assert follower.pending()
    client = connect(uri)
    run_id = follower.run_id()
    assert client.get_run(run_id).info.status == "RUNNING"
    told = client.get_run(run_id).data.tags
    assert (told["resumed"], told["exact"], told["fingerprint"]) == ("1", "False", "f")
    for epoch in (2, 3, 4):
        write_epoch(lines, epoch)
    lines.write(MetricsEvent(step=3, values={"best/epoch": 3}))
    (folder / "model.keras").write_bytes(b"the weights of epoch 4")
    lines.write(MODEL)
    lines.write(EndEvent(status="FINISHED"))
    for deliver in (follower, Delivery(folder)):  # one that knows the lines before, and one that reads them again
        assert not deliver.pending()
    found = held(folder, uri, tmp_path / "fetched")
    assert found["status"] == "FINISHED"
    assert found["times"] == expected(folder)["times"]
    assert found["models"] == expected(folder)["models"]
    steps = {key: [row[0] for row in rows] for key, rows in found["metrics"].items()}
    assert steps == {key: [*rows, 4] if len(rows) == 3 else rows for key, rows in once.items()}
    assert follower.run_id() == run_id


def test_different_values_after_a_resume_are_delivered(tmp_path: Path, uri: str):
    """With other threads, a repeated epoch may have another value: MLflow gets both, in order."""
    folder = write_run(tmp_path / "run", uri, end=False)
    Delivery(folder).pending()
    lines = Journal(folder)
    lines.write(ResumedEvent(epochs=2))
    lines.write(MetricsEvent(step=3, values={"val/loss": 0.25, "time/epoch": 9.0}))
    lines.write(EndEvent(status="FINISHED"))
    Delivery(folder).pending()
    metrics = held(folder, uri, tmp_path / "fetched")["metrics"]
    assert [row[::2] for row in metrics["val/loss"]] == [(1, 1.0), (2, 0.5), (3, 1 / 3), (3, 0.25)]
    assert len(metrics["time/epoch"]) == 3
