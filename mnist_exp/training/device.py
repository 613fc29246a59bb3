"""The device, number of threads and precision of a run, resolved once at its start and recorded."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnist_exp.config.schema import DeviceConfig
from mnist_exp.errors import RequestError
from mnist_exp.text import how_to_install

# Instruction sets that determine which kernels oneDNN selects, by their names in Linux on x86-64 and ARM.
_DISPATCHED = frozenset(
    ("sse4_1", "avx", "avx2", "fma", "avx_vnni", "avx_vnni_int8", "avx512f", "avx512bw", "avx512dq", "avx512vl",
     "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16",
     "asimd", "asimddp", "bf16", "i8mm", "sve", "sve2", "svebf16")
)  # fmt: skip
CPUINFO = Path("/proc/cpuinfo")
_PREFIXES = ("ONEDNN_", "DNNL_")  # prefixes of oneDNN's environment variables; DNNL is its former name
_WITHOUT_EFFECT = ("VERBOSE", "JIT_DUMP", "JIT_PROFILE", "PRIMITIVE_CACHE_CAPACITY")


@dataclass(frozen=True)
class Device:
    """The device of a run."""

    kind: str
    name: str
    threads: int
    precision: str
    cpu_features: tuple[str, ...] = ()
    """The instruction sets that determine which kernels oneDNN selects, sorted."""
    onednn: Mapping[str, str] = field(default_factory=dict)
    """The environment variables that affect this selection."""

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.name}, {threads}, {self.precision}"


def _tensorflow() -> Any:
    import tensorflow

    return tensorflow


def resolve(config: DeviceConfig) -> Device:
    """Select the device and configure TensorFlow for it.

    Raises:
        RequestError: A GPU was requested but none is visible, or TensorFlow is already running in this process
            with other settings, which cannot change after its first operation.
    """
    tf = _tensorflow()
    gpus = [] if config.kind == "cpu" else visible_gpus()
    if config.kind == "gpu" and not gpus:
        version = importlib.metadata.version("tensorflow")
        built = "built with" if tf.test.is_built_with_cuda() else "built without"
        driver = Path("/proc/driver/nvidia/version").exists()
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise RequestError(
            "device.kind=gpu: no GPU is visible. Checked: "
            f"TensorFlow's list of GPUs (empty; tensorflow {version}, {built} CUDA), "
            f"an NVIDIA driver ({'loaded' if driver else 'not loaded'}), "
            f"CUDA_VISIBLE_DEVICES ({'not set' if shown is None else repr(shown)}). "
            f"To use a GPU, {how_to_install('gpu')}"
        )
    threads = available_cores() if config.threads == "auto" else config.threads
    _configure(tf, gpus, threads, deterministic=config.deterministic)
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        capability = details.get("compute_capability", (0, 0))
        fast = tuple(capability) >= (8, 0)  # Ampere, the first generation with bfloat16
        name = f"GPU {details.get('device_name', gpus[0].name)}"
        return Device("gpu", name, threads, _precision(config, fast), cpu_features(), onednn_settings())
    precision = _precision(config, cpu_computes_in_bfloat16())
    return Device("cpu", "CPU", threads, precision, cpu_features(), onednn_settings())


def leave_gpus_alone() -> None:
    """Compute on the CPU, with TensorFlow's default number of threads.

    Has no effect if TensorFlow is already initialized.
    """
    with suppress(RuntimeError):
        _tensorflow().config.set_visible_devices([], "GPU")


def visible_gpus() -> list[Any]:
    """Return the GPUs that TensorFlow lists."""
    return list(_tensorflow().config.list_physical_devices("GPU"))


def gpu_ids() -> tuple[str, ...]:
    """Return the GPUs that this process may use, as entries for `CUDA_VISIBLE_DEVICES`, which it respects."""
    gpus, given = visible_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")
    ids = map(str, range(len(gpus))) if given is None else (text.strip() for text in given.split(","))
    return tuple(ids)[: len(gpus)]


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def halves_batches() -> bool:
    """Return whether the halves of a batch can be computed in parallel: on a CPU, with several threads."""
    tf = _tensorflow()
    return not tf.config.get_visible_devices("GPU") and tf.config.threading.get_inter_op_parallelism_threads() != 1


def cpu_computes_in_bfloat16(cpuinfo: Path = CPUINFO) -> bool:
    """Return whether the CPU has bfloat16 instructions; without them, bfloat16 is slower than float32."""
    return "avx512_bf16" in _cpu_flags(cpuinfo)


def cpu_features(cpuinfo: Path = CPUINFO) -> tuple[str, ...]:
    """Return the CPU's instruction sets that oneDNN selects kernels for; empty if the system lists none."""
    return tuple(sorted(_DISPATCHED & _cpu_flags(cpuinfo)))


def onednn_settings() -> dict[str, str]:
    """Return the environment variables that affect the choice of kernels and therefore the exact results."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name == "TF_ENABLE_ONEDNN_OPTS"
        or (name.startswith(_PREFIXES) and not name.partition("_")[2].startswith(_WITHOUT_EFFECT))
    }


def _cpu_flags(cpuinfo: Path) -> set[str]:
    """Return the flags of the first CPU that `/proc/cpuinfo` lists."""
    try:
        text = cpuinfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return set()
    return set(next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "").split())


def _precision(config: DeviceConfig, fast_bfloat16: bool) -> str:
    if config.precision != "auto":
        return config.precision
    return "bfloat16" if fast_bfloat16 else "float32"


def _configure(tf: Any, gpus: list[Any], threads: int, *, deterministic: bool) -> None:
    """Configure TensorFlow, once per process. Raises `RequestError` if it already runs with other settings."""
    try:
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        if not gpus:
            tf.config.set_visible_devices([], "GPU")
        # Leave one thread for the other half of the batch.
        tf.config.threading.set_intra_op_parallelism_threads(max(1, threads - 1))
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError as error:
        raise RequestError(
            f"device.threads={threads}: TensorFlow is already running in this process with other settings "
            f"({tf.config.threading.get_inter_op_parallelism_threads()} threads); "
            "jobs with different device settings need separate processes"
        ) from error
    if deterministic:
        tf.config.experimental.enable_op_determinism()
