"""Record the use of CPU, memory and GPU during a run, with MLflow's monitors.

MLflow's own thread sends its samples to the store directly, and stops at the first failure. Here, they are events
of the journal, delivered like all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Event as Flag
from threading import Lock, Thread
from typing import Any

from mnist_exp.runs.events import Event, MetricsEvent
from mnist_exp.runs.log import warn
from mnist_exp.tracking.store import prepare_environment

PREFIX = "system/"
_INTERVAL = 10.0  # seconds between samples, as in MLflow


class SystemMetrics:
    """Samples the machine's use in a thread until `stop`."""

    def __init__(self, write: Callable[[Event], None], earlier: Sequence[Event]) -> None:
        """Start the thread.

        Args:
            write: Appends an event to the journal.
            earlier: The journal's events so far: a resumed run continues their steps.
        """
        steps = [event.step for event in earlier if isinstance(event, MetricsEvent) and _is_system(event)]
        self._write, self._first = write, max(steps, default=-1) + 1
        self._step = self._first
        self._monitors: list[Any] = []
        self._started, self._stopped, self._lock = Flag(), Flag(), Lock()
        self._thread = Thread(target=self._run, daemon=True, name="system metrics")
        self._thread.start()

    def stop(self) -> None:
        """Stop; nothing is written afterwards. A run that was too short for a sample gets one now."""
        self._started.wait()  # a process that exits while a thread imports MLflow may crash
        with self._lock:
            if self._step == self._first:
                self._sample()
            self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._monitors = _start_monitors()
            interval = _sampling_interval()
        except Exception as error:  # an installation without a monitor's library, for example
            warn(f"tracking.system_metrics: the machine's use cannot be read: {error}")
            return
        finally:
            self._started.set()
        while not self._stopped.wait(interval):
            with self._lock:
                self._sample()

    def _sample(self) -> None:
        """Write a sample, unless the monitors are not ready or not needed any more. The caller holds the lock."""
        if not self._monitors or self._stopped.is_set():
            return
        try:
            values = _read(self._monitors)
            self._write(MetricsEvent(step=self._step, values=values))
            self._step += 1
        except Exception as error:  # of a driver, or of a full disk: the run does not depend on it
            warn(f"tracking.system_metrics: no further samples: {error}")
            self._stopped.set()


def _start_monitors() -> list[Any]:
    """Return the monitors of this machine: that of CPU and memory, and that of its GPUs if it has any."""
    prepare_environment()
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    monitors = [CPUMonitor()]
    for kind in (GPUMonitor, ROCMMonitor):
        try:
            monitors.append(kind())
            break
        except Exception:  # no such GPU, or no library for it: as in MLflow
            continue
    _read(monitors)  # the use of the CPU is measured from one sample to the next
    return monitors


def _sampling_interval() -> float:
    from mlflow.environment_variables import MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL

    return float(MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or _INTERVAL)


def _read(monitors: Sequence[Any]) -> dict[str, float]:
    values: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        values |= {f"{PREFIX}{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
        monitor.clear_metrics()
    return values


def _is_system(event: MetricsEvent) -> bool:
    return any(name.startswith(PREFIX) for name in event.values)
