"""`tracking.system_metrics`: the use of CPU, memory and GPU during a run."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from support.cli import PATIENCE, Cli

from mnist_exp.runs.events import Event, MetricsEvent
from mnist_exp.runs.journal import read
from mnist_exp.tracking import system_metrics
from mnist_exp.tracking.system_metrics import SystemMetrics

NAMES = {
    "system/cpu_utilization_percentage", "system/system_memory_usage_megabytes", "system/system_memory_usage_percentage",
}  # fmt: skip


class Broken:
    """A monitor whose driver fails."""

    def collect_metrics(self) -> None:
        raise RuntimeError("driver")


def test_samples_continue_those_of_an_earlier_process(monkeypatch: pytest.MonkeyPatch):
    """They have MLflow's names; none is written after the end."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    written: list[Event] = []
    sampler = SystemMetrics(
        written.append, [MetricsEvent(step=6, values={"system/cpu_utilization_percentage": 1.0})]
    )
    deadline = time.monotonic() + 30 * PATIENCE
    while len(written) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    sampler.stop()
    steps = [event.step for event in written if isinstance(event, MetricsEvent)]
    assert steps[:3] == [7, 8, 9]
    time.sleep(0.3)
    assert len(written) == len(steps)
    for event in written:
        assert isinstance(event, MetricsEvent)
        assert set(event.values) >= NAMES
        assert 0 <= event.values["system/cpu_utilization_percentage"] <= 100
        assert 0 < event.values["system/system_memory_usage_percentage"] <= 100


def test_a_short_run_has_one_sample():
    """It is taken at its end; no thread is left that could still be importing MLflow when the process exits."""
    written: list[Event] = []
    sampler = SystemMetrics(written.append, [])
    sampler.stop()
    assert "system metrics" not in [thread.name for thread in threading.enumerate()]
    assert [event.model_dump(include={"step"}) for event in written] == [{"step": 0}]


def test_a_failing_driver_ends_the_sampling_only(monkeypatch: pytest.MonkeyPatch):
    """The run continues without samples."""
    monkeypatch.setattr(system_metrics, "_start_monitors", lambda: [Broken()])
    written: list[Event] = []
    sampler = SystemMetrics(written.append, [])
    sampler.stop()
    assert written == []


@pytest.mark.slow
def test_mlflow_gets_the_samples(cli: Cli, home_data: list[str], monkeypatch: pytest.MonkeyPatch):
    """They are in the journal, and change neither weights nor fingerprint."""
    import mlflow

    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    words = ["model=linear", "data.limit=300", "training.epochs=30", *home_data]
    plain = cli(*words, "tracking=none")
    done = cli(*words, "tracking.system_metrics=true")
    assert done.run is not None
    assert (done.result["weights_sha256"], done.result["fingerprint"]) == (
        plain.result["weights_sha256"], plain.result["fingerprint"],
    )  # fmt: skip
    written = [event for event in read(done.run) if isinstance(event, MetricsEvent) and set(event.values) >= NAMES]
    assert written
    client: Any = mlflow.MlflowClient(f"sqlite:///{done.run.parents[1] / 'mlflow.db'}")
    for name in NAMES:
        found = client.get_metric_history(done.result["mlflow_run_id"], name)
        assert [(one.step, one.value) for one in found] == [(event.step, event.values[name]) for event in written]
