"""Sweeps on machines with several GPUs, which are faked: each job gets one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import PATIENCE, SMALL, soak
from support.documents import environment

# A plug-in, loaded in each process before TensorFlow looks for GPUs. It lists as many GPUs as the process may see and
# gives them the value of the variable as their name, which a run records. Computations stay on the CPU.
FAKED = """
import os
from types import SimpleNamespace
import tensorflow as tf
from mnist_exp import plugin

@plugin.metric()
def unused(targets, outputs):
    return 0.0

def listed(kind=None):
    ids = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    return [SimpleNamespace(name=f"/physical_device:GPU:{n}") for n in range(len(ids))] if kind == "GPU" else []

tf.config.list_physical_devices = listed
tf.config.experimental.get_device_details = lambda gpu: {"device_name": os.environ["CUDA_VISIBLE_DEVICES"]}
tf.config.experimental.set_memory_growth = lambda gpu, grows: None
"""
RAY = ("hydra/launcher=ray_local", "+hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.init.num_gpus=2")


def devices_of(folder: Path, *words: str) -> list[str]:
    """Run a sweep of four jobs in which the user allows the GPUs 2 and 5; return the names of the jobs' devices."""
    plugin = folder / "faked.py"
    plugin.write_text(FAKED)
    subprocess.run(
        [sys.executable, "-m", "mnist_exp", "-m", f"--plugin={plugin}", *SMALL, "data=digits", "training.epochs=1",
         "save=[]", "seed=range(4)", *words],
        cwd=folder, env=environment(folder) | {"CUDA_VISIBLE_DEVICES": "2,5"}, check=True, timeout=300 * PATIENCE,
    )  # fmt: skip
    results = [json.loads(file.read_text()) for file in folder.glob("outputs/sweeps/*/*/result.json")]
    return sorted(result["device"]["device"] for result in results)


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"), *map(soak, (("hydra/launcher=submitit_local",), RAY))],
    ids=lambda words: words[0].split("=")[1],
)
def test_jobs_at_once_are_distributed_among_the_gpus_that_the_user_allows(
    tmp_path: Path, launcher: tuple[str, ...]
):
    """No job sees both GPUs, and both are used."""
    devices = devices_of(tmp_path, *launcher)
    assert len(devices) == 4
    assert set(devices) == {"GPU 2", "GPU 5"}
    assert not list(tmp_path.glob("outputs/sweeps/*/.gpu-*"))


@pytest.mark.slow
def test_jobs_one_after_another_see_all_gpus(tmp_path: Path):
    """They run in the process of the sweep, whose choice of devices is final."""
    assert devices_of(tmp_path, "hydra/launcher=joblib", "hydra.launcher.n_jobs=1") == ["GPU 2,5"] * 4
