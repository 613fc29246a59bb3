"""The device is selected at the start, and a missing one is reported."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tensorflow as tf

from mnist_exp.config.schema import DeviceConfig
from mnist_exp.errors import RequestError
from mnist_exp.training import device


def config(**changes: Any) -> DeviceConfig:
    return DeviceConfig(
        **{"kind": "auto", "precision": "auto", "threads": "auto", "deterministic": True, **changes}
    )


@pytest.fixture
def faked_gpu(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Fake a GPU in TensorFlow's list and record the settings."""
    gpu, done = SimpleNamespace(name="/physical_device:GPU:0"), []
    details = {"device_name": "Test GPU", "compute_capability": (8, 0)}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [gpu] if kind == "GPU" else [])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: details)
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda *set_: done.append(set_))
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *set_: done.append(set_))
    return [gpu, details, done]


@pytest.mark.parametrize("kind", ["auto", "gpu"])
def test_a_visible_gpu_is_taken(faked_gpu: list[Any], kind: str):
    """It is named and has memory growth; it uses bfloat16 if it supports that."""
    gpu, details, done = faked_gpu
    found = device.resolve(config(kind=kind))
    assert (found.kind, found.name, found.precision) == ("gpu", "GPU Test GPU", "bfloat16")
    assert done == [(gpu, True)]
    details["compute_capability"] = (7, 5)
    assert device.resolve(config(kind=kind)).precision == "float32"


def test_gpus_have_the_ids_that_cuda_knows(monkeypatch: pytest.MonkeyPatch):
    """Those that the user allows, in that order, else all; invalid ones, from which CUDA sees no GPU, are left out."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a", "b"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert device.gpu_ids() == ("0", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-8932f937,-1,0")
    assert device.gpu_ids() == ("5", "GPU-8932f937")


def test_the_cpu_can_be_asked_for(faked_gpu: list[Any]):
    """A visible GPU is then hidden."""
    assert device.resolve(config(kind="cpu")).kind == "cpu"
    assert faked_gpu[2] == [([], "GPU")]


def test_a_missing_gpu_is_reported(monkeypatch: pytest.MonkeyPatch):
    """The message has what was checked, and the command that installs GPU support."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(RequestError) as caught:
        device.resolve(config(kind="gpu"))
    for words in (
        "no GPU is visible",
        "NVIDIA driver",
        "CUDA_VISIBLE_DEVICES ('3')",
        "pip install '.[gpu]' in a clone",
    ):
        assert words in str(caught.value)


def test_auto_without_a_gpu_is_the_cpu(monkeypatch: pytest.MonkeyPatch):
    """It has as many threads as this process may use cores."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    found = device.resolve(config())
    assert (found.kind, found.threads) == ("cpu", device.available_cores())
    assert str(found).startswith(f"CPU, {found.threads} thread")


def test_precision_follows_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """bfloat16 is only used if the processor has it; a requested precision is kept."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu avx512f avx512_bf16 amx_bf16\n")
    assert device.cpu_computes_in_bfloat16(cpuinfo)
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu avx512f avx512_bf16x\n")
    assert not device.cpu_computes_in_bfloat16(cpuinfo)
    assert not device.cpu_computes_in_bfloat16(tmp_path / "nope")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    for can, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(device, "cpu_computes_in_bfloat16", lambda can=can: can)
        assert device.resolve(config()).precision == precision
        assert device.resolve(config(precision="float32")).precision == "float32"


def test_what_selects_onednns_code_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The instruction sets it knows, on x86-64 and ARM, and variables that can change bits, not those that print."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu avx2 avx ht\n")
    assert device.cpu_features(cpuinfo) == ("avx", "avx2")
    cpuinfo.write_text("processor : 0\nFeatures\t: fp asimd sve aes\n")
    assert device.cpu_features(cpuinfo) == ("asimd", "sve")
    assert device.cpu_features(tmp_path / "nope") == ()
    for name in ("TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA", "ONEDNN_VERBOSE", "DNNL_DEFAULT_FPMATH_MODE"):
        monkeypatch.setenv(name, "1")
    names = ["DNNL_DEFAULT_FPMATH_MODE", "ONEDNN_MAX_CPU_ISA", "TF_ENABLE_ONEDNN_OPTS"]
    assert device.onednn_settings() == dict.fromkeys(names, "1")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    found = device.resolve(config())
    assert (found.cpu_features, list(found.onednn)) == (device.cpu_features(), names)


def test_other_threads_in_the_same_process_are_refused(monkeypatch: pytest.MonkeyPatch):
    """TensorFlow fixes them with its first operation, so other weights would result."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    device.resolve(config())
    tf.constant(1) + tf.constant(1)
    device.resolve(config())
    with pytest.raises(RequestError, match="separate processes"):
        device.resolve(config(threads=device.available_cores() + 1))


@pytest.mark.parametrize(("threads", "operation"), [(4, 3), (2, 1), (1, 1)])
def test_an_operation_leaves_a_core_to_the_other_half_of_the_batch(
    monkeypatch: pytest.MonkeyPatch, threads: int, operation: int
):
    """`device.threads` is the total: a single operation uses one thread fewer, but at least one."""
    found: dict[str, int] = {}
    for kind in ("intra", "inter"):
        name = f"set_{kind}_op_parallelism_threads"
        monkeypatch.setattr(tf.config.threading, name, lambda count, kind=kind: found.update({kind: count}))
    device.resolve(config(kind="cpu", threads=threads))
    assert found == {"intra": operation, "inter": threads}
