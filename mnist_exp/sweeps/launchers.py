"""Run a sweep's jobs with one of Hydra's launchers."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mnist_exp.config.hydra_adapter import ConfigLoader, config_loader
from mnist_exp.config.overrides import Request
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.errors import Problem, RequestError, first_line
from mnist_exp.runs import signals
from mnist_exp.runs.log import warn
from mnist_exp.sweeps.grid import chosen_launcher, compose_with_hydra, names_code, resolve_launcher
from mnist_exp.sweeps.local_workers import ending_local_workers
from mnist_exp.training.device import available_cores, gpu_ids

_RAY_SECONDS = 15.0  # how long to wait for a cluster to respond
# Ray's servers speak gRPC, over HTTP/2: a client sends these bytes first, and the server a frame of this type.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4


def launch(
    request: Request, directory: Path, jobs: int, function: Callable[[Any], Any], at_once: int | None
) -> Iterator[list[Any]]:
    """Call `function` once per job; yield a list of the returned values for each batch, in the order of the jobs.

    The launcher (`hydra/launcher=…`) only distributes jobs and composes no configs: `function` learns from
    `job_number` which job to run.

    Args:
        request: The request for the whole sweep.
        directory: The folder for the launcher's own files.
        jobs: The number of jobs.
        function: Must not raise, and must be importable by name, because some launchers run it in other processes.
        at_once: The number of jobs per batch; None for all.

    Raises:
        Exception: The launcher's own error if a worker dies. Other jobs may have died too, or still be running.
    """
    quoted = str(directory).replace("\\", "\\\\").replace("'", "\\'")
    request = replace(request, overrides=(*request.overrides, f"hydra.sweep.dir='{quoted}'"))
    with _composed_launcher(request) as (loader, master):
        _request_gpus(master)
        HydraConfig.instance().set_config(master)
        launcher = loader.make_launcher(master, function)
        numbers = iter(range(jobs))
        while batch := list(islice(numbers, at_once)):
            returned = launcher.launch([[] for _ in batch], initial_job_idx=batch[0])
            yield [done.return_value for done in returned]


def refuse_unusable(request: Request, launcher: Mapping[str, Any]) -> None:
    """Raise `RequestError` if a sweep's launcher cannot start jobs here. Creates nothing.

    The connection to a Ray cluster is kept, for the launcher to use.
    """
    if _launcher_class(launcher) not in ("JoblibLauncher", "RayLauncher", "SlurmLauncher"):
        return  # the others work everywhere, and composing takes time
    with _composed_launcher(request) as (_, master):
        launcher = resolve_launcher(master.hydra.launcher)
        key, why = f"hydra/launcher={chosen_launcher(master)}", ""
        match _launcher_class(launcher):
            case "JoblibLauncher" if launcher.get("n_jobs") == 0:
                key, why = (
                    "hydra.launcher.n_jobs",
                    "must be a number of workers, or negative (-1: one per core), found 0",
                )
            case "JoblibLauncher" if int(launcher.get("n_jobs") or 0) > (cores := available_cores()):
                warn(
                    f"hydra.launcher.n_jobs={launcher['n_jobs']}: more workers than the {cores} available cores "
                    "take more memory and are no faster"
                )
            case "SlurmLauncher" if shutil.which("srun") is None:
                why = "srun not found: Slurm jobs cannot be submitted from this machine"
            case "RayLauncher":
                try:
                    if (given := _ray_address(launcher["ray"]["init"])) is not None:
                        _connect(given)
                    _start_ray(launcher["ray"]["init"])
                except Exception as error:  # many types: a refused connection, a wrong token, a full disk
                    address = given or launcher["ray"]["init"].get("address")
                    why = f"no Ray cluster at address {address}: {first_line(error)}"
        if why:
            raise RequestError(
                [Problem("unusable", COMMAND_LINE, f"{key}: {why}", key.split("=")[0])], "this sweep"
            )


def _ray() -> Any:
    import ray

    return ray


def _start_ray(init: Mapping[str, Any]) -> None:
    """Connect to a Ray cluster, or start one, unless that was done before.

    Signals keep their effect. Ray's own handler for SIGTERM raises `SystemExit`, which can be lost.
    """
    if (ray := _ray()).is_initialized():
        return
    try:
        with signals.raised(), signals.seen_despite_other_handlers():
            ray.init(**init)
    finally:
        if hasattr(signal, "alarm"):  # not on Windows
            signal.alarm(0)  # Ray's handler in C++ would abort the process three seconds after a signal


def _request_gpus(master: DictConfig) -> None:
    """Let Ray give each job a GPU, if the cluster has any, unless the number of GPUs per job is set."""
    launcher = master.hydra.launcher
    if _launcher_class(launcher) == "RayLauncher" and launcher.ray.remote.get("num_gpus", 0) is None:
        has_gpus = master.device.kind != "cpu" and _ray().cluster_resources().get("GPU", 0) > 0
        launcher.ray.remote.num_gpus = int(has_gpus)


def _ray_address(init: Mapping[str, Any]) -> str | None:
    """Return the address of the cluster that Ray would connect to; None if it would start one of its own."""
    address = init.get("address")
    if address in (None, "auto"):
        address = os.environ.get("RAY_ADDRESS") or None
    return None if address in (None, "auto", "local") else str(address)


def _connect(address: str) -> None:
    """Raise `OSError` unless a server like Ray's responds at an address; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_RAY_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return  # the server does not respond without Ray's certificates
            connection.sendall(_PREFACE)
            frame = connection.recv(9)
        if frame[3:4] != bytes([_SETTINGS]):
            raise OSError("the server there is not Ray")


@contextmanager
def _composed_launcher(request: Request) -> Iterator[tuple[ConfigLoader, DictConfig]]:
    """Yield Hydra's loader and the config including Hydra's own settings. Raises `RequestError`."""
    with config_loader(request.config_dir) as loader:
        master = compose_with_hydra(loader, request)
        assert master is not None
        # Resolved: an interpolation may refer to code named elsewhere in the config.
        if names_code(resolve_launcher(master.hydra.launcher)):
            raise RequestError("hydra.launcher: a config must not name code to run")
        yield loader, master


def ending_workers(launcher: Mapping[str, Any]) -> AbstractContextManager[None]:
    """At the end of the block, end the workers that the launcher would leave running."""
    blocks = {"LocalLauncher": ending_local_workers, "RayLauncher": _disconnecting_from_ray}
    return blocks.get(_launcher_class(launcher), nullcontext)()


@contextmanager
def _disconnecting_from_ray() -> Iterator[None]:
    """At the end of the block, disconnect from the cluster, and end it if it was started for this sweep."""
    try:
        yield
    finally:
        if ray := sys.modules.get("ray"):
            with signals.held():
                ray.shutdown()


def job_number() -> int:
    """Return the number, from 0, of the job that this process runs."""
    return int(HydraConfig.get().job.num)


def gpus_to_share(launcher: Mapping[str, Any], kind: str, cores: int) -> tuple[str, ...]:
    """Return the GPUs among which the processes of a launcher on this machine are distributed.

    Empty if there are fewer than two, if the device must be the CPU (`kind`), and for launchers that run one job
    at a time or distribute GPUs themselves.
    """
    engine = _launcher_class(launcher)
    shares = engine == "LocalLauncher" and not launcher.get("gpus_per_node")
    shares |= engine == "JoblibLauncher" and _joblib_workers(launcher, cores) > 1
    gpus = gpu_ids() if shares and kind != "cpu" else ()
    return gpus if len(gpus) > 1 else ()


def _joblib_workers(launcher: Mapping[str, Any], cores: int) -> int:
    workers = int(launcher.get("n_jobs") or cores)
    return workers if workers > 0 else max(1, cores + 1 + workers)


def threads_per_job(launcher: Mapping[str, Any], cores: int) -> int | None:
    """Return the cores per job of a launcher that runs several jobs at once; None if it runs one at a time."""
    engine = _launcher_class(launcher)
    if engine == "JoblibLauncher":
        return max(1, cores // _joblib_workers(launcher, cores))
    if engine == "RayLauncher":
        return max(1, int(launcher["ray"]["remote"].get("num_cpus") or 1))
    if engine in ("LocalLauncher", "SlurmLauncher"):
        return max(1, int(launcher.get("cpus_per_task") or 1))
    return None


def jobs_at_once(launcher: Mapping[str, Any], batch: int | None, cores: int) -> int | None:
    """Return the number of jobs per batch; None if one batch contains all jobs.

    Submitit's local launcher starts all jobs of a batch at once, so its batches are limited by the cores.
    """
    if batch is None and _launcher_class(launcher) == "LocalLauncher":
        return max(1, cores // (threads_per_job(launcher, cores) or 1))
    return batch


def _launcher_class(launcher: Mapping[str, Any]) -> str:
    """Return the class name of a launcher."""
    return str(launcher.get("_target_", "")).split(".")[-1]
